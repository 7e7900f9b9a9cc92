"""Rows in three parts: to train on, to choose the best model with, and to test it on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

VALIDATION, TEST = 0.1, 0.1
FEWEST, FEWEST_OF_A_CLASS = 10, 3
Row = TypeVar("Row")


def split_rows(
    rows: Iterable[Row], seed: int, *, class_of: Callable[[Row], Hashable] | None = None
) -> tuple[list[Row], list[Row], list[Row]]:
    """Return rows in a random order as a training, a validation and a test part.

    The last two have a tenth of the rows each. Equal rows and seeds give equal parts.

    Args:
        rows: of any kind.
        seed: decides which rows go where.
        class_of: returns a row's class. Each part then has rows of every class, and the last two a
            tenth of each; None ignores classes.

    Raises:
        ValueError: if a part would be empty, or would lack a class; names the classes.
    """
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    if class_of is None and len(mixed) < FEWEST:
        raise ValueError(f"{len(mixed)} rows are too few for three parts; give ten or more")
    classes = [class_of(row) if class_of else None for row in mixed]
    counts = Counter(classes)
    if class_of and (few := [c for c, count in counts.items() if count < FEWEST_OF_A_CLASS]):
        named = ", ".join(f"{name} has {counts[name]}" for name in sorted(few, key=str))
        raise ValueError(
            f"too few rows of a class for three parts: {named}; {FEWEST_OF_A_CLASS} of each are "
            "needed; leave the class out (or is it a line of names, not called label and text?)"
        )
    parts: tuple[list[Row], list[Row], list[Row]] = [], [], []  # test, validation, training
    seen: Counter[Hashable] = Counter()
    for row, name in zip(mixed, classes, strict=True):
        test = max(1, int(TEST * counts[name]))
        validation = test + max(1, int(VALIDATION * counts[name]))
        parts[(seen[name] >= test) + (seen[name] >= validation)].append(row)
        seen[name] += 1
    return parts[2], parts[1], parts[0]
