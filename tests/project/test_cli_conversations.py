"""`llm-scratch conversations`, as a user calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conversation_files import GUANACO, TALK, messages_row, share_row

from llm_scratch.cli import main
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.readers import read_conversations
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.corpora import find_data
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.weights.folder import save_model

FORMAT = ("--format", "guanaco-llama2")
WIZARD = messages_row([("wizard", "Tide?")])
ASKED = messages_row(TALK[:3])


@pytest.fixture
def chats(tmp_path):
    """A function that writes rows as a file."""

    def written(*rows):
        path = tmp_path / "chats.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return written


def call(*words):
    return main(["conversations", *map(str, words)])


def test_show_prints_what_is_learned(chats, capsys):
    path = chats(share_row(TALK), share_row(TALK[:2]), share_row(TALK[2:]))
    assert call("show", path, "gpt2", *FORMAT, "--rows", 2) == 0
    head, first, second = capsys.readouterr().out.split("\n\n")
    assert head == "3 rows (sharegpt), 3 kept"
    assert first.startswith("1 of 3: 4 messages, ")
    assert first.partition("\n")[2] == (
        "[INST] Tide? [/INST]\n[[At six.<|endoftext|>]][INST] And then? [/INST]\n"
        "[[Ebb.<|endoftext|>]]"
    )
    assert second.startswith("2 of 3: 2 messages, ")
    assert second.endswith("[[At six.<|endoftext|>]]\n")
    assert call("show", path, "gpt2", *FORMAT, "--rows", 1, "--ids") == 0
    assert "<|endoftext|>(50256)]]" in capsys.readouterr().out


def test_show_has_colours_on_a_terminal_alone(chats, capsys, monkeypatch):
    path = chats(share_row(TALK))
    for name, value in {"TERM": "xterm", "NO_COLOR": None}.items():
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert call("show", path, "gpt2", *FORMAT) == 0
    shown = capsys.readouterr().out
    assert "\x1b[32mAt six.<|endoftext|>\x1b[0m" in shown
    assert "[[" not in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert call("show", path, "gpt2", *FORMAT) == 0
    shown = capsys.readouterr().out
    assert "[[At six.<|endoftext|>]]" in shown
    assert "\x1b" not in shown


def test_show_opens_models_and_tokenizers(chats, capsys, tmp_path):
    path, text = chats(share_row(TALK)), "a bowl of soup. " * 3
    tokenizer = BytePairTokenizer.train(text, vocab_size=260)
    tokenizer.save(tmp_path / "soup.json")
    sizes = {"vocab_size": tokenizer.n_vocab, "context_length": 16, "emb_dim": 8, "n_heads": 1}
    torch.manual_seed(0)
    model = GPTModel({**sizes, "n_layers": 1})
    save_model(model, tmp_path / "model", tokenizer)
    shown = []
    for source in ("soup.json", "model"):
        assert call("show", path, tmp_path / source, *FORMAT, "--ids") == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert call("show", path, tmp_path / "model") == 2
    assert "give --format, one of llama2, guanaco-llama2" in capsys.readouterr().err
    save_model(model, tmp_path / "own", tokenizer, chat_format=find_format("guanaco-llama2"))
    assert call("show", path, tmp_path / "own", "--ids") == 0
    assert capsys.readouterr().out == shown[0]
    assert call("show", path, tmp_path / "model", "--format", "chatml") == 2
    assert "no special token <|im_start|>" in capsys.readouterr().err
    assert call("show", path, tmp_path / "none.json", *FORMAT) == 2
    assert "no tokenizer at" in capsys.readouterr().err


def test_check_prints_a_table_and_draws(chats, capsys, tmp_path):
    path = chats(
        messages_row(TALK), WIZARD, ASKED, messages_row([("human", "a"), ("bot", "b")]), WIZARD
    )
    words = ("check", path, "gpt2", *FORMAT, "--context", 20, "--plot", tmp_path / "new" / "a.png")
    assert call(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [(line[:15].strip(), line[16:]) for line in lines]
    table = dict(rows)
    assert [table[name] for name in ("kind", "rows", "kept")] == ["messages", "5", "3"]
    assert [value for name, value in rows if name == "repaired"] == [
        "1 row: a last question without answer (kept, not learned)",
        "1 row: roles by other names",
    ]
    assert table["dropped"] == "2 rows: unknown role"
    assert table["turns"] == "5, 1 to 2 per row"
    assert table["longest"].endswith(" tokens (kept row 1)")
    assert table["learned"].endswith("% of the tokens")
    assert table["cut at 20"].startswith("1 of the rows lose their last turns, 0 are left out; ")
    assert lines[-2].startswith("first of 'unknown role': ")
    assert "chats.jsonl: line 2: unknown role: turn 1" in lines[-2]
    assert lines[-1] == f"Picture: {tmp_path / 'new' / 'a.png'}"
    assert (tmp_path / "new" / "a.png").stat().st_size > 5000


def test_check_says_what_is_missing(chats, capsys, monkeypatch, tmp_path):
    path = chats(messages_row(TALK))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call("check", path, "gpt2", *FORMAT, "--plot", tmp_path / "a.png") == 2
    assert "a picture needs matplotlib; pip install matplotlib" in capsys.readouterr().err
    for words, message in (
        (("check", path, "gpt2", *FORMAT, "--context", 0), "--context=0 must be 1 or more"),
        (("show", path, "gpt2", *FORMAT, "--rows", 0), "--rows=0 must be 1 or more"),
        (("show", path, "gpt2", "--format", "latin"), "no format is called 'latin'; use one of "),
        (("show", tmp_path, "gpt2", *FORMAT), "is a folder; name a file in it"),
        (("check", tmp_path / "none.json", "gpt2", *FORMAT), "none.json"),
    ):
        assert call(*words) == 2
        assert message in capsys.readouterr().err


def test_convert_makes_the_guanaco_file_of_the_project(capsys, tmp_path):
    """What guanaco can't hold, system texts, is counted; nothing else is left out."""
    out = tmp_path / "chats.jsonl"
    source = str(find_data("conversations.jsonl"))
    assert call("convert", source, out, "--to", "guanaco", "--skip-bad") == 0
    assert out.read_bytes() == find_data("conversations-guanaco.jsonl").read_bytes()
    assert capsys.readouterr().out.splitlines() == [
        "334 rows (messages), 334 kept",
        "dropped: 114 for guanaco can't hold a system text",
        f"{out}: 220 rows (guanaco)",
    ]
    assert call("convert", out, tmp_path / "back.jsonl", "--to", "messages") == 0
    lines = Path(source).read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if '"system"' not in line]
    assert (tmp_path / "back.jsonl").read_bytes().decode() == "".join(kept)


