"""Checks of numbers from callers: a wrong one is refused by name before any work is done."""

from __future__ import annotations

import math
import numbers
from typing import Any


def check_count(name: str, value: Any, least: int = 1, note: str = "") -> None:
    """Refuse a value that is not a whole number, or is too small.

    Args:
        name: the caller's name for the value.
        value: the value that was given.
        least: the smallest value that makes sense.
        note: the end of the sentence, such as "None means unlimited".

    Raises:
        ValueError: naming the value.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        wanted = f"{least} or more" + ("" if whole else ", a whole number")
        raise ValueError(f"{name}={value!r} must be {wanted}{note and '; ' + note}")


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Return whether a value is a finite real number from `low` to `high`, both included."""
    sound = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        return sound and math.isfinite(value) and low <= value <= high
    except OverflowError:  # an integer too large for a float
        return False
