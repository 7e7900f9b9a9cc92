"""Pieces of a text by their places: cut where answers start, marked where they are learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llm_scratch.conversations.encoding import Segment


class Pieces:
    """The pieces of a text, which can be cut at places of the text.

    Args:
        segments: the pieces.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)
        self.text = "".join(segment.text for segment in segments)

    def cut(self, place: int) -> None:
        """Let an answer start at a place; within a control token, none can."""
        for i, (start, segment) in enumerate(self._placed()):
            at = place - start
            if at == 0:
                self.segments[i] = replace(segment, starts=True)
            elif 0 < at < len(segment.text) and not segment.control:
                left = replace(segment, text=segment.text[:at])
                right = replace(segment, text=segment.text[at:], starts=True)
                self.segments[i : i + 1] = [left, right]

    def up_to(self, place: int) -> list[Segment]:
        """Return what is encoded before a place: text that is encoded together is together."""
        found: list[Segment] = []
        for start, segment in self._placed():
            if start >= place:
                break
            piece = replace(segment, learned=False)
            if found and not (found[-1].control or piece.control or piece.starts):
                found[-1] = replace(found[-1], text=found[-1].text + piece.text)
            else:
                found.append(piece)
        return found

    def learn(self, place: int, learned: bool) -> slice | None:
        """Mark what lies from a place up to the first control token, and return where that is.

        Nothing is marked, and nothing returned, where no control token comes.
        """
        answer: list[int] = []
        for i, (start, segment) in enumerate(self._placed()):
            if start < place:
                continue
            answer.append(i)
            if segment.control:
                for k in answer:
                    self.segments[k] = replace(self.segments[k], learned=learned)
                return slice(start, start + len(segment.text))
        return None

    def _placed(self) -> Iterator[tuple[int, Segment]]:
        start = 0
        for segment in tuple(self.segments):
            yield start, segment
            start += len(segment.text)
