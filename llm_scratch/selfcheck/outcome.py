"""A check, and its possible outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["right", "wrong", "open", "waits", "note"]
"""`open`: not written yet; `waits`: needs another line first; `note`: never a fault."""


class MistakeError(Exception):
    """A mistake that a check found, in a learner's words.

    Args:
        expected: the right result, in words.
        came: the actual result, in words.
        hint: where to look.
        counts: False for a difference that is not a fault.
    """

    def __init__(self, expected: str, came: str, hint: str = "", *, counts: bool = True) -> None:
        super().__init__(f"expected {expected}, got {came}")
        self.expected = expected
        self.came = came
        self.hint = hint
        self.counts = counts


class WaitsError(Exception):
    """The reason why a check can't be run now, such as a library that is not installed."""


@dataclass(frozen=True)
class Check:
    """One claim about one public name of the book.

    Args:
        section: the book's section.
        name: the name that the reader writes.
        claim: the claim, as the report prints it.
        run: takes the reader's object; raises `MistakeError` if the claim does not hold.
        also: another name that the book gives it.
        other: for a name that the book uses twice: takes the name and the reader's object, and
            returns why this check is not about that object, "" if it is.
    """

    section: str
    name: str
    claim: str
    run: Callable[[Any], object]
    also: str = ""
    other: Callable[[str, Any], str] | None = None


@dataclass(frozen=True)
class Result:
    """The outcome of one check; `detail` is the reason if nothing was checked."""

    check: Check
    state: State
    expected: str = ""
    came: str = ""
    hint: str = ""
    detail: str = ""
