"""The book's names for Ollama's own protocol, against a local server that speaks it."""

from __future__ import annotations

import runpy
import socket
import subprocess
from pathlib import Path

import pytest

from llm_scratch.judging import ollama
from llm_scratch.judging.client import JudgeError
from llm_scratch.judging.ollama import (
    check_if_running,
    generate_model_scores,
    query_model,
    read_score,
)

SERVER = runpy.run_path(str(Path(__file__).resolve().parents[1] / "fixtures" / "judge_server.py"))
graded, serve = SERVER["graded"], SERVER["serve"]

ITEMS = [
    {"instruction": "Say tide.", "input": "", "output": "tide", "model_response": word}
    for word in ("perfect", "middling", "hopeless")
]


@pytest.fixture
def server():
    server, thread = serve()
    server.script[:] = [lambda question: str(graded(question))]
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def options(server):
    return {"model": "known", "url": f"{server.url}/api/chat", "pause": lambda seconds: None}


def test_query_model_joins_the_pieces(options, server):
    server.script[:] = [lambda question: f"{question} — 潮 🌊"]
    assert query_model("Was?", **options) == "Was? — 潮 🌊"


def test_query_model_asks_greedily_with_the_books_settings(options, server):
    query_model("?", **options)
    path, asked, _ = server.asked[0]
    assert path == "/api/chat"
    assert asked == {
        "model": "known",
        "messages": [{"role": "user", "content": "?"}],
        "options": {"seed": 123, "temperature": 0, "num_ctx": 2048},
    }


@pytest.mark.parametrize("failure", [500, 429, "hang_up", "page", "half_stream"])
def test_query_model_asks_again_after_a_failure_that_may_pass(options, server, failure):
    server.script[:] = [failure, lambda question: "well"]
    assert query_model("?", **options) == "well"


def test_query_model_passes_on_what_stopped_the_reply(options, server):
    server.script[:] = ["stream_with_error"]
    with pytest.raises(JudgeError, match="stopped in the reply of 'known': out of memory"):
        query_model("?", **options)


def test_query_model_names_the_model_that_is_missing(options):
    with pytest.raises(JudgeError, match="has no model 'llama3'.*`ollama pull llama3`"):
        query_model("?", **{**options, "model": "llama3"})


def test_query_model_names_the_closed_port_and_the_way_out():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/api/chat"
        with pytest.raises(JudgeError, match=f"{url}: connection refused; `ollama serve`"):
            query_model("?", url=url)


def test_generate_model_scores_gives_a_whole_number_for_each_item(options):
    said = []
    assert generate_model_scores(ITEMS, "model_response", log=said.append, **options) == [95, 50, 5]
    assert said == []


def test_generate_model_scores_says_how_many_could_not_be_read(options, server):
    said = []
    server.script[:] = [lambda q: "maybe 7 or 8", lambda q: "**85**/100", lambda q: "101"]
    assert generate_model_scores(ITEMS, "model_response", log=said.append, **options) == [85]
    assert said == [
        "2 of 3 scores could not be read and are left out; the first reply was 'maybe 7 or 8'"
    ]


def test_generate_model_scores_names_the_item_without_an_answer(options, server):
    items = [ITEMS[0], {key: ITEMS[1][key] for key in ("instruction", "input", "output")}]
    with pytest.raises(ValueError, match="item 1 has no text 'model_response'; it has instruction"):
        generate_model_scores(items, "model_response", **options)
    assert server.asked == []


@pytest.mark.parametrize(
    "reply",
    [
        *("85", " 85\n", "Score: 85.", "85/100", "85 out of 100", "**85**", "85.0", "85.0/100.0"),
        "<think>2 errors, so 100 - 15 ...</think>85",
        "<think>2 errors</think>\n\n**85**/100",
        "2 errors, which costs 15.\n</think>\n85",
        "[THINK]2 errors[/THINK]85",
        "85 <thinking>2 errors</thinking>",
        "<think>" + "2 errors. " * 5000 + "</think>85",
    ],
)
def test_read_score_finds_the_number(reply):
    assert read_score(reply) == 85


@pytest.mark.parametrize(
    "reply",
    [
        *("", "none", "-5", "101", "8.5", "7 or 8", "٨٥", "9" * 5000, "1e2", "0-100", "8/10"),
        *("<think>2 errors, so", "<think>so 85", "2 errors</think>", "</think>1<think>85"),
    ],
)
def test_read_score_leaves_out_what_is_no_score(reply):
    assert read_score(reply) is None


def test_check_if_running_finds_this_process():
    comm = Path("/proc/self/comm")
    name = comm.read_text(encoding="utf-8").strip() if comm.exists() else "python"
    assert check_if_running(name)
    assert not check_if_running("no process has this name")


def test_check_if_running_reads_long_names_from_the_command_line(tmp_path, monkeypatch):
    for number, comm, command in (
        ("self", "pytest", "pytest\0"),
        ("7", "a-name-that-is-", "/usr/bin/a-name-that-is-cut-off\0--flag\0"),
        ("8", "short", "/bin/other\0"),
    ):
        (tmp_path / number).mkdir()
        (tmp_path / number / "comm").write_text(f"{comm}\n", encoding="utf-8")
        (tmp_path / number / "cmdline").write_text(command, encoding="utf-8")
    (tmp_path / "9").mkdir()  # it has ended meanwhile
    monkeypatch.setattr(ollama, "PROCESSES", tmp_path)
    assert check_if_running("that-is-cut-off")
    assert check_if_running("short")
    assert not check_if_running("other")


@pytest.mark.parametrize(
    ("platform", "command", "output"),
    [
        ("darwin", "ps", "/sbin/launchd\n/Applications/Ollama.app/Contents/MacOS/ollama\n"),
        ("win32", "tasklist", '"System","4"\r\n"ollama.exe","1,234","K","1","9 K"\r\n'),
    ],
)
def test_check_if_running_asks_the_platform(tmp_path, monkeypatch, platform, command, output):
    def run(args, **_):
        assert args[0] == command
        return subprocess.CompletedProcess(args, 0, output, "")

    monkeypatch.setattr(ollama, "PROCESSES", tmp_path)
    monkeypatch.setattr(ollama.sys, "platform", platform)
    monkeypatch.setattr(ollama.subprocess, "run", run)
    assert check_if_running("ollama")
    assert not check_if_running("Contents")


def test_check_if_running_refuses_the_empty_name():
    with pytest.raises(ValueError, match="every name contains"):
        check_if_running("")
