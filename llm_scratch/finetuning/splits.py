"""Rows in three parts: to learn from, to choose the best model with, and to judge it by."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

VALIDATION, TEST = 0.1, 0.1
Row = TypeVar("Row")


def split_rows(rows: Iterable[Row], seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Return rows in a random order as a training, a validation and a test part.

    The last two have a tenth of the rows each. The same rows and seed give the same parts.

    Raises:
        ValueError: if a part would be empty.
    """
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    test, validation = (int(share * len(mixed)) for share in (TEST, VALIDATION))
    if not test or not validation:
        raise ValueError(f"{len(mixed)} rows are too few for three parts; give ten or more")
    return mixed[test + validation :], mixed[test : test + validation], mixed[:test]
