"""Vocabulary files: whole, in a new process, in every format; damaged ones give one error."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers import bpe_files
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.bpe_vocabulary import BYTE_TOKENS, recover_merges, spell, unspell
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT

TEXT = f"The tide,\r\n the clock: don't é漢🔥\x00 wait.{END_OF_TEXT}  12 End\n"
FORMATS = ("saved", "tokenizer.json", "tiktoken", "openai")
CASES = 300  # damaged files of each format


@pytest.fixture(scope="module")
def tokenizer() -> BytePairTokenizer:
    """A small vocabulary, with tokens that are not UTF-8 by themselves among its merges."""
    text = load_text("the-tide-clock") + "é漢🔥" * 50 + "\x00\x01" * 50
    trained = BytePairTokenizer.train(text, 400, name="tide")
    assert any(not is_utf8(left + right) for left, right in trained.merges)
    return trained


def is_utf8(token: bytes) -> bool:
    try:
        return bool(token.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def write(tokenizer: BytePairTokenizer, kind: str, folder: Path) -> list[Path]:
    """Write a tokenizer in a format, and return its files."""
    if kind == "saved":
        paths = [folder / "t.json"]
        tokenizer.save(*paths)
    elif kind == "tokenizer.json":
        paths = [folder / "tokenizer.json"]
        tokenizer.to_tokenizer_json(*paths)
    elif kind == "tiktoken":
        paths = [folder / "t.tiktoken"]
        tokenizer.to_tiktoken(*paths)
    else:
        paths = [folder / "vocab.bpe", folder / "encoder.json"]
        tokenizer.to_files(*paths)
    return paths


def read(kind: str, paths: list[Path]) -> BytePairTokenizer:
    """Read a tokenizer from the files of a format."""
    return {
        "saved": BytePairTokenizer.load,
        "tokenizer.json": BytePairTokenizer.from_tokenizer_json,
        "tiktoken": BytePairTokenizer.from_tiktoken,
        "openai": BytePairTokenizer.from_files,
    }[kind](*paths)


@pytest.mark.parametrize("kind", FORMATS)
def test_bpe_comes_back_from_every_format(tokenizer, tmp_path, kind):
    again = read(kind, write(tokenizer, kind, tmp_path))
    assert again.merges == tokenizer.merges
    assert again.special_tokens == tokenizer.special_tokens
    assert again.pattern == tokenizer.pattern
    assert again.fingerprint == tokenizer.fingerprint
    assert encode(again, TEXT) == encode(tokenizer, TEXT)


def test_bpe_saved_file_keeps_everything(tmp_path):
    merges = [(b"\xff", b"\xfe"), (b"\n", b"\n"), (b'"', b"\\"), (b"\xff\xfe", b"\x00")]
    made = BytePairTokenizer(merges, {'<"é\n🔥>': 0, "<far>": 900}, r"[\s\S]+", 'a "name"')
    made.save(tmp_path / "t.json")
    again = BytePairTokenizer.load(tmp_path / "t.json")
    for name in ("merges", "special_tokens", "pattern", "name", "fingerprint"):
        assert getattr(again, name) == getattr(made, name)
    content = json.loads((tmp_path / "t.json").read_text(encoding="ascii"))
    assert content["merges"] == [[187, 186], [198, 198], [1, 59], [256, 188]]
    assert content["version"] == 1


@pytest.mark.parametrize("merges", [[], [(b"a", b"b")]])
@pytest.mark.parametrize("specials", [(), (END_OF_TEXT, "<b>")])
@pytest.mark.parametrize("kind", FORMATS)
def test_bpe_formats_hold_the_smallest_vocabularies(tmp_path, kind, merges, specials):
    made = BytePairTokenizer(merges, specials)
    paths = write(made, kind, tmp_path)
    if kind == "tiktoken":
        again = BytePairTokenizer.from_tiktoken(*paths, specials)
    elif kind == "openai":
        again = BytePairTokenizer.from_files(*paths, specials)
    else:
        again = read(kind, paths)
    assert again.fingerprint == made.fingerprint


def test_bpe_loaded_in_a_new_process_gives_equal_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    (tmp_path / "text.txt").write_bytes(TEXT.encode())
    code = (
        "import sys, json\n"
        "from llm_scratch.tokenizers.bpe import BytePairTokenizer\n"
        "from llm_scratch.text.corpora import read_text\n"
        "tokenizer = BytePairTokenizer.load('t.json')\n"
        "print(json.dumps([tokenizer.fingerprint, tokenizer.encode(read_text('text.txt'),"
        " allowed_special='all')]))"
    )
    package = str(Path(bpe_files.__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [tokenizer.fingerprint, encode(tokenizer, TEXT)]


def test_bpe_tiktoken_file_is_the_bundled_one_for_gpt2(tmp_path):
    BytePairTokenizer.gpt2().to_tiktoken(tmp_path / "gpt2.tiktoken")
    bundled = Path(bpe_files.__file__).parents[1] / "assets" / "gpt2.tiktoken"
    written = (tmp_path / "gpt2.tiktoken").read_bytes()
    assert written == bundled.read_bytes().replace(b"\r\n", b"\n")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -2])
def test_bpe_truncated_file_gives_one_clear_error(tokenizer, tmp_path, kind, keep):
    path = write(tokenizer, kind, tmp_path)[0]
    content = path.read_bytes()
    end = int(keep * len(content)) if isinstance(keep, float) else keep
    path.write_bytes(content[:end])
    with pytest.raises(TokenizerFileError) as error:
        read(kind, [path, tmp_path / "encoder.json"][: 2 if kind == "openai" else 1])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_bpe_damaged_file_loads_or_raises_the_one_error(tokenizer, tmp_path, kind):
    paths = write(tokenizer, kind, tmp_path)
    originals = [path.read_bytes() for path in paths]
    generator = random.Random(0)
    refused = 0
    for _ in range(CASES):
        for path, original in zip(paths, originals, strict=True):
            path.write_bytes(original)
        victim = generator.randrange(len(paths))
        paths[victim].write_bytes(damage(originals[victim], generator))
        try:
            again = read(kind, paths)
        except TokenizerFileError:
            refused += 1
            continue
        again.encode(TEXT, disallowed_special=())
        if kind == "saved":  # only blanks between the values can have changed
            assert again.fingerprint == tokenizer.fingerprint
            assert again.name == tokenizer.name
    assert refused > CASES // 2


def damage(content: bytes, generator: random.Random) -> bytes:
    """Flip, drop, double or insert bytes at a random place."""
    at = generator.randrange(len(content))
    length = generator.choice([1, 1, 2, 10, 1000])
    return generator.choice(
        [
            content[:at] + bytes([content[at] ^ (1 << generator.randrange(8))]) + content[at + 1 :],
            content[:at] + content[at + length :],
            content[:at] + content[at : at + length] + content[at:],
            content[:at] + generator.randbytes(length) + content[at:],
        ]
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"null", b"[]", b"{}", b'"text"', b"[" * 100_000, b'{"version": 1}'],
)
@pytest.mark.parametrize("kind", ["saved", "tokenizer.json"])
def test_bpe_foreign_json_gives_one_clear_error(tmp_path, kind, content):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(TokenizerFileError, match=r"t\.json"):
        read(kind, [tmp_path / "t.json"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "has version 3, this library reads 2; update it"),
        ({"merges": []}, "was changed after it was saved: its checksum is wrong"),
        ({"name": "other"}, "was changed after it was saved"),
        ({"sha256": None}, "was changed after it was saved"),
        ({"format": "other"}, "was not written by BytePairTokenizer.save"),
    ],
)
def test_bpe_edited_file_is_refused(tokenizer, tmp_path, change, message):
    path = tmp_path / "t.json"
    tokenizer.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **change}), encoding="utf-8")
    with pytest.raises(TokenizerFileError, match=message):
        BytePairTokenizer.load(path)


def test_bpe_load_reads_what_was_saved_as_it_came(tokenizer, tmp_path):
    tokenizer.to_tokenizer_json(tmp_path / "tokenizer.json")
    came = BytePairTokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    came.save(tmp_path / "saved.json")
    assert (tmp_path / "saved.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert BytePairTokenizer.load(tmp_path / "saved.json").fingerprint == tokenizer.fingerprint


THROWN = {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Removed", "invert": False}
NO_REGEX = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece"}}, "model.type='WordPiece'"),
        ({"model": {"dropout": 0.1}}, "model.dropout='0.1'"),
        ({"normalizer": {"type": "NFD"}}, "normalizer=.*NFD.*ignore_keys=\\('normalizer',"),
        ({"pre_tokenizer": None}, "splits text by None .pre_tokenizer., which this library"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "splits text by Metaspace"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [THROWN, NO_REGEX]}},
            "pre_tokenizer.behavior='Removed'",
        ),
        ({"added_tokens": [{"id": 0, "content": "x", "lstrip": True}]}, r"added_tokens.lstrip=.*x"),
        ({"added_tokens": []}, "no merge makes token"),
        ({"model": {"vocab": {}}}, "has no id"),
        ({"model": {"merges": []}}, "no merge makes token"),
        ({"model": {"merges": ["a"]}}, "not a complete tokenizer.json"),
    ],
)
def test_bpe_tokenizer_json_of_another_kind_is_refused(tokenizer, tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    tokenizer.to_tokenizer_json(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        merged = isinstance(value, dict) and isinstance(content[key], dict)
        content[key] = {**content[key], **value} if merged else value
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerFileError, match=message):
        BytePairTokenizer.from_tokenizer_json(path)


def test_bpe_tokenizer_json_may_list_merges_as_words(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.to_tokenizer_json(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content), encoding="utf-8")
    again = BytePairTokenizer.from_tokenizer_json(path)
    assert again.recipe[:3] == tokenizer.recipe[:3]
    assert again.fingerprint == tokenizer.fingerprint


def test_bpe_files_that_do_not_belong_together_are_refused(tokenizer, tmp_path):
    vocab_bpe, encoder_json = write(tokenizer, "openai", tmp_path)
    (tmp_path / "other").mkdir()
    other = BytePairTokenizer(tokenizer.merges[:-1])
    other_bpe, other_json = write(other, "openai", tmp_path / "other")
    with pytest.raises(TokenizerFileError, match="has no id"):
        BytePairTokenizer.from_files(vocab_bpe, other_json)
    with pytest.raises(TokenizerFileError, match="no merge makes token"):
        BytePairTokenizer.from_files(other_bpe, encoder_json)


def test_bpe_files_may_have_windows_line_ends(tokenizer, tmp_path):
    for kind in ("tiktoken", "openai"):
        paths = write(tokenizer, kind, tmp_path)
        paths[0].write_bytes(paths[0].read_bytes().replace(b"\n", b"\r\n"))
        assert read(kind, paths).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines[1:], "the first 256 tokens are not the single bytes"),
        (lambda lines: lines[:300] + lines[301:], "is made of|has rank 301 where 300"),
        (lambda lines: [*lines, lines[-1]], "holds a token twice"),
        (lambda lines: [*lines, b"not base64! 400"], "not a complete .tiktoken file"),
        (lambda lines: [*lines, b"YWJj"], "not a complete .tiktoken file"),
    ],
)
def test_bpe_edited_tiktoken_file_is_refused(tokenizer, tmp_path, edit, message):
    (path,) = write(tokenizer, "tiktoken", tmp_path)
    path.write_bytes(b"\n".join(edit(path.read_bytes().splitlines())))
    with pytest.raises(TokenizerFileError, match=message):
        BytePairTokenizer.from_tiktoken(path)


def test_bpe_tiktoken_file_with_a_gap_says_how_to_name_the_special_token(tokenizer, tmp_path):
    made = BytePairTokenizer(tokenizer.merges, {END_OF_TEXT: 300})
    (path,) = write(made, "tiktoken", tmp_path)
    with pytest.raises(TokenizerFileError, match=r"special_tokens=\{'<\|endoftext\|>': 300\}"):
        BytePairTokenizer.from_tiktoken(path)
    again = BytePairTokenizer.from_tiktoken(path, {END_OF_TEXT: 300})
    assert again.fingerprint == made.fingerprint


@pytest.mark.parametrize("kind", FORMATS)
def test_bpe_missing_file_is_a_missing_file(tmp_path, kind):
    with pytest.raises(FileNotFoundError):
        read(kind, [tmp_path / "a", tmp_path / "b"][: 2 if kind == "openai" else 1])


def test_bpe_save_that_fails_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    tokenizer.save(path)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        BytePairTokenizer([]).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["t.json"]


def test_recover_merges_refuses_a_token_that_is_not_made_of_two():
    with pytest.raises(ValueError, match="token 256, b'abc', is made of 3 earlier tokens, not of"):
        recover_merges([*BYTE_TOKENS, b"abc"])
    assert recover_merges([*BYTE_TOKENS, b"bc", b"abc"]) == [(b"b", b"c"), (b"a", b"bc")]


def test_spell_gives_every_byte_a_letter_of_its_own():
    every = bytes(range(256))
    assert unspell(spell(every)) == every
    assert len(set(spell(every))) == 256
    assert spell(every).isprintable()
    assert spell(b" a\n") == "\u0120a\u010a"
    with pytest.raises(ValueError, match="does not stand for a byte"):
        unspell("漢")
