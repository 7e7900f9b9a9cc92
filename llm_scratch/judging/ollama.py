"""A client of Ollama's own protocol, which the book uses to ask a model (book 7.8)."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_scratch.judging.client import (
    TIMEOUT_SECONDS,
    JudgeError,
    PassingError,
    Pause,
    json_object,
    patiently,
    post,
)
from llm_scratch.judging.judge import HIGHEST, check_keys, score_in, task_of, without_thinking

OLLAMA_CHAT = "http://localhost:11434/api/chat"
PROCESSES = Path("/proc")
COMM_LENGTH = 15  # characters of a process's name that Linux keeps


def query_model(
    prompt: str,
    model: str = "llama3",
    url: str = OLLAMA_CHAT,
    *,
    timeout: float = TIMEOUT_SECONDS,
    retries: int = 3,
    pause: Pause = time.sleep,
) -> str:
    """Return the reply of a model that Ollama runs, greedy and with a fixed seed, as in the book.

    Ollama's context is 2,048 tokens here, prompt and reply together; it silently drops earlier
    ones. The book gives up after 30 seconds, which loading the model alone may take.

    Args:
        prompt: the question.
        model: the model's name in `ollama list`.
        url: the address of Ollama's own chat protocol.
        timeout: seconds that the server may stay silent.
        retries: how often a question is sent again after a failure that may pass.
        pause: called with the seconds to wait between tries.

    Raises:
        JudgeError: if nothing answers there, or the model is not there.
        ValueError: if `url` is not a web address.

    Source:
        Book 7.8.
    """
    payload = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "options": {"seed": 123, "temperature": 0, "num_ctx": 2048},
    }
    return patiently(
        lambda: _streamed_text(post(url, payload, timeout), url, model), url, retries, pause
    )


def generate_model_scores(
    json_data: Sequence[Mapping[str, Any]],
    json_key: str,
    model: str = "llama3",
    *,
    url: str = OLLAMA_CHAT,
    timeout: float = TIMEOUT_SECONDS,
    retries: int = 3,
    pause: Pause = time.sleep,
    log: Callable[[str], object] = print,
) -> list[int]:
    """Return the scores, 0 to 100, that a model gives to the answers of some items.

    A reply without exactly one whole number from 0 to 100 is left out, so the list may be shorter
    than the data. A line says how many were left out. `judge` compares models more fairly, with
    fewer questions.

    Args:
        json_data: items with "instruction", "output", the answer, and "input" if there is one.
        json_key: the key of the answer, "model_response" in the book.
        model: the model's name in `ollama list`.
        url: the address of Ollama's own chat protocol.
        timeout: seconds that the server may stay silent.
        retries: how often a question is sent again after a failure that may pass.
        pause: called with the seconds to wait between tries.
        log: called with the line.

    Raises:
        ValueError: if an item lacks a key; names it.
        JudgeError: if nothing answers at `url`, or the model is not there.

    Source:
        Book 7.8.
    """
    check_keys(json_data, ("instruction", "output", json_key))
    scores, unreadable = [], []
    for entry in json_data:
        prompt = (
            f"Task:\n{task_of(entry)}\n\nReference answer:\n{entry['output']}\n\n"
            f"Answer to grade:\n{entry[json_key]}\n\n"
            f"Grade the answer from 0, wrong, to {HIGHEST}, as good as the reference. "
            "Reply with that whole number and nothing else."
        )
        reply = query_model(prompt, model, url, timeout=timeout, retries=retries, pause=pause)
        score = read_score(reply)
        if score is None:
            unreadable.append(reply)
        else:
            scores.append(score)
    if unreadable:
        log(
            f"{len(unreadable)} of {len(json_data)} scores could not be read and are left out; "
            f"the first reply was {unreadable[0][:80]!r}"
        )
    return scores


def _streamed_text(lines: Iterator[bytes], url: str, model: str) -> str:
    """Return the text that Ollama sends piece by piece, one JSON object per line."""
    pieces = []
    for line in filter(bytes.strip, lines):
        part = json_object(line)
        if "error" in part:
            raise JudgeError(f"{url} stopped in the reply of {model!r}: {part['error']}")
        message = part.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        pieces.append(content if isinstance(content, str) else "")
        if part.get("done"):
            return "".join(pieces)
    raise PassingError("the reply broke off")


def read_score(reply: str) -> int | None:
    """Return the whole number from 0 to 100 in a reply: 85, 85.0 or 85/100; None without one."""
    score = score_in(without_thinking(reply))
    return int(score) if score is not None and score.is_integer() else None


def check_if_running(process_name: str) -> bool:
    """Return whether a process is running whose name contains `process_name`, such as "ollama".

    The names come from the platform: `/proc` on Linux, `tasklist` on Windows, else `ps`. Only the
    first question shows whether the server in the process answers.

    Raises:
        ValueError: if the name is empty, which every name contains.
        OSError: if the platform has none of the three.

    Source:
        Book 7.8.
    """
    if not process_name:
        raise ValueError("process_name is empty, which every name contains; give one")
    if (PROCESSES / "self" / "comm").exists():
        names = _names_in_proc()
    elif sys.platform == "win32":
        lines = _output("tasklist", "/fo", "csv", "/nh").splitlines()
        names = [row[0] for row in csv.reader(lines) if row]
    else:
        lines = _output("ps", "-A", "-o", "comm=").splitlines()
        names = [Path(line.strip()).name for line in lines]
    return any(process_name in name for name in names)


def _names_in_proc() -> list[str]:
    names = []
    for folder in PROCESSES.glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
            if len(name.encode()) >= COMM_LENGTH:  # the rest may be in the command line
                command = (folder / "cmdline").read_text(encoding="utf-8", errors="replace")
                whole = Path(command.split("\0")[0]).name
                name = whole if whole.startswith(name) else name
        except OSError:  # the process has ended, or belongs to another user
            continue
        names.append(name)
    return names


def _output(*command: str) -> str:
    """Return the output of a command of the platform; only its ASCII characters are reliable."""
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=True
    )
    return done.stdout
