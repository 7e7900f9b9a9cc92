"""Curves of sweeps and the laws fitted to them, as numbers to draw and text to print."""

from __future__ import annotations

from llm_scratch.files import FileError, PathLike
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.fitting import Law, fit_law
from llm_scratch.memory.point import point_in
from llm_scratch.memory.sweep_files import Curve

MIB = 2**20
# The number that is compared with estimates by default: the first of these that was measured.
USUAL = ("allocated", "active", "resident", "reserved")

Point = tuple[float, float]


def main_number(path: PathLike, curve: Curve, asked: str | None = None) -> str:
    """Return the name of the number to show of a curve.

    Raises:
        FileError: if the file lacks this number, or has none at all.
    """
    there = [name for name in USUAL if curve.of(name)]
    if not there or (asked is not None and asked not in there):
        has = f"it has {', '.join(there)}" if there else "no point of it was measured"
        raise FileError(path, f"holds no number {asked or 'of memory'}: {has}")
    return asked or there[0]


def measured_points(curve: Curve, number: str) -> list[tuple[float, float, float, float]]:
    """Return (x, least, mean, most) of every reading, in bytes."""
    return [(x, *spread) for x, found in sorted(curve.of(number).items()) for spread in found]


def law_of(curve: Curve, number: str) -> Law | None:
    """Return the law that fits the means of a curve, in bytes; None for fewer than two x."""
    points = measured_points(curve, number)
    xs, ys = [point[0] for point in points], [point[2] for point in points]
    return fit_law(xs, ys) if len(set(xs)) > 1 else None


def law_points(curve: Curve, law: Law | None) -> list[Point]:
    """Return (x, bytes) of a law at the first x, at its knee and at the last x."""
    if law is None:
        return []
    xs = [reading.x for reading in curve.readings]
    between = [] if law.knee is None else [law.knee]
    places = [min(xs), *(x for x in between if min(xs) < x < max(xs)), max(xs)]
    return [(x, law.at(x)) for x in places]


def law_text(law: Law | None, axis: str) -> str:
    """Return a law in words: floor, slope, knee and error."""
    if law is None:
        return "one x only, which no law can be fitted to"
    each = {"length": "token", "batch": "row"}.get(axis, "x")
    off = f"(off by {law.error / MIB:,.1f} MiB)"
    if not law.slope:
        return f"{law.intercept / MIB:,.0f} MiB {off}"
    slope = law.slope / MIB
    more = f"{slope:,.0f}" if slope >= 1000 else f"{slope:.4g}"
    line = f"{law.intercept / MIB:,.0f} + {more} MiB per {each}"
    if law.floor is None or law.knee is None:
        return f"{line} {off}"
    return f"{law.floor / MIB:,.0f} MiB up to {law.knee:,.4g}, then {line} {off}"


def estimated_points(path: PathLike, curve: Curve) -> list[Point]:
    """Return (x, estimate in bytes) of the steps of a curve, even if they ran out of memory.

    Raises:
        FileError: if the file does not say what its steps were.
    """
    found: dict[float, float] = {}
    for reading in curve.readings:
        if reading.row is None:
            raise FileError(
                path,
                "does not say what was computed, so there are no estimates; leave --estimate out",
            )
        if reading.x not in found:
            try:
                found[reading.x] = estimate_memory(point_in(reading.row).step).bytes
            except ValueError as err:
                raise FileError(path, f"a row holds no step: {err}") from err
    return sorted(found.items())
