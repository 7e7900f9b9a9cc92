"""The contents of sweep files: this library's, and those of the series on fine-tuning.

The files of the series "Messing around with fine-tuning LLMs" (parts 6 to 9) have no header and two
layouts: `x, active, reserved, steps/s` for one GPU, and for eight GPUs one row from each, with a
pair of columns for every GPU, of which only its own pair is not 0. `x, OOM` marks where memory ran
out, from one process or several. Sizes are in MiB. The steps/s are about 3.6 % too high, since 29
steps are divided by the time of 28; they are returned unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from llm_scratch.files import FileError, PathLike, lines_of, read_text
from llm_scratch.memory.outcomes import OK, OOM
from llm_scratch.memory.sweep_table import COUNTED, HEAD, KEYS, SETTINGS, Row, rows_in

MIB = 2**20
ONE_GPU, EIGHT_GPUS = 4, 18  # columns


class Spread(NamedTuple):
    """Bytes of several processes: the least, the mean, the most."""

    least: float
    mean: float
    most: float


@dataclass(frozen=True)
class Reading:
    """A measurement at one x.

    Args:
        x: the length or the batch.
        state: "ok", "oom" or "failed".
        numbers: bytes by what is counted, such as "active".
        steps_per_s: as in the file; None if missing.
        ranks: the number of processes.
        row: the row in this library's file, with the complete configuration; else None.
    """

    x: int
    state: str
    numbers: Mapping[str, Spread] = field(default_factory=dict)
    steps_per_s: float | None = None
    ranks: int = 1
    row: Row | None = None


@dataclass(frozen=True)
class Curve:
    """Readings along one axis, all else the same.

    Args:
        label: what distinguishes the curve from others in its file; "" if there are none.
        axis: "length" or "batch"; "" if the file does not say.
        readings: the readings, rising in x.
    """

    label: str
    axis: str
    readings: tuple[Reading, ...]

    def of(self, name: str) -> dict[int, list[Spread]]:
        """Return the measurements of a number, by x."""
        found: dict[int, list[Spread]] = {}
        for reading in self.readings:
            if name in reading.numbers:
                found.setdefault(reading.x, []).append(reading.numbers[name])
        return found

    @property
    def out(self) -> list[int]:
        """The x at which memory ran out."""
        return sorted({reading.x for reading in self.readings if reading.state == OOM})


def read_sweep(path: PathLike) -> list[Curve]:
    """Return the curves in a sweep file of this library or of the series.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is neither; the message names the line.
    """
    text = read_text(path)
    if text.startswith(HEAD.partition(",")[0] + ","):
        return _curves(path, rows_in(path, text))
    return [Curve("", _axis_in(Path(path)), _series(path, lines_of(text)))]


def _curves(path: PathLike, rows: Sequence[Row]) -> list[Curve]:
    """Return the curves of this library's rows, split by the columns in which rows differ."""
    if not rows:
        raise FileError(path, "line 2 is missing: the sweep has no row yet")
    different = {name: len({row[name] for row in rows}) for name in KEYS}
    axis = "batch" if different["batch"] >= different["length"] else "length"
    if different["batch"] == different["length"] == 1:
        axis = "length"
    other = "length" if axis == "batch" else "batch"
    telling = [name for name in (other, *SETTINGS) if different[name] > 1]
    groups: dict[str, list[Reading]] = {}
    for number, row in enumerate(rows, 2):
        label = ", ".join(f"{name}={row[name] or 'none'}" for name in telling)
        groups.setdefault(label, []).append(_reading(path, number, row, axis))
    return [Curve(label, axis, _rising(found)) for label, found in groups.items()]


def _reading(path: PathLike, number: int, row: Row, axis: str) -> Reading:
    try:
        numbers = {
            name: Spread(*(float(row[f"{name}_{of}"]) for of in ("min", "mean", "max")))
            for name in COUNTED
            if row[f"{name}_max"]
        }
        speed = 1 / float(row["seconds_per_step"]) if row["seconds_per_step"] else None
        return Reading(int(row[axis]), row["state"], numbers, speed, int(row["ranks"]), row)
    except (ValueError, ZeroDivisionError) as err:
        raise FileError(path, f"line {number} is not a row of a sweep: {err}") from None


def _rising(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    return tuple(sorted(readings, key=lambda reading: reading.x))


def _axis_in(path: Path) -> str:
    """Return the axis that the name of a series' folder states; "" elsewhere."""
    names = {"sequence-length": "length", "batch-size": "batch"}
    found = [axis for start, axis in names.items() if path.parent.name.startswith(start)]
    return found[0] if found else ""


def _series(path: PathLike, lines: Sequence[str]) -> tuple[Reading, ...]:
    """Return the series' readings; of rows that a retry wrote again, the last counts."""
    found: dict[int, dict[int, list[float]]] = {}  # x -> rank -> active, reserved, steps/s
    out: set[int] = set()
    columns = 0
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split(",")]
        if cells[1:] == ["OOM"] and cells[0].isdigit():
            out.add(int(cells[0]))
            continue
        columns = columns or len(cells)
        x, values = _numbers(path, number, cells, columns)
        rank = _rank_in(path, number, values)
        found.setdefault(x, {})[rank] = [*values[2 * rank : 2 * rank + 2], values[-1]]
    if not found and not out:
        raise FileError(path, "line 1 is missing: the file is empty")
    ranks = max(1, (columns - 2) // 2)
    for x, by_rank in found.items():
        missing = [str(rank) for rank in range(ranks) if rank not in by_rank]
        if missing:
            raise FileError(path, f"rank {', '.join(missing)} of {ranks} is missing at {x}")
    readings = [_merged(x, list(by_rank.values())) for x, by_rank in found.items()]
    return _rising([*readings, *(Reading(x, OOM, ranks=ranks) for x in out - found.keys())])


def _numbers(
    path: PathLike, number: int, cells: Sequence[str], columns: int
) -> tuple[int, list[float]]:
    """Return x and the numbers of a row; refuse a row of neither layout."""
    try:
        if len(cells) != columns or columns not in (ONE_GPU, EIGHT_GPUS):
            raise ValueError(f"{len(cells)} columns")
        values = [float(cell) for cell in cells[1:]]
        if not all(0 <= value < float("inf") for value in values):
            raise ValueError("a number below 0")
        return int(cells[0]), values
    except ValueError as err:
        raise FileError(
            path,
            f"line {number} is neither a sweep's row nor one of the series (x, then 3 or 17 "
            f"numbers, or OOM): {err}",
        ) from None


def _rank_in(path: PathLike, number: int, values: Sequence[float]) -> int:
    """Return the rank that wrote a row: the one whose pair is not 0."""
    pairs = [rank for rank in range(len(values) // 2) if any(values[2 * rank : 2 * rank + 2])]
    if len(pairs) != 1:
        raise FileError(path, f"line {number} has the memory of {len(pairs)} processes, not of 1")
    return pairs[0]


def _merged(x: int, found: Sequence[Sequence[float]]) -> Reading:
    numbers = {}
    for place, name in enumerate(("active", "reserved")):
        sizes = [values[place] * MIB for values in found]
        numbers[name] = Spread(min(sizes), sum(sizes) / len(sizes), max(sizes))
    return Reading(x, OK, numbers, sum(values[-1] for values in found) / len(found), len(found))
