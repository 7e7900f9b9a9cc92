"""Pieces of a text, cut at the places where answers start and marked where they are learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llm_scratch.conversations.encoding import Segment


class Pieces:
    """The pieces of a text, which can be cut at any place in it.

    Args:
        segments: the pieces.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = list(segments)
        self.text = "".join(segment.text for segment in segments)

    def cut(self, place: int) -> None:
        """Let an answer start at a place; a place within a control token is ignored."""
        for i, (start, segment) in enumerate(self._placed()):
            at = place - start
            if at == 0:
                self.segments[i] = replace(segment, starts=True)
            elif 0 < at < len(segment.text) and not segment.control:
                left = replace(segment, text=segment.text[:at])
                right = replace(segment, text=segment.text[at:], starts=True)
                self.segments[i : i + 1] = [left, right]

    def up_to(self, place: int) -> list[Segment]:
        """Return the pieces before a place; text that is encoded together is one piece."""
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
        """Mark the text from a place to the next control token, included; return the token's slice.

        If no control token follows, nothing is marked and None comes back.
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
