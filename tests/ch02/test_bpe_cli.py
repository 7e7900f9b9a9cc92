"""`llm-scratch tokenizer`: train, encode, decode, show."""

from __future__ import annotations

import argparse
import io

import pytest

from llm_scratch.cli import tokenizer as commands
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT


def run(*words: str) -> int:
    """Run one command of the group."""
    parser = argparse.ArgumentParser(prog="llm-scratch")
    commands.add_commands(parser.add_subparsers())
    args = parser.parse_args(["tokenizer", *words])
    return args.run(args)


def test_tokenizer_encode_and_decode_speak_gpt2_by_default(capsys):
    assert run("encode", "Hello, world") == 0
    assert capsys.readouterr().out == "15496 11 995\n"
    assert run("decode", "15496", "11", "995") == 0
    assert capsys.readouterr().out == "Hello, world\n"


def test_tokenizer_reads_from_stdin(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello, world"))
    run("encode", "-")
    monkeypatch.setattr("sys.stdin", io.StringIO("15496 11\n995"))
    run("decode")
    assert capsys.readouterr().out == "15496 11 995\nHello, world\n"


@pytest.mark.parametrize(("special", "count"), [("allow", 1), ("text", 7)])
def test_tokenizer_encode_takes_special_tokens_as_told(capsys, special, count):
    run("encode", END_OF_TEXT, "--special", special)
    assert len(capsys.readouterr().out.split()) == count
    with pytest.raises(ValueError, match="disallowed special token"):
        run("encode", END_OF_TEXT, "--special", "raise")


def test_tokenizer_train_saves_what_the_others_use(capsys, tmp_path):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "mine.json"
    corpus.write_bytes(b"the cat the hat the bat\r\n" * 20)
    assert run("train", str(corpus), "--vocab-size", "262", "--out", str(out)) == 0
    assert f"{out}: 262 tokens, first merges: 'a'+'t'" in capsys.readouterr().out
    tokenizer = BytePairTokenizer.load(out)
    assert tokenizer.name == "mine"
    run("encode", "--file", str(corpus), "--tokenizer", str(out))
    ids = [int(word) for word in capsys.readouterr().out.split()]
    assert tokenizer.decode(ids) == corpus.read_bytes().decode()


def test_tokenizer_train_takes_named_texts_and_special_tokens(capsys, tmp_path):
    out = tmp_path / "tide.json"
    specials = ["--special", "<|a|>", "--special", "<|b|>"]
    run("train", "the-tide-clock", "--vocab-size", "300", "--out", str(out), *specials)
    assert BytePairTokenizer.load(out).special_tokens == {"<|a|>": 298, "<|b|>": 299}


def test_tokenizer_show_prints_tokens_and_merges(capsys):
    run("show", "lower", "--merges")
    out = capsys.readouterr().out
    assert out.startswith("lower\n21037\nl|o|w|e|r\n")
    assert "('l' + 'ower' = token 21037)" in out


@pytest.mark.parametrize("kind", ["save", "to_tokenizer_json", "to_tiktoken"])
def test_tokenizer_option_takes_every_format(capsys, tmp_path, kind):
    tokenizer = BytePairTokenizer.train("the cat the hat", 260)
    path = tmp_path / ("t.tiktoken" if kind == "to_tiktoken" else "t.json")
    getattr(tokenizer, kind)(path)
    run("encode", "the hat", "--tokenizer", str(path))
    assert capsys.readouterr().out.split() == list(map(str, tokenizer.encode("the hat")))


def test_tokenizer_option_says_what_it_takes(tmp_path):
    with pytest.raises(FileNotFoundError, match="give 'gpt2' or the path of a file"):
        run("encode", "x", "--tokenizer", str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerFileError):
        run("encode", "x", "--tokenizer", str(tmp_path / "bad.json"))


@pytest.mark.parametrize("command", ["train", "encode", "decode", "show"])
def test_tokenizer_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        run(command, "--help")
    out = " ".join(capsys.readouterr().out.split())
    assert f"example: llm-scratch tokenizer {command} " in out


def test_tokenizer_without_a_command_shows_the_commands(capsys):
    assert run() == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("train", "encode", "decode", "show"))
