"""`llm-scratch chat` in a terminal of its own, with a small saved model, as somebody types to it.

A process takes seconds to start, so each tells several things.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from chat_models import CONTROLS, chat_tokenizer, small_model

from llm_scratch.conversations.formats import find_format
from llm_scratch.model.llama import LlamaModel
from llm_scratch.weights.folder import save_model

pexpect = pytest.importorskip("pexpect", reason="pip install pexpect")
if not hasattr(pexpect, "spawn"):  # Windows
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

SECONDS = 120  # a busy machine
BLOCK = [f"line {number} of 30: \U0001f525" for number in range(30)]
PASTE = "\x1b[200~{}\x1b[201~"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that writes on and on: its ends are the least likely of all."""
    torch.manual_seed(0)
    model = LlamaModel(replace(small_model().cfg, context_length=4096)).eval()
    ends = find_format("chatml").end_ids(chat_tokenizer())
    with torch.no_grad():
        model.out_head.weight[list(ends)] = 0
        model.final_norm.scale.mul_(3)
    place = tmp_path_factory.mktemp("talker")
    return save_model(model, place, chat_tokenizer(), chat_format=find_format("chatml"))


@pytest.fixture
def environment(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COLUMNS")}
    return {**kept, "TERM": "xterm", "NO_COLOR": "1", "XDG_STATE_HOME": str(tmp_path / "state")}


def command(folder, *words):
    return [sys.executable, "-m", "llm_scratch", "chat", str(folder), "--device", "cpu", *words]


@pytest.fixture
def typed(folder, environment):
    """A function that starts the command and gives the terminal that somebody types into."""
    started = []

    def start(*words):
        program, *rest = command(folder, *words)
        child = pexpect.spawn(
            program, rest, env=environment, encoding="utf-8", timeout=SECONDS, echo=False,
            dimensions=(50, 200),
        )  # fmt: skip
        started.append(child)
        child.expect_exact("You: ")
        return child

    yield start
    for child in started:
        child.close(force=True)


def ask(child, text):
    """Enter a text and return what is shown until the next question."""
    child.sendline(text)
    child.expect_exact("You: ")
    return child.before.replace("\r", "")


def content_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["messages"]


def test_a_conversation_with_all_that_is_typed_in_one(typed, tmp_path):
    path = tmp_path / "talk.json"
    child = typed("--max-new-tokens", "6", "--system", "Be kind.", "--temperature", "0.8")
    shown = ask(child, "Who are you?")
    assert "Bot:  " in shown
    assert "[stopped at 6 tokens; /continue]" in shown
    assert re.search(r"tokens in [\d.]+s: [\d.]+ tokens/s, prompt \d+ tokens \(0 reused\)", shown)
    shown = ask(child, PASTE.format("\n".join(BLOCK)))  # one message of 30 lines
    assert shown.count("Bot:  ") == 1
    assert not re.search(r"\(0 reused\)", shown)
    ask(child, "An emoji: \U0001f600")
    ask(child, f"/save {path}")
    saved = content_of(path)
    questions = [each["content"] for each in saved if each["role"] == "user"]
    assert questions == ["Who are you?", "\n".join(BLOCK), "An emoji: \U0001f600"]
    assert "Bot:  " in ask(child, "/regen")
    assert "took back: An emoji: \U0001f600" in ask(child, "/undo")
    assert "took back: line 0 of 30" in ask(child, "/undo")
    ask(child, f"/save {path}")
    assert content_of(path) == saved[:3]
    ask(child, "/clear")
    assert f"3 messages from {path}" in ask(child, f"/load {path}")
    assert "no command /nothing" in ask(child, "/nothing")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    history = tmp_path / "state" / "llm-scratch" / "chat-history"
    assert "Who are you?" in history.read_text(encoding="utf-8")
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_an_answer_and_a_full_context_is_said(typed, tmp_path):
    path = tmp_path / "talk.json"
    child = typed("--max-new-tokens", "3000", "--no-stats", "--no-history")
    child.sendline("Go on and on.")
    child.expect_exact("Bot:  ")
    child.expect(r"\S")
    child.sendintr()
    child.expect_exact("[stopped; /continue]")
    child.expect_exact("You: ")
    ask(child, f"/save {path}")
    partial = content_of(path)[-1]["content"]
    assert partial
    ask(child, "/set max_new_tokens 5")
    ask(child, "/continue")
    ask(child, f"/save {path}")
    assert content_of(path)[-1]["content"].startswith(partial)
    ask(child, "/clear")
    ask(child, "/set context 80")
    shown = [ask(child, "How is the tide?") for _ in range(4)]
    assert re.search(r"forgot the oldest turn \(\d+ tokens\) to fit 80\nBot:  ", shown[-1])
    assert "and the context is 80" in ask(child, "The tide. " * 40)
    child.sendintr()
    child.expect_exact("Ctrl-C again to leave")
    child.expect_exact("You: ")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130
    assert not (tmp_path / "state").exists()


def test_a_pipe_and_one_message(folder, environment):
    def run(words, text):
        done = subprocess.run(
            command(folder, *words), input=text.encode(), capture_output=True, env=environment,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    code, out, err = run(["--max-new-tokens", "4", "--no-stats"], "What?\n/undo\nAnd \U0001f525?\n")
    assert code == 0
    assert "You: " not in out
    assert "Bot:" not in out
    assert err.splitlines() == [
        "[stopped at 4 tokens; /continue]", "took back: What?", "[stopped at 4 tokens; /continue]",
    ]  # fmt: skip
    code, out, err = run(["-p", "-", "--max-new-tokens", "4", "--debug"], "One\n/undo\n\u00e9")
    assert code == 0
    assert f"{CONTROLS[0]}user\nOne\n/undo\n\u00e9{CONTROLS[1]}" in out
    assert "4 tokens in" in err or "3 tokens in" in err
