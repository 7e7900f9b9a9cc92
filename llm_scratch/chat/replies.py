"""A reply: the pieces of an answer as they come, and its statistics."""

from __future__ import annotations

import html
from collections.abc import Generator, Iterator, Sequence

from llm_scratch.chat.answering import Answer, Clock
from llm_scratch.chat.fitting import Forgotten
from llm_scratch.conversations.display import printable
from llm_scratch.conversations.messages import Message
from llm_scratch.generation.texts import FinishReason

_COLOURS = {"system": "#888", "user": "#2563eb", "assistant": "#15803d"}


class Reply:
    """A reply of the assistant, piece by piece: nothing is written before it is asked for.

    A loop over the reply yields the pieces, and `str(reply)` reads to the end and returns the whole
    text. As the last line of a notebook cell, the reply streams into the cell. You can stop reading
    anywhere; what has been said stays in the session.

    Args:
        answer: the answer being written.
        pieces: its text, as it comes.
        clock: its token counts and times.
        forgotten: what the session dropped to make room in the context.
        thinking: whether the reply begins within a thought.
    """

    def __init__(
        self,
        answer: Answer,
        pieces: Generator[str],
        clock: Clock,
        forgotten: Forgotten,
        thinking: bool = False,
    ) -> None:
        self._answer, self._pieces = answer, pieces
        self.stats, self.forgotten, self.thinking = clock, forgotten, thinking
        self.text = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        self.text += piece
        return piece

    def __str__(self) -> str:
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """Stop the reply where it is; the session keeps what has been said."""
        self._pieces.close()

    @property
    def finish_reason(self) -> FinishReason:
        """The reason for the end: "eos", "stop", "length" or "interrupted", the last until then."""
        return self._answer.finish_reason

    @property
    def ended_by(self) -> str | None:
        """The string that ended the answer, or the token's text; None while it is open."""
        return self._answer.ended_by

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The ids that the answer follows."""
        return self._answer.prompt

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids of the answer so far, including the one that ended it."""
        return tuple(self._answer.ids)

    def _ipython_display_(self) -> None:
        print(printable(self.text), end="", flush=True)
        for piece in self:
            print(printable(piece), end="", flush=True)
        print()


def messages_as_html(messages: Sequence[Message]) -> str:
    """Return a conversation as HTML for a notebook; messages are escaped."""
    rows = [
        f'<div style="margin:0.4em 0"><b style="color:{_COLOURS[each.role]}">{each.role}</b>'
        f'<div style="white-space:pre-wrap">{html.escape(each.content)}</div></div>'
        for each in messages
    ]
    return f'<div style="max-width:50em">{"".join(rows) or "<i>nothing said yet</i>"}</div>'
