"""Numbers that callers give, refused by name before any work is done."""

from __future__ import annotations

import math
import numbers
from typing import Any


def check_count(name: str, value: Any, least: int = 1, note: str = "") -> None:
    """Refuse what is no whole number, or too small a one.

    Args:
        name: what the caller calls it.
        value: what was given.
        least: the smallest that makes sense.
        note: the end of the sentence, such as "None is no limit".

    Raises:
        ValueError: naming the value.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        wanted = f"{least} or more" + ("" if whole else ", a whole number")
        raise ValueError(f"{name}={value!r} must be {wanted}{note and '; ' + note}")


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a finite real number from `low` to `high`, both included."""
    sound = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        return sound and math.isfinite(value) and low <= value <= high
    except OverflowError:  # an integer that no float holds
        return False
