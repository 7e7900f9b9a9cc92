"""The split of a text into pieces by the rules of any byte-level BPE: one or several in turn.

A tokenizer of this library has one pattern, which `bpe_pieces` applies. Files of other programs
can name more: each rule is a `Step`, and a step splits the pieces that the one before it made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from llm_scratch.tokenizers.bpe_pieces import (
    BLOCK,
    blocks_before,
    find_pieces,
    match_spans,
    piece_finder,
    text_blocks,
)
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN
from llm_scratch.tokenizers.known_patterns import DIGIT, LLAMA3_PATTERN, QWEN2_PATTERN

Span = tuple[int, int, bool]  # where a part of a text begins and ends, and whether it was matched

# No piece of these patterns continues with a space after anything but white space, and none looks
# back, so a text that is cut there splits into the same pieces.
_CUT = re.compile(r"\S(?= )")
_MAY_BE_CUT = frozenset({DIGIT, GPT2_PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN})


class Step(NamedTuple):
    """One rule of a split.

    Args:
        pattern: the regular expression to look for; None splits nothing.
        behavior: how to treat the matches and the text between them, one of `BEHAVIORS`.
        invert: swap the matches and the text between them.
        prefix_space: put a space before a text that does not begin with one.
    """

    pattern: str | None
    behavior: str = "Isolated"
    invert: bool = False
    prefix_space: bool = False


class Splitting:
    """A split: `pieces` applies its steps, `blocks` cuts long texts where that is safe.

    Args:
        steps: the rules, in order.
    """

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.steps = steps
        each = [_splitter(step) for step in steps]
        self.pieces: Callable[[str], list[str]] = each[0] if len(each) == 1 else partial(_all, each)
        self._may_be_cut = bool(steps) and all(
            step.behavior == "Isolated" and step.pattern in _MAY_BE_CUT and not step.prefix_space
            for step in steps
        )

    @classmethod
    def by(cls, pattern: str) -> Splitting:
        """Return the split of a pattern that must match every character."""
        return cls((Step(pattern, "Removed", invert=True),))

    @property
    def pattern(self) -> str | None:
        """The one pattern that does the whole split, None if there are more rules."""
        if len(self.steps) != 1 or self.steps[0].prefix_space:
            return None
        covers = self.steps[0].behavior == "Isolated" or self.steps[0][1:3] == ("Removed", True)
        return self.steps[0].pattern if covers else None

    def blocks(self, text: str) -> Iterator[str]:
        """Yield a long text in blocks that split into the same pieces, if that is known."""
        if self._may_be_cut:
            return blocks_before(_CUT, text, BLOCK)
        return text_blocks(text, self.pattern or "")


def _all(steps: list[Callable[[str], list[str]]], text: str) -> list[str]:
    pieces = [text] if text else []
    for split in steps:
        pieces = [part for piece in pieces for part in split(piece)]
    return pieces


def _splitter(step: Step) -> Callable[[str], list[str]]:
    """Return the function of a step: str -> list of str."""
    split: Callable[[str], list[str]]
    if step.pattern is None:
        split = _whole
    elif step.behavior == "Isolated":
        split = partial(_isolated, piece_finder(step.pattern), step.pattern)
    elif step[1:3] == ("Removed", True):
        piece_finder(step.pattern)  # raises if it is not a regular expression
        split = partial(find_pieces, pattern=step.pattern)
    else:
        piece_finder(step.pattern)
        split = partial(_joined, step.pattern, BEHAVIORS[step.behavior], step.invert)
    return partial(_with_blank, split) if step.prefix_space else split


def _with_blank(split: Callable[[str], list[str]], text: str) -> list[str]:
    return split(text if text.startswith(" ") or not text else f" {text}")


def _whole(text: str) -> list[str]:
    return [text] if text else []


def _isolated(find: Callable[[str], list[str]], pattern: str, text: str) -> list[str]:
    """Return the matches and the text between them as separate pieces."""
    pieces = find(text)
    if sum(map(len, pieces)) == len(text):
        return pieces if all(pieces) else [piece for piece in pieces if piece]
    return [text[start:end] for start, end, _ in _parts(text, pattern, invert=False) if start < end]


def _joined(
    pattern: str, join: Callable[[list[Span]], list[Span]], invert: bool, text: str
) -> list[str]:
    """Return the matches and the text between them, joined by a behavior's rule."""
    spans = join(_parts(text, pattern, invert))
    return [text[start:end] for start, end, _ in spans if start < end]


def _parts(text: str, pattern: str, invert: bool) -> list[Span]:
    """Return a text's matches and the parts between them, in order."""
    parts: list[Span] = []
    done = 0
    for start, end in match_spans(text, pattern):
        if start == end == done and parts:
            continue  # an empty match right after another match
        if start > done:
            parts.append((done, start, invert))
        parts.append((start, end, not invert))
        done = end
    if done < len(text):
        parts.append((done, len(text), invert))
    return parts


def _with_previous(spans: list[Span]) -> list[Span]:
    """Join each match to the part before it, unless that is also a match."""
    joined: list[Span] = []
    before = False
    for start, end, matched in spans:
        if joined and matched and not before:
            joined[-1] = (joined[-1][0], end, matched)
        else:
            joined.append((start, end, matched))
        before = matched
    return joined


def _with_next(spans: list[Span]) -> list[Span]:
    """Join each match to the part after it, unless that is also a match."""
    joined: list[Span] = []
    behind = False
    for start, end, matched in reversed(spans):
        if joined and matched and not behind:
            joined[-1] = (start, joined[-1][1], matched)
        else:
            joined.append((start, end, matched))
        behind = matched
    return joined[::-1]


def _contiguous(spans: list[Span]) -> list[Span]:
    """Join neighbours that are both matches or both not."""
    joined: list[Span] = []
    before = False
    for start, end, matched in spans:
        if joined and matched == before:
            joined[-1] = (joined[-1][0], end, matched)
        else:
            joined.append((start, end, matched))
        before = matched
    return joined


BEHAVIORS: dict[str, Callable[[list[Span]], list[Span]]] = {
    "Isolated": lambda spans: spans,
    "MergedWithPrevious": _with_previous,
    "MergedWithNext": _with_next,
    "Contiguous": _contiguous,
}
