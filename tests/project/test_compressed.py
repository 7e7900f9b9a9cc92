"""Compressed files are read like the plain ones, or refused with a reason."""

from __future__ import annotations

import gzip
import random
import sys

import pytest

from llm_scratch.compressed import is_compressed, open_bytes, plain_suffix
from llm_scratch.data_files import file_texts
from llm_scratch.files import FileError, Span, open_text
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer

TEXT = "The tide comes in;\r\n na\u00efve \u6f22\u5b57\u2028 and out.\n" * 400
INSTALL = "pip install zstandard brings it"


def packed(kind, data, frames=1):
    """Bytes as a program for this kind writes them, in one piece or in several."""
    size = -(-len(data) // frames)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    if kind == ".gz":
        return b"".join(map(gzip.compress, pieces))
    zstandard = pytest.importorskip("zstandard", reason=INSTALL)
    return b"".join(map(zstandard.ZstdCompressor().compress, pieces))


@pytest.fixture(params=[".gz", ".zst"])
def kind(request):
    return request.param


@pytest.mark.parametrize("frames", [1, 3])
def test_a_compressed_text_is_the_text(tmp_path, kind, frames):
    path = tmp_path / f"a.TXT{kind.upper()}"
    path.write_bytes(packed(kind, b"\xef\xbb\xbf" + TEXT.encode(), frames))
    with open_text(path) as file:
        assert file.read() == TEXT
    with open_bytes(path) as file:
        assert b"".join(iter(lambda: file.read(7), b""))[3:] == TEXT.encode()
    plain = write_tokens(tmp_path / "one", TEXT, BytePairTokenizer([]), progress=False)
    file = write_tokens(tmp_path / "two", path, BytePairTokenizer([]), progress=False)
    assert file.tokens.tolist() == plain.tokens.tolist()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "the tide"}\n\n{"text": "the clock"}\n'),
        ("a.json", '[{"text": "the tide"}, "the clock"]'),
        ("a.json", '{"text": "the tide"}\n{"text": "the clock"}'),
        ("a.csv", "text\nthe tide\nthe clock\n"),
    ],
)
def test_compressed_rows_are_the_rows(tmp_path, kind, name, content):
    path = tmp_path / f"{name}{kind}"
    path.write_bytes(packed(kind, content.encode()))
    assert [text for _, text in file_texts(path)] == ["the tide", "the clock"]


def test_a_compressed_file_of_one_object_over_many_lines(tmp_path, kind):
    path = tmp_path / f"a.json{kind}"
    path.write_bytes(packed(kind, b'{\n "text":\n "the tide"\n}'))
    assert [text for _, text in file_texts(path)] == ["the tide"]


def test_a_damaged_compressed_file_is_refused(tmp_path, kind):
    path, rng = tmp_path / f"a.txt{kind}", random.Random(0)
    data = TEXT.encode()
    whole = packed(kind, rng.randbytes(300).hex().encode() + data)
    cut = [whole[:length] for length in range(1, len(whole), 7)]
    with open_bytes(_written(path, whole)) as file:
        expected = file.read()
    for content in [*cut, b"the text as it is", whole + b"and more"]:
        with (
            pytest.raises(FileError, match="is damaged: "),
            open_text(_written(path, content)) as f,
        ):
            f.read()
    assert len(expected) > len(data)


def _written(path, data):
    path.write_bytes(data)
    return path


def test_bytes_that_are_not_utf8_are_named_in_a_compressed_file(tmp_path, kind):
    path = _written(tmp_path / f"a.txt{kind}", packed(kind, b"fine\nna\xefve\n"))
    with pytest.raises(FileError, match="byte 0xef at position 2 of line 2"), open_text(path) as f:
        f.read()
    _written(path, packed(kind, "\ufefftext".encode("utf-16-le")))
    with pytest.raises(FileError, match="is UTF-16"), open_text(path) as file:
        file.read()


def test_a_small_file_that_unpacks_to_much_is_read_in_pieces(tmp_path, kind):
    path = _written(tmp_path / f"a.txt{kind}", packed(kind, bytes(1 << 26)))
    with open_bytes(path) as file:
        assert len(file.read(1000)) == 1000
        kept = getattr(getattr(file, "raw", None), "_unpacked", b"")
    assert len(kept) < 1 << 27


def test_zstandard_without_its_package_names_it(tmp_path, monkeypatch):
    path = _written(tmp_path / "a.txt.zst", b"x")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    message = r"a\.txt\.zst is compressed with Zstandard; pip install zstandard makes it readable"
    with pytest.raises(ValueError, match=message):
        write_tokens(tmp_path / "t", ["first", path], BytePairTokenizer([]))


def test_plain_suffix_is_of_what_is_inside():
    names = ("a.JSONL.gz", "a.txt.ZST", "a.csv", "a.gz", "a")
    assert [plain_suffix(name) for name in names] == [".jsonl", ".txt", ".csv", "", ""]
    assert [is_compressed(name) for name in names] == [True, True, False, True, False]


def test_a_span_of_a_file_is_read_as_a_file_of_its_own(tmp_path):
    data = b"\xef\xbb\xbf" + TEXT.encode()
    path = _written(tmp_path / "a.txt", data)
    cuts = [0, 3, data.index("\u6f22".encode()), 900, len(data)]
    found = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        with open_text(Span(path, start, stop)) as file:
            found.append(file.read())
    assert "".join(found) == TEXT
    _written(path, "a\ufeffb".encode())  # not at the beginning: a character of the text
    with open_text(Span(path, 1, 5)) as file:
        assert file.read() == "\ufeffb"
    _written(path, b"one\ntwo\nna\xefve")
    with pytest.raises(FileError, match="position 2 of line 3"), open_text(Span(path, 4, 13)) as f:
        f.read()
