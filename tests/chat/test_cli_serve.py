"""`llm-scratch serve`: what it takes, what it refuses in one line, and a whole run of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
import torch
from engines import tiny_gpt
from scripted_engine import small_tokenizer

from llm_scratch import cli
from llm_scratch.chat.serving import bind
from llm_scratch.cli import serve
from llm_scratch.conversations.formats import find_format
from llm_scratch.lora.layers import LinearWithLoRA, freeze, replace_linear_with_lora
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.gpt import GPTModel
from llm_scratch.weights.folder import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that was saved with its tokenizer and its format."""
    path, tokenizer = tmp_path_factory.mktemp("serve") / "tide", small_tokenizer()
    torch.manual_seed(1)
    model = GPTModel({**dict(tiny_gpt().cfg), "vocab_size": tokenizer.n_vocab})
    save_model(model, path, tokenizer, chat_format=find_format("transcript"))
    return path


def asked(*words):
    return cli.build_parser().parse_args(["serve", *map(str, words)])


def refusal(capsys, *words):
    assert cli.main(["serve", *map(str, words)]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_models_are_called_as_their_files_and_folders(tmp_path):
    (tmp_path / "run.v2").mkdir()
    (tmp_path / "small.gguf").touch()
    paths = [str(tmp_path / "run.v2"), str(tmp_path / "small.gguf"), "smollm2", "hub:org/name"]
    assert serve.names_of(paths) == ["run.v2", "small", "smollm2", "org/name"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["a", "a"], "two models are called 'a'"), (["a", "--rows", "0"], "--rows=0 must be 1"),
     (["a", "--queue", "0"], "--queue=0"), (["a", "--max-tokens", "-1"], "--max-tokens=-1"),
     (["a", "--time-limit", "0"], "--time-limit=0.0 must be above 0"),
     (["a", "--port", "70000"], "--port=70000 must be from 0"),
     (["a", "--api-key", " "], "the key is empty"),
     (["a", "--format", "x", "--chat-template", "y"], "both say the format; leave one out"),
     (["no-such-model", "--port", "0"], "no-such-model")],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(capsys, words, message):
    assert message in refusal(capsys, *words)


def test_a_port_in_use_is_told_before_a_model_is_opened(capsys, monkeypatch):
    monkeypatch.setattr(serve, "open_served", lambda *_: pytest.fail("opened"))
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in refusal(capsys, "a", "--port", port)


def test_the_key_comes_from_the_option_or_the_environment(monkeypatch):
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    assert serve.settings_of(asked("a")).api_key is None
    monkeypatch.setenv(serve.KEY_VARIABLE, "one")
    assert serve.settings_of(asked("a")).api_key == "one"
    assert serve.settings_of(asked("a", "--api-key", "two")).api_key == "two"


def test_every_option_arrives_in_the_settings():
    words = "--allow-host x --allow-host y --allow-origin https://z --rows 3 --max-tokens 5"
    words += " --max-choices 2 --max-body 99 --time-limit 7"
    found = serve.settings_of(asked("a", *words.split()))
    assert (found.hosts, found.origins) == (("x", "y"), ("https://z",))
    limits = found.limits
    assert (limits.together, limits.answer_tokens, limits.choices) == (3, 5, 2)
    assert (limits.body_bytes, limits.seconds) == (99, 7)


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", None, True), ("127.0.0.1", None, False), ("0.0.0.0", "k", False)],
)
def test_a_server_for_all_without_a_key_is_warned_of(host, key, warned, monkeypatch, recwarn):
    monkeypatch.setattr(serve, "open_served", lambda *_: 1 / 0)
    words = ["serve", "a", "--host", host, "--port", "0", *(["--api-key", key] if key else [])]
    with pytest.raises(ZeroDivisionError):
        cli.main(words)
    told = [str(each.message) for each in recwarn if "can use the models" in str(each.message)]
    assert len(told) == warned


def test_without_the_extra_it_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    for name in [name for name in sys.modules if name.startswith("llm_scratch.chat.server")]:
        monkeypatch.delitem(sys.modules, name)
    assert "pip install 'llm-scratch[serve]'" in refusal(capsys, "a")


def test_an_adapter_is_merged_and_the_format_is_the_model_s(folder, tmp_path):
    from llm_scratch.opening import open_model

    model, tokenizer = open_model(folder)
    freeze(model)
    replace_linear_with_lora(model, 2, 4)
    save_adapter(model, tmp_path / "adapter", tokenizer=tokenizer, base=folder)
    opened = serve.open_served(asked("a"), "a", str(tmp_path / "adapter"))
    try:
        modules = opened.engine.model.modules()
        assert not any(isinstance(module, LinearWithLoRA) for module in modules)
        assert opened.format.name == "transcript"
        assert opened.engine.alive
    finally:
        opened.engine.stop()


def test_the_format_can_be_given(folder, tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages[0].content }}", encoding="utf-8")
    options = {"alpaca": ("--format", "alpaca"), "template": ("--chat-template", str(path))}
    for name, words in options.items():
        opened = serve.open_served(asked("a", *words), "a", str(folder))
        opened.engine.stop()
        assert opened.format.name == name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_a_whole_run_from_the_first_line_to_ctrl_c(folder):
    words = [sys.executable, "-m", "llm_scratch", "serve", str(folder), "--port", "0"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    try:
        line = process.stdout.readline()
        url = line.split()[0]
        assert line.endswith(" serves tide: OpenAI's API under /v1, a page at /; Ctrl-C stops it\n")
        body = {"model": "tide", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] <= 3
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "")
