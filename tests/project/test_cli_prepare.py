"""`llm-scratch prepare`: texts into a token file."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest

from llm_scratch.cli import main
from llm_scratch.text.corpora import load_text
from llm_scratch.text.token_file import TokenFile
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2Tokenizer


@pytest.fixture
def mine(tmp_path):
    """The file of a small tokenizer."""
    path = tmp_path / "mine.json"
    BytePairTokenizer.train("the cat the hat", 260, progress=False).save(path)
    return str(path)


def test_prepare_takes_a_named_text(capsys, tmp_path):
    out = tmp_path / "tide.bin"
    assert main(["prepare", "the-tide-clock", "--out", str(out)]) == 0
    file = TokenFile(out)
    assert GPT2Tokenizer().decode(file.tokens) == load_text("the-tide-clock")
    said = capsys.readouterr().out
    assert f"{out}: {len(file):,} tokens in 1 document, " in said
    assert "bytes per token, vocabulary of 50,257\n" in said


def test_prepare_takes_files_and_folders_and_a_tokenizer(capsys, tmp_path, mine):
    folder = tmp_path / "two short files"
    folder.mkdir()
    (folder / "a.txt").write_text("One.", encoding="utf-8")
    (folder / "b.txt").write_text("Two.", encoding="utf-8")
    (tmp_path / "c.txt").write_text("the cat", encoding="utf-8")
    out = str(tmp_path / "t.bin")
    texts = [str(folder), str(tmp_path / "c.txt")]
    assert main(["prepare", *texts, "--out", out, "--tokenizer", mine]) == 0
    file = TokenFile(out)
    assert file.vocab_size == 260
    assert file.tokenizer.decode(file.tokens) == "".join(
        f"{text}{END_OF_TEXT}" for text in ("One.", "Two.", "the cat")
    )
    assert "in 3 documents" in capsys.readouterr().out


def test_prepare_says_which_texts_are_empty(capsys, tmp_path, mine):
    (tmp_path / "a.txt").write_text("One.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n", encoding="utf-8")
    command = ["prepare", str(tmp_path), "--out", str(tmp_path / "t.bin"), "--tokenizer", mine]
    with pytest.warns(UserWarning, match=r"left out 1 empty of 2 texts: text 2 \("):
        assert main(command) == 0
    assert main([*command, "--empty", "raise"]) == 2
    assert "b.txt) is empty; leave it out" in capsys.readouterr().err


def test_prepare_verify_reads_the_file_through(capsys, tmp_path, mine):
    out = tmp_path / "t.bin"
    command = ["prepare", "--out", str(out), "--verify"]
    (tmp_path / "a.txt").write_text("the cat", encoding="utf-8")
    assert main([*command, str(tmp_path / "a.txt"), "--tokenizer", mine]) == 0
    assert capsys.readouterr().out.endswith("t.bin: whole, as it was written\n")
    assert main(command) == 0
    data = bytearray(out.read_bytes())
    data[130] ^= 1
    out.write_bytes(data)
    assert main(command) == 2
    assert "was changed since it was written" in capsys.readouterr().err


def texts_in(path):
    file = TokenFile(path)
    return file.tokenizer.decode(file.tokens).split(END_OF_TEXT)


@pytest.mark.parametrize("command", ["prepare", "tokenizer train"])
def test_patterns_and_folders_give_their_texts(capsys, tmp_path, monkeypatch, mine, command):
    for name in ("b.txt", "a.txt", "deep/C.TXT", "deep/d.csv", "[e].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"the {name}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for words, texts in (
        (["?.txt"], ["the a.txt", "the b.txt"]),
        (["**/[a-c].txt", "deep"], ["the a.txt", "the b.txt", "the deep/C.TXT"]),
        (["[e].txt"], ["the [e].txt"]),
    ):
        if command == "prepare":
            assert main(["prepare", *words, "--out", "t.bin", "--tokenizer", mine]) == 0
            assert [text for text in texts_in("t.bin") if text] == texts
        else:
            words = [*command.split(), *words, "--vocab-size", "260", "--out", "new.json"]
            assert main(words) == 0
            learned = BytePairTokenizer.train(texts, 260, progress=False)
            assert BytePairTokenizer.load("new.json").merges == learned.merges
    capsys.readouterr()
    assert main([*command.split(), "*.text"]) == 2
    assert "no file matches *.text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "the cat"}\n\n{"text": "the\u2028hat"}\n'),
        ("a.JSON", '["the cat", {"text": "the\u2028hat", "id": 3}]'),
        ("a.csv", 'id,text\n1,the cat\n2,"the\u2028hat"\n'),
        ("a.tsv", "Text\nthe cat\nthe\u2028hat\n"),
    ],
)
def test_texts_of_a_file_of_rows_are_documents(capsys, tmp_path, mine, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8-sig", newline="")
    out = tmp_path / "t.bin"
    words = [str(tmp_path / name), "--out", str(out), "--tokenizer", mine]
    assert main(["prepare", *words]) == 0
    assert texts_in(out) == ["the cat", "the\u2028hat", ""]
    learned = BytePairTokenizer.train(tmp_path / name, 260, progress=False)
    assert learned.merges == BytePairTokenizer.train(["the cat", "the\u2028hat"], 260).merges
    assert "in 2 documents" in capsys.readouterr().out


def test_rows_without_text_are_named(capsys, tmp_path, mine):
    path, out = tmp_path / "a.jsonl", tmp_path / "t.bin"
    path.write_text('{"text": "the cat"}\n{"content": "the hat"}\n', encoding="utf-8")
    command = ["prepare", str(path), "--out", str(out), "--tokenizer", mine]
    assert main(command) == 2
    assert f"{path}: line 2 has no text under 'text'; it has 'content'" in capsys.readouterr().err
    path.write_text('{"text": "the cat"}\n{"text": " "}\n', encoding="utf-8")
    left_out = re.escape(f"left out 1 empty of 2 texts: text 2 ({path}: line 2)")
    with pytest.warns(UserWarning, match=left_out):
        assert main(command) == 0
    capsys.readouterr()
    path.write_text('{"text": "the cat"}\n{"text": "the \\ud83d hat"}\n', encoding="utf-8")
    assert main(command) == 2
    assert f"{path}: line 2: 'text' has a lone surrogate" in capsys.readouterr().err


def test_tokenizer_train_refuses_a_folder_as_its_file_before_it_learns(capsys, tmp_path):
    assert main(["tokenizer", "train", "the-tide-clock", "--out", str(tmp_path)]) == 2
    assert "is a folder; give the name of a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no text to prepare: give files, folders or names"),
        (["none.txt"], "none.txt is missing"),
        (["folder/none.txt"], "no text at folder/none.txt"),
        (["--verify", "--out", "none.bin"], "no token file at none.bin"),
        (["the-tide-clock", "--tokenizer", "none.json"], "no tokenizer at none.json"),
    ],
)
def test_prepare_refuses_in_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cats(tmp_path):
    """A folder of texts."""
    folder = tmp_path / "cats"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"the cat {number} " * 40, encoding="utf-8")
    return str(folder)


def test_prepare_makes_one_part_after_the_other_or_all(capsys, tmp_path, mine, cats):
    one, several, all_at_once = tmp_path / "one", tmp_path / "several", tmp_path / "all"
    words = ["prepare", cats, "--tokenizer", mine, "--out"]
    assert main([*words, str(one)]) == 0
    for part in (3, 1, 2):
        assert main([*words, str(several), "--part", f"{part}/3"]) == 0
    capsys.readouterr()
    assert main([*words, str(several), "--part", "2/3"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r".*part-00002-of-00003\.tokens: \d+ tokens, there already\n", said)
    assert main([*words, str(all_at_once), "--parts", "3", "--verify"]) == 0
    said = capsys.readouterr().out
    assert said.count("-of-00003.tokens: ") == 3
    assert f"{all_at_once}: {len(TokenFile(one)):,} tokens in 3 documents, " in said
    assert said.endswith(f"{all_at_once}: whole, as it was written\n")
    for folder in (several, all_at_once):
        assert TokenFile(folder).tokens.tolist() == TokenFile(one).tokens.tolist()


def test_prepare_verify_names_the_part_that_was_changed(capsys, tmp_path, mine, cats):
    out = tmp_path / "parts"
    assert main(["prepare", cats, "--tokenizer", mine, "--out", str(out), "--parts", "3"]) == 0
    path = out / "part-00002-of-00003.tokens"
    data = bytearray(path.read_bytes())
    data[140] ^= 1
    path.write_bytes(data)
    assert main(["prepare", "--verify", "--out", str(out)]) == 2
    assert f"{path} was changed since it was written" in capsys.readouterr().err


def test_prepare_takes_the_field_of_rows(capsys, tmp_path, mine):
    path, out = tmp_path / "a.jsonl", tmp_path / "t.bin"
    path.write_text('{"text": "no", "body": "the cat"}\n{"body": "the hat"}\n', encoding="utf-8")
    words = ["prepare", str(path), "--tokenizer", mine, "--field", "body", "--out"]
    assert main([*words, str(out)]) == 0
    assert texts_in(out) == ["the cat", "the hat", ""]
    assert main([*words, str(tmp_path / "parts"), "--parts", "2"]) == 0
    assert texts_in(tmp_path / "parts") == ["the cat", "the hat", ""]
    assert main(["prepare", str(path), "--out", str(out)]) == 2
    assert "line 2 has no text under 'text'; it has 'body'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "0/3"], "'0/3' must be like 1/8"),
        (["--part", "4/3"], "'4/3' must be like 1/8"),
        (["--part", "2"], "'2' must be like 1/8"),
        (
            ["--part", "1/3", "--parts", "3"],
            "--part makes one part, --parts and --workers make",
        ),
        (["--part", "1/3", "--workers", "2"], "--part makes one part, --parts and --workers make"),
        (["--parts", "0"], "parts=0 must be 1 or more"),
        (["--workers", "-1"], "must be 1 or more"),
        (["--parts", "2", "--bare-ids"], "--bare-ids makes one file"),
        (["--field", "body"], "--field body is for files of rows, such as .jsonl; none is"),
        (["--field", "body", "--bare-ids"], "--field names a field of rows"),
        (["--parts", "2", "--out", "cats/0.txt"], "0.txt is a file; parts need a folder"),
    ],
)
def test_prepare_refuses_parts_in_one_line(capsys, tmp_path, monkeypatch, cats, words, message):
    monkeypatch.chdir(tmp_path)
    status = None
    with suppress(SystemExit):  # by argparse
        status = main(["prepare", cats, *words])
    assert status in (None, 2)
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cats"]
