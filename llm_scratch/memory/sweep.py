"""A sweep: points over lengths or batches, measured one after the other into a file.

The plan and the rows so far determine what is measured next: a sweep that was killed and resumed
writes the same file as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llm_scratch.checks import check_count
from llm_scratch.files import PathLike
from llm_scratch.memory.outcomes import OK, OOM
from llm_scratch.memory.point import Point
from llm_scratch.memory.sweep_table import COUNTED, KEYS, MOVING, Row, SweepTable, row_of

Axis = Literal["length", "batch"]
Until = Literal["end", "oom", "largest"]
Measure = Callable[[Point], Mapping[str, Any]]
MIB = 2**20


@dataclass(frozen=True)
class Range:
    """The numbers from `first` up to `last` in steps of `step`, or a list of numbers.

    Args:
        first: the first number.
        last: the upper bound, inclusive; None: there is no end.
        step: the distance from one number to the next.
        listed: the numbers themselves, if they were given as a list.
    """

    first: int
    last: int | None
    step: int = 1
    listed: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> int:
        if self.listed:
            return self.listed[index]
        return self.first + index * self.step

    @property
    def size(self) -> int | None:
        """The count of the numbers; None if there is no end."""
        if self.listed:
            return len(self.listed)
        return None if self.last is None else (self.last - self.first) // self.step + 1

    def up_to(self, most: int) -> Range:
        """Return the same numbers, with an end if they had none."""
        return replace(self, last=most) if self.size is None else self


def range_of(text: str, name: str) -> Range:
    """Return the numbers that a text stands for: "64", "1,2,4", "1:2048:64", or "1:" without end.

    Raises:
        ValueError: if the text is none of these, or a number is below 1.
    """
    try:
        first, *rest = text.split(":")
        if not rest:
            listed = tuple(sorted(set(map(int, text.split(",")))))
            found = Range(listed[0], listed[-1], 1, listed)
        else:
            last, step = rest if len(rest) == 2 else (*rest, "1")
            found = Range(int(first), int(last) if last else None, int(step or 1))
    except ValueError:
        found = Range(0, 0)
    ends_early = found.last is not None and found.last < found.first
    if min(found.first, found.step) < 1 or ends_early:
        raise ValueError(
            f"--{name} {text!r} must be like 64, or 1,2,4, or 1:2048:64 (first:last:step), or 1: "
            "(without an end), from 1 on"
        )
    return found


@dataclass(frozen=True)
class Walk:
    """Points that differ along one axis only.

    Args:
        start: any of the points.
        axis: the setting that differs.
        values: the values of that setting, rising.
    """

    start: Point
    axis: Axis
    values: Range

    def __post_init__(self) -> None:
        if self.values.size is not None:
            self.point(self.values.size - 1)  # refuses an impossible point

    def point(self, index: int) -> Point:
        """Return the point at the value with this index."""
        name = "rows" if self.axis == "batch" else "length"
        step: Any = replace(self.start.step, **{name: self.values[index]})  # type: ignore[arg-type]
        return replace(self.start, step=step)


class Sweep:
    """Walks that are measured into one file.

    Args:
        path: the file, which an earlier sweep of the same configuration may have begun.
        walks: the walks in order.
        facts: the facts of the place (`place.facts_of`).
        measure: a function that returns the results of a point.
        until: "end" measures all values, "oom" those up to the first that runs out of memory,
            "largest" searches by bisection for the largest value that does not.
        repeats: starts for each point.
        log: a function that gets each line.

    Raises:
        ValueError: if the plan is impossible, or the file is from another configuration.
    """

    def __init__(
        self,
        path: PathLike,
        walks: Sequence[Walk],
        facts: Mapping[str, Any],
        measure: Measure,
        *,
        until: Until = "end",
        repeats: int = 1,
        log: Callable[[str], object] = print,
    ) -> None:
        check_count("repeats", repeats)
        if until == "end" and any(walk.values.size is None for walk in walks):
            raise ValueError("a range without an end needs --until-oom or --largest, which ends it")
        self._walks, self._measure, self._until, self._log = walks, measure, until, log
        self._repeats = range(1, repeats + 1)
        self._facts = row_of({name: value for name, value in facts.items() if name != "device"})
        rows = [walk.start.as_row() for walk in walks]
        varied = [name for name in rows[0] if len({row[name] for row in rows}) > 1]
        self._varied = [name for name in varied if name not in MOVING]
        known = {name: value for name, value in rows[0].items() if name in KEYS}
        self._table = SweepTable(path, {**row_of(known), **self._facts}, varied)

    def run(self) -> list[Row]:
        """Measure the points still missing; return all rows of the file."""
        try:
            for walk in self._walks:
                if self._until == "largest":
                    self._say_largest(walk, self._largest(walk))
                else:
                    self._along(walk)
        finally:
            self._table.close()
        return self._table.rows

    def _along(self, walk: Walk) -> None:
        """Measure one value after the other."""
        index = 0
        while walk.values.size is None or index < walk.values.size:
            rows = self._rows(walk, index)
            index += 1
            ended = any(row["state"] == OOM for row in rows)
            hopeless = walk.values.size is None and all(row["state"] != OK for row in rows)
            if self._until == "oom" and (ended or hopeless):
                return

    def _largest(self, walk: Walk) -> int | None:
        """Return the index of the largest value that fits; None if not even the first one does."""
        fits, top = -1, walk.values.size
        if top is None:
            top = 1
            while self._fits(walk, top - 1):
                fits, top = top - 1, 2 * top
            top -= 1  # this one does not fit
        while fits + 1 < top:
            middle = (fits + top) // 2
            if self._fits(walk, middle):
                fits = middle
            else:
                top = middle
        return None if fits < 0 else fits

    def _fits(self, walk: Walk, index: int) -> bool:
        return all(row["state"] == OK for row in self._rows(walk, index))

    def _say_largest(self, walk: Walk, place: int | None) -> None:
        if place is None:
            self._log(f"not even a {walk.axis} of {walk.values[0]} fits")
        else:
            self._log(f"the largest {walk.axis} that fits: {walk.values[place]}")

    def _rows(self, walk: Walk, index: int) -> list[Row]:
        """Return the rows of a point, measuring those that are missing."""
        point, rows = walk.point(index), []
        for repeat in self._repeats:
            known = row_of({**point.as_row(), "repeat": repeat})
            row = self._table.find(known)
            if row is None:
                row = self._table.add({**known, **self._facts, **row_of(self._measure(point))})
                self._log(as_line(row, self._varied))
            rows.append(row)
        return rows


def as_line(row: Mapping[str, str], varied: Sequence[str] = ()) -> str:
    """Return the log line of a row: its place, including the varied settings, and its results."""
    places = [f"{name} {row[name] or 'none'}" for name in ("length", "batch", *varied)]
    where = ", ".join(places)
    if row["state"] == OOM:
        return f"{where}: out of memory ({row['reason']})"
    if row["state"] != OK:
        return f"{where}: failed: {row['reason']}"
    sizes = [
        f"{int(row[f'{name}_max']) / MIB:,.0f} MiB {name}"
        for name in COUNTED
        if row[f"{name}_max"] and (name != "resident" or not row["allocated_max"])
    ]
    speed = f"{float(row['seconds_per_step']):.3g} s per step"
    rate = f"{float(row['tokens_per_s']):,.0f} tokens/s"
    return f"{where}: {', '.join(sizes)}; {speed}, {rate}"
