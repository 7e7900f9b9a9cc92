"""What is typed, pasted or piped in: one input after the other, each a message or a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_scratch.files import decode_text

ReadLine = Callable[[str], str]
"""Asks with a prompt and gives what is entered, of several lines where they were pasted."""
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
        rest: what follows it.
    """

    name: str
    rest: str


def next_input(read_line: ReadLine, prompt: str, commands: Collection[str]) -> str | Command:
    r'''Return the next message or command.

    A slash counts only as the first character; two of them are one, which is text. Where several
    lines were pasted, only a command that there is counts as one, so that pasted code stays as it
    is. A line that begins with """ goes on to the line that ends with it; /multi goes on to /end,
    or to another word.

    Args:
        read_line: gives lines.
        prompt: asks for the first of them.
        commands: the names that there are.

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
    """Return a block up to the line that ends with quotes, or to the end of all input."""
    lines = [text]
    while not lines[-1].rstrip().endswith(QUOTES):
        try:
            lines.append(read_line(MORE))
        except EOFError:
            return "\n".join(lines)
    return "\n".join(lines).rstrip().removesuffix(QUOTES)


def _until(read_line: ReadLine, last: str) -> str:
    """Return the lines before the one that is `last`, or before the end of all input."""
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
    """Return what reads a pipe line by line, in UTF-8 whatever the system's encoding."""
    raw = getattr(stream, "buffer", None)

    def read_line(prompt: str) -> str:
        line = stream.readline() if raw is None else decode_text("standard input", raw.readline())
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")

    return read_line


class Keyboard:
    """Reads a terminal with line editing where Python has it, and a paste as one input.

    Args:
        history: the file that keeps what was entered; None keeps nothing.
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
        """Return what is entered; several lines where they were pasted together."""
        lines = [input(prompt)]
        while not self._pastes_whole and _more_waits():
            lines.append(input())
        return "\n".join(lines)

    def keep_history(self) -> None:
        """Write what was entered to the history's file, which only its user can read."""
        if self._readline is None or self._history is None:
            return
        path = self._history

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._readline.write_history_file(path)

        _try(write)


def _try(do: Callable[[], object]) -> None:
    """Do what a conversation can do without."""
    try:
        do()
    except OSError:
        return


def _more_waits() -> bool:
    """Return whether lines have come faster than anybody types."""
    import select

    try:
        return bool(select.select([sys.stdin], [], [], PASTE_SECONDS)[0])
    except (OSError, ValueError):  # Windows, which selects sockets alone
        return False
