"""A judge's replies in a file, one JSON object per line, so that nothing is asked twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_scratch.files import parse_json

FIRST_KEY = b'{"question": '


class Records:
    """Replies by question, kept in a file as they come.

    A killed run may leave its last line cut off. Such a line is removed, and its question asked
    again.

    Args:
        path: the file; it is created with its folder if missing. None keeps nothing.

    Raises:
        ValueError: if the file holds something else; names the line.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self._replies: dict[str, str] = {}
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._read(self.path.read_bytes() if self.path.exists() else b"")

    def reply(self, question: str) -> str | None:
        """Return the judge's reply to a question; None if it was not asked."""
        return self._replies.get(question)

    def add(self, question: str, reply: str, more: Mapping[str, Any]) -> None:
        """Keep a reply, with `more` for people who read the file."""
        self._replies[question] = reply
        line = json.dumps({"question": question, "reply": reply, **more}, ensure_ascii=False)
        # A lone surrogate has no UTF-8; it is written as a JSON escape.
        self._append(line.encode("utf-8", "backslashreplace") + b"\n")

    def _read(self, content: bytes) -> None:
        lines = content.split(b"\n")
        rest = lines.pop()  # what follows the last line end
        for number, line in enumerate(lines, 1):
            if line.strip() and not self._take(line):
                raise ValueError(
                    f"line {number} of {self.path} is not a record of a judge; remove the line, or "
                    "give another file as records"
                )
        if rest and self._take(rest):
            self._append(b"\n")
        elif rest:
            self._remove(rest)

    def _take(self, line: bytes) -> bool:
        """Remember the reply in a line, and return whether there is one."""
        try:
            record = parse_json(self.path or "", line)
            question, reply = record["question"], record["reply"]
        except (ValueError, KeyError):
            return False
        if not isinstance(question, str) or not isinstance(reply, str):
            return False
        self._replies[question] = reply
        return True

    def _append(self, data: bytes) -> None:
        if self.path is not None:
            with open(self.path, "ab") as file:
                file.write(data)

    def _remove(self, rest: bytes) -> None:
        """Remove an incomplete last line; anything else is not ours to change."""
        if not (rest.startswith(FIRST_KEY) or FIRST_KEY.startswith(rest)):
            raise ValueError(
                f"the end of {self.path} is not a record of a judge; give another file as records"
            )
        if self.path is not None:
            os.truncate(self.path, self.path.stat().st_size - len(rest))
