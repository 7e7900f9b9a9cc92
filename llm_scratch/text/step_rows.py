"""The choice of rows for a training step, the same for rows of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict, Unpack

from llm_scratch.checks import check_count
from llm_scratch.text.shuffling import epoch_order


class Piece(TypedDict, total=False):
    """The requested rows of a step that is taken in pieces; see `rows_of_step`."""

    first_row: int
    step_rows: int | None


def rows_of_step(
    n: int, step: int, rows: int, first_row: int = 0, step_rows: int | None = None
) -> list[tuple[int, int, int]]:
    """Return the positions of a step's rows in each epoch's order: (epoch, begin, end).

    Rows come epoch after epoch, so a step may take the last rows of one and the first of the
    next. The result depends only on the arguments: a run resumed at step 1,000 gets the same rows,
    and several processes share a step without communication.

    Args:
        n: number of rows per epoch.
        step: number of the step, from 0.
        rows: number of rows to return.
        first_row: number of rows to skip first, for a step that is taken in pieces.
        step_rows: number of rows in the whole step, if it is taken in pieces; by default `rows`.

    Raises:
        ValueError: if an argument is below its range, or some rows are not among the step's.
    """
    for name, value, least in (("step", step, 0), ("first_row", first_row, 0), ("rows", rows, 1)):
        check_count(name, value, least)
    if step_rows is not None and first_row + rows > step_rows:
        raise ValueError(
            f"rows {first_row} to {first_row + rows - 1} are not all among the {step_rows} of "
            f"a step; take fewer rows, or raise {step_rows=}"
        )
    first = step * (rows if step_rows is None else step_rows) + first_row
    last = first + rows - 1
    return [
        (epoch, max(first - epoch * n, 0), min(last + 1 - epoch * n, n))
        for epoch in range(first // n, last // n + 1)
    ]


def shuffled_rows(seed: int, n: int, step: int, rows: int, **piece: Unpack[Piece]) -> list[int]:
    """Return which of n rows a step reads; see `rows_of_step`."""
    places = rows_of_step(n, step, rows, **piece)
    return [row for place in places for row in epoch_order(seed, place[0], n, *place[1:]).tolist()]


def rows_in_turn(n: int, rows: int) -> Iterator[range]:
    """Return the positions of all n rows in order, `rows` at a time; the last range may be shorter.

    Raises:
        ValueError: immediately, if `rows` is below 1.
    """
    check_count("rows", rows)
    return (range(first, min(first + rows, n)) for first in range(0, n, rows))