def test_convert_writes_texts_of_a_format(chats, capsys, tmp_path):
    out = tmp_path / "texts.json"
    path = chats({"text": GUANACO}, {"text": "### Human: a<|endoftext|>### Assistant: b"})
    words = ("convert", path, out, "--to", "text", *FORMAT)
    assert call(*words) == 2
    assert "token in a message: conversation 2: it contains '<|endo" in capsys.readouterr().err
    assert call(*words, "--skip-bad") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "dropped: 1 for a control token in a message",
        f"{out}: 1 row (text)",
    ]
    end = "<|endoftext|>"
    text = f"[INST] Tide? [/INST]\nAt six.{end}[INST] And then? [/INST]\nEbb.{end}"
    assert json.loads(out.read_text(encoding="utf-8")) == [{"text": text}]


def test_convert_repairs_and_counts(chats, capsys, tmp_path):
    early = messages_row(TALK[1:])
    path, out = chats(messages_row(TALK), early, WIZARD), tmp_path / "out.jsonl"
    assert call("convert", path, out, "--to", "sharegpt", "--skip-bad") == 0
    assert "dropped: 1 for the assistant first; the first: " in capsys.readouterr().out
    words = ("--skip-bad", "--repair", "drop", "--kind", "messages")
    assert call("convert", path, out, "--to", "sharegpt", *words) == 0
    assert "repaired: 1 with an answer before the first question dropped" in capsys.readouterr().out
    assert len(read_conversations(out).conversations) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("out.jsonl", "--to", "sharegpt"), "chats.jsonl: line 2: unknown role"),
        (("out.jsonl", "--to", "sharegpt", "--kind", "alpaca"), "line 1: no 'instruction'"),
        (("out.txt", "--to", "sharegpt", "--skip-bad"), "out.txt: must end in .json or .jsonl"),
        ((".", "--to", "sharegpt", "--skip-bad"), ". is a folder; give the name of a file"),
        (("out.jsonl", "--to", "text", "--skip-bad"), "--to text needs --format NAME"),
        (("out.jsonl", "--to", "guanaco", *FORMAT), "--format and --tokenizer belong to --to text"),
        (("out.jsonl", "--to", "alpaca", "--skip-bad"), "no conversation is left to write"),
    ],
)
def test_convert_refuses_in_one_line(chats, capsys, monkeypatch, tmp_path, words, message):
    path = chats(messages_row(TALK), WIZARD)
    monkeypatch.chdir(tmp_path)
    assert call("convert", path, *words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]
