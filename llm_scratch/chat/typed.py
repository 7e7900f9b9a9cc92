"""Inputs that are typed, pasted or piped in; each is a message or a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_scratch.files import decode_text

ReadLine = Callable[[str], str]
"""A function that shows a prompt and returns the input, which has several lines if pasted."""
QUOTES = '"""'
MORE = "...  "
LAST_LINE = "/end"  # of a block that /multi begins
HISTORY_LINES = 1000
PASTE_SECONDS = 0.05


@dataclass(frozen=True)
class Command:
    """An input that begins with a slash.

    Args:
        name: its first word, without the slash.
        rest: the text after it.
    """

    name: str
    rest: str


def next_input(read_line: ReadLine, prompt: str, commands: Collection[str]) -> str | Command:
    r'''Return the next message or command.

    A slash counts only as the first character; two slashes are text that begins with one. If
    several lines are pasted, only the name of an existing command counts, so that pasted code stays
    as it is. A line that begins with """ starts a block up to the line that ends with """; /multi
    starts one up to /end, or up to a word of your choice.

    Args:
        read_line: returns a line.
        prompt: shown for the first line.
        commands: the names of all commands.

    Raises:
        EOFError: after the last input.
    '''
    line = read_line(prompt)
    if line.startswith(QUOTES):
        return _quoted(read_line, line.removeprefix(QUOTES))
    several = "\n" in line
    if not line.startswith("/") or (several and _word(line) not in commands):
        return line
    if line.startswith("//"):
        return line[1:]
    name, rest = _word(line), line[1 + len(_word(line)) :].strip()
    if name == "multi":
        return _until(read_line, rest or LAST_LINE)
    return Command(name, rest)


def _word(line: str) -> str:
    return (line[1:].split(maxsplit=1) or [""])[0] if not line[1:2].isspace() else ""


def _quoted(read_line: ReadLine, text: str) -> str:
    """Return a block up to the line that ends with quotes, or up to the end of all input."""
    lines = [text]
    while not lines[-1].rstrip().endswith(QUOTES):
        try:
            lines.append(read_line(MORE))
        except EOFError:
            return "\n".join(lines)
    return "\n".join(lines).rstrip().removesuffix(QUOTES)


def _until(read_line: ReadLine, last: str) -> str:
    """Return the lines before the line `last`, or before the end of all input."""
    lines: list[str] = []
    while True:
        try:
            more = read_line(MORE).split("\n")
        except EOFError:
            return "\n".join(lines)
        if last in more:
            return "\n".join([*lines, *more[: more.index(last)]])
        lines += more


def piped_lines(stream: Any) -> ReadLine:
    """Return a reader of a pipe's lines, in UTF-8 whatever the system's encoding."""
    raw = getattr(stream, "buffer", None)

    def read_line(prompt: str) -> str:
        line = stream.readline() if raw is None else decode_text("standard input", raw.readline())
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")

    return read_line


class Keyboard:
    """A reader of the terminal with line editing if Python has it; a paste is one input.

    Args:
        history: the file that keeps the inputs; None keeps nothing.
    """

    def __init__(self, history: Path | None) -> None:
        self._history = history
        self._readline: Any = None
        self._pastes_whole = False
        try:
            import readline
        except ImportError:  # Windows
            return
        self._readline = readline
        if "libedit" not in (readline.__doc__ or ""):
            readline.parse_and_bind("set enable-bracketed-paste on")
            self._pastes_whole = os.environ.get("TERM", "dumb") != "dumb"
        readline.set_history_length(HISTORY_LINES)
        if history is not None:
            _try(lambda: readline.read_history_file(history))

    def __call__(self, prompt: str) -> str:
        """Return the input; it has several lines if they were pasted together."""
        lines = [input(prompt)]
        while not self._pastes_whole and _more_waits():
            lines.append(input())
        return "\n".join(lines)

    def keep_history(self) -> None:
        """Write the inputs to the history file, which only its user can read."""
        if self._readline is None or self._history is None:
            return
        path = self._history

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._readline.write_history_file(path)

        _try(write)


def _try(do: Callable[[], object]) -> None:
    """Do something optional; ignore an OSError."""
    try:
        do()
    except OSError:
        return


def _more_waits() -> bool:
    """Return whether further lines have come faster than anybody types."""
    import select

    try:
        return bool(select.select([sys.stdin], [], [], PASTE_SECONDS)[0])
    except (OSError, ValueError):  # Windows, which can select only sockets
        return False
