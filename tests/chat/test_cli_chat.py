"""`llm-scratch chat`: its options, without a terminal."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
import torch
from chat_models import chat_tokenizer, small_model

from llm_scratch.chat.saved import read_chat
from llm_scratch.cli import main
from llm_scratch.conversations.formats import find_format
from llm_scratch.download import state_folder
from llm_scratch.model.llama import LlamaModel
from llm_scratch.weights.folder import save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that says its format, and one that does not."""
    torch.manual_seed(0)
    model, place = LlamaModel(small_model().cfg).eval(), tmp_path_factory.mktemp("models")
    save_model(model, place / "own", chat_tokenizer(), chat_format=find_format("chatml"))
    save_model(model, place / "base", chat_tokenizer())
    return place


@pytest.fixture
def chat(models, capsys, monkeypatch):
    """Run the command with these words and this input; give exit status, output and errors."""

    def call(*words, model="own", lines=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        more = ["--device", "cpu", "--max-new-tokens", "3", "--no-stats"]
        code = main(["chat", str(models / model), *more, *map(str, words)])
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("words", "model", "message"),
    [
        ([], "base", "does not say how a conversation becomes text .* transcript"),
        (["--format", "esperanto"], "own", "no format is called 'esperanto'"),
        (["--format", "chatml", "--chat-template", "x"], "own", "leave one out"),
        (["--context", "513"], "own", "more than this model's 512"),
        (["--context", "1"], "none", "context=1 must be 2 or more"),
        (["--seed", "1"], "none", "--seed changes nothing at a temperature of 0"),
        (["--top-k", "0", "--temperature", "-1"], "none", "temperature"),
        (["--resume", "no-such-file"], "own", "no-such-file"),
        (["-p", ""], "own", "empty"),
        (["-p", "The tide. " * 300], "own", "the context is 512"),
    ],
)
def test_a_mistake_is_one_line(chat, words, model, message):
    code, out, err = chat(*words, model=model)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(message, err)


def test_a_base_model_talks_in_a_format_that_is_named(chat):
    code, _, err = chat("--format", "transcript", "-p", "Why?", model="base")
    assert code == 0
    assert "no answer" in err or "stopped at 3 tokens" in err or err == ""


def test_the_system_text_comes_from_a_file_and_a_template_too(chat, tmp_path):
    (tmp_path / "system.txt").write_text("Be kind.\n", encoding="utf-8")
    (tmp_path / "form.jinja").write_text(
        "{% for m in messages %}{{ m.role }}! {{ m.content }}\n{% endfor %}", encoding="utf-8"
    )
    words = ["--system", f"@{tmp_path / 'system.txt'}", "-p", "Why?", "--debug"]
    code, out, _ = chat(*words, "--chat-template", tmp_path / "form.jinja")
    assert code == 0
    assert ">>> sending to model\nsystem! Be kind.\nuser! Why?\n" in out


def test_resume_goes_on_under_the_settings_of_the_file_but_those_given(chat, tmp_path):
    path = tmp_path / "talk.json"
    code, _, _ = chat("--temperature", "0.5", "--seed", "7", "--system", "Be kind.",
                      lines=f"Why?\n/save {path}\n")  # fmt: skip
    assert code == 0
    first = read_chat(path)
    again = tmp_path / "again.json"
    code, _, _ = chat("--resume", path, "--overflow", "stop", lines=f"So?\n/save {again}\n")
    assert code == 0
    second = read_chat(again)
    assert second.messages[:3] == first.messages
    assert len(second.messages) == 5
    assert second.settings == {**first.settings, "overflow": "stop", "answers": 2}


def test_a_pipe_goes_on_after_a_mistake_and_its_status_tells_it(chat):
    code, _, err = chat(lines="/nothing\nWhy?\n")
    assert code == 1
    assert err.count("/nothing") == 1


def test_what_is_typed_is_kept_in_the_folder_for_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert state_folder() == tmp_path / "llm-scratch"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_folder() == Path.home() / ".local" / "state" / "llm-scratch"
