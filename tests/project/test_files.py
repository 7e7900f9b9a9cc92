"""Files: written atomically, and read by one rule wherever texts and JSON are read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle

import pytest

from llm_scratch.files import (
    FileError,
    decode_text,
    file_sha256,
    first_line,
    lines_of,
    open_text,
    parse_json,
    read_json,
    read_text,
    write_json,
    write_text,
    written_whole,
)
from llm_scratch.finetuning.instructions import download_and_load_file
from llm_scratch.finetuning.labelled_rows import read_rows, read_sms
from llm_scratch.judging.records import Records
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.run_folder import RunFolder, read_metrics

BOM = b"\xef\xbb\xbf"
SEPARATORS = "a\u2028b\x85c\x0bd\u2029e"  # where str.splitlines cuts, and JSON does not


def test_written_whole_makes_the_folder_and_leaves_nothing_else(tmp_path):
    with written_whole(tmp_path / "new" / "file") as file:
        file.write(b"all of it")
    assert (tmp_path / "new" / "file").read_bytes() == b"all of it"
    assert os.listdir(tmp_path / "new") == ["file"]


def test_written_whole_leaves_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail():
        with written_whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_write_text_leaves_the_old_file_where_a_surrogate_has_no_bytes(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud83d")
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_texts_come_back_with_their_line_ends(tmp_path):
    text = f"é\r\n{SEPARATORS}\n\rend"
    write_text(tmp_path / "file", text)
    assert (tmp_path / "file").read_bytes() == text.encode()
    assert read_text(tmp_path / "file") == text


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None, SEPARATORS]})
    assert read_json(tmp_path / "a.json") == {"é": [1, None, SEPARATORS]}
    assert (tmp_path / "a.json").read_text(encoding="utf-8").startswith('{\n "é"')


def test_file_sha256_is_that_of_all_bytes(tmp_path):
    data = bytes(range(256)) * 3000
    (tmp_path / "file").write_bytes(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_byte_order_mark_is_no_part_of_a_text(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BOM + b"one\r\n\xef\xbb\xbftwo")
    assert read_text(path) == "one\r\n\ufefftwo"  # inside of a text it is a character
    with open_text(path) as file:
        assert file.read(2) + file.read() == "one\r\n\ufefftwo"
    path.write_bytes(BOM + b"{}")
    assert read_json(path) == {}


def test_byte_order_mark_is_dropped_by_whoever_reads_texts(tmp_path):
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    vocab = tmp_path / "vocab.json"
    BytePairTokenizer([(b"t", b"h")]).to_files(tmp_path / "merges.txt", vocab)
    for content, read in (
        (b"the tide, the tide", lambda p: BytePairTokenizer.train(p, 260, progress=False).merges),
        (b"the tide", lambda p: write_tokens(p.with_suffix(".tok"), p, BytePairTokenizer([]),
                                             progress=False).sha256),
        (b"ham\tthe tide\n", read_sms),
        (b"Label,Text\nham,the tide\n", lambda p: [row[:2] for row in read_rows(p)]),
        (b'[{"a": 1}]', lambda p: download_and_load_file(p, "https://localhost:1/none")),
        (b"#version: 0.2\nt h\n", lambda p: BytePairTokenizer.from_files(p, vocab).merges),
        (b'{"question": "q", "reply": "r"}\n', lambda p: Records(p).reply("q")),
    ):  # fmt: skip
        plain.write_bytes(content)
        marked.write_bytes(BOM + content)
        assert read(marked) == read(plain)
        assert read(plain)


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be"])
def test_utf16_is_called_by_its_name(tmp_path, name):
    path = tmp_path / "file"
    path.write_bytes("\ufeffthe tide".encode(name))

    def piecewise(path):
        with open_text(path) as file:
            file.read(1)

    for read in (read_text, piecewise, read_json, read_sms):
        with pytest.raises(FileError, match="file: is UTF-16, not UTF-8; save it as UTF-8"):
            read(path)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(FileError, match="byte 0xe9 at position 3 of line 1; save it as UTF-8"):
        read_text(path)
    with open_text(path) as file, pytest.raises(UnicodeDecodeError):
        file.read()

    def piecewise():
        with open_text(path) as file:
            file.read()

    with pytest.raises(
        FileError, match="is not UTF-8: byte 0xe9 at position 3 of line 1; save it as UTF-8"
    ):
        piecewise()


def test_lines_end_at_line_feeds_alone():
    assert lines_of(f"one\r\n{SEPARATORS}\n\nlast") == ["one", SEPARATORS, "", "last"]
    assert lines_of("one\n") == ["one"]
    assert lines_of("") == []


def test_log_of_a_run_is_not_cut_inside_of_a_line(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.record(step=1, loss=2.5, note=SEPARATORS)
    folder.add_sample(1, SEPARATORS)
    folder.add_sample(2, "later")
    folder.cut_back(1)
    folder.close()
    assert read_metrics(tmp_path / "run") == [{"step": 1, "loss": 2.5, "note": SEPARATORS}]
    samples = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8")
    assert samples == json.dumps({"step": 1, "text": SEPARATORS}, ensure_ascii=False) + "\n"


def test_log_of_a_run_that_was_killed_ends_at_its_last_whole_line(tmp_path):
    line = json.dumps({"step": 1, "note": "é"}, ensure_ascii=False).encode()
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n" + line[:-3])  # half a character
    assert read_metrics(tmp_path) == [{"step": 1, "note": "é"}]


def test_records_of_a_judge_are_not_cut_inside_of_a_line(tmp_path):
    Records(tmp_path / "records").add("q", SEPARATORS, {"item": 1})
    Records(tmp_path / "records").add("surrogate", "half \ud83d", {})
    kept = Records(tmp_path / "records")
    assert kept.reply("q") == SEPARATORS
    assert kept.reply("surrogate") == "half \ud83d"


class OwnError(FileError):
    """An error class of a caller's own."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "is damaged"),  # deeper than the parser goes
        (b'{"a": 1', "is damaged: .*; download or save it again"),
        (b"[1, 2]", "is damaged: its JSON is not an object"),
        (b'{"a": "\xe9"}', "is not UTF-8: byte 0xe9 at position 7 of line 1"),
        (b" " * 200_000, "has more than 150,000 bytes, too many for such a file"),
    ],
    ids=["deep", "half", "list", "latin", "large"],
)
def test_read_json_refuses(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(OwnError, match=rf"a\.json: {message}"):
        read_json(path, most_bytes=150_000, error=OwnError)


def test_read_json_of_no_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_file_error_says_path_and_hint_also_out_of_another_process():
    error = pickle.loads(pickle.dumps(OwnError("file", "is damaged")))
    assert (type(error), error.path, error.hint) == (OwnError, "file", "is damaged")
    assert str(error) == "file: is damaged"
    assert isinstance(error, ValueError)


def test_decode_text_and_parse_json_name_the_file():
    with pytest.raises(FileError, match="some file: is not UTF-8"):
        decode_text("some file", b"\xff")
    with pytest.raises(FileError, match="some file: is damaged"):
        parse_json("some file", b"{")


def test_first_line_is_never_empty():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
