"""Thoughts: the text between two marks that some models write before they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm_scratch.conversations.messages import Message

THINK = ("<think>", "</think>")
"""The marks in the templates of Qwen 3 and those that follow it."""


def thoughts_of(format: Any) -> tuple[str, str] | None:
    """Return the marks around a thought, None for formats without any."""
    if THINK[1] in getattr(format, "template", ""):
        return THINK
    return getattr(format, "thoughts", None)


def without_thoughts(text: str, marks: tuple[str, str] | None) -> str:
    """Return an answer without the thought at its beginning, complete or not."""
    if marks is None:
        return text
    begin, end = marks
    if end in text:
        return text.rpartition(end)[2].lstrip("\n")
    return "" if text.lstrip().startswith(begin) else text


def as_read(messages: Sequence[Message], marks: tuple[str, str] | None) -> list[Message]:
    """Return a conversation as the model reads it: earlier answers without their thoughts.

    If an answer is then empty, it is left out with its question.
    """
    read: list[Message] = []
    for message in messages:
        if message.role == "assistant":
            said = without_thoughts(message.content, marks)
            if not said.strip():
                read.pop()
                continue
            message = replace(message, content=said)
        read.append(message)
    return read


class ThoughtSplitter:
    """A splitter of an answer, as it comes, into thought and speech.

    Args:
        marks: the marks around a thought; None if there are no thoughts.
        thinking: whether the answer begins within a thought, since its prompt ends with the mark.
    """

    def __init__(self, marks: tuple[str, str] | None, thinking: bool = False) -> None:
        self._begin, self._end = marks or ("", "")
        self._held = ""
        self._thinking: bool | None = thinking or None  # None: not known yet
        if marks is None:
            self._thinking = False

    def push(self, piece: str) -> list[tuple[str, bool]]:
        """Take a piece and return the texts that can be shown, each with whether it is thought."""
        self._held += piece
        if self._thinking is None:
            start = self._held.lstrip()
            if self._begin.startswith(start[: len(self._begin)]) and len(start) < len(self._begin):
                return []
            self._thinking = start.startswith(self._begin)
        if not self._thinking:
            return self.flush()
        thought, mark, said = self._held.partition(self._end)
        if not mark:
            return self._all_but_half_a_mark()
        self._held, self._thinking = said, False
        return [(thought + mark, True), *self.flush()]

    def _all_but_half_a_mark(self) -> list[tuple[str, bool]]:
        text = self._held
        halves = (n for n in range(len(self._end) - 1, 0, -1) if text.endswith(self._end[:n]))
        kept = next(halves, 0)
        self._held = text[len(text) - kept :]
        return [(text[: len(text) - kept], True)] if len(text) > kept else []

    def flush(self) -> list[tuple[str, bool]]:
        """Return what was held back."""
        text, self._held = self._held, ""
        return [(text, bool(self._thinking))] if text else []
