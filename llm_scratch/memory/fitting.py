"""The law of a peak: flat while the optimizer's step has it, then linear: y = max(a, b + c x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 3  # points on a line, and on a floor, for either to be one
WORTH = 0.9  # at most so much of the squared error is left by what counts as a floor


@dataclass(frozen=True)
class Law:
    """The law that fits measured points best, in their own units.

    Args:
        floor: a, the height of the flat part; None where there is none.
        intercept: b, where the line would begin.
        slope: c, what one more of x costs; 0 where all is flat.
        error: the root of the mean squared difference.
    """

    floor: float | None
    intercept: float
    slope: float
    error: float

    @property
    def knee(self) -> float | None:
        """The x at which the line leaves the floor; None where one of them is missing."""
        if self.floor is None or not self.slope:
            return None
        return (self.floor - self.intercept) / self.slope

    def at(self, x: float) -> float:
        """Return what the law says for an x."""
        line = self.intercept + self.slope * x
        return line if self.floor is None else max(self.floor, line)


def fit_law(xs: Sequence[float], ys: Sequence[float]) -> Law:
    """Return the law with the least squared error; a floor or a slope only where points show it.

    Args:
        xs: where was measured, in any order, also several times.
        ys: what was measured.

    Raises:
        ValueError: if there are not two different x, or the two differ in length.
    """
    x, y = (np.asarray(values, dtype=float) for values in (xs, ys))
    if x.shape != y.shape or len(np.unique(x)) < 2:
        raise ValueError(
            f"{len(x)} x and {len(y)} y; a fit needs two different x, and a y for each"
        )
    line, line_error = _line(x, y)
    found = [_with_knee(x, y, knee) for knee in _knees(x, y)]
    law, error = min(found, key=lambda pair: pair[1], default=(line, np.inf))
    flat_error = float(((y - y.mean()) ** 2).sum())
    if error < WORTH * min(line_error, flat_error):
        return law
    if line.slope > 0 and line_error < WORTH * flat_error:
        return line
    return Law(float(y.mean()), float(y.mean()), 0.0, _mean_root(flat_error, y))


def _knees(x: np.ndarray, y: np.ndarray) -> list[float]:
    """Return where a knee may be: at each x, and where floor and line of two parts meet."""
    places = np.unique(x)
    inner = places[LEAST - 1 : 1 - LEAST]  # with points enough on either side
    found = list(inner)
    for left, right in zip(inner[:-1], inner[1:], strict=True):
        flat, rest = y[x <= left].mean(), x > left
        line, _ = _line(x[rest], y[rest])
        if line.slope > 0 and left < (knee := (flat - line.intercept) / line.slope) < right:
            found.append(knee)
    return found


def _line(x: np.ndarray, y: np.ndarray) -> tuple[Law, float]:
    """Return the line of least squared error, and that error."""
    from_mean = x - x.mean()
    slope = float((from_mean * y).sum() / (from_mean**2).sum())
    intercept = float(y.mean() - slope * x.mean())
    error = float(((y - intercept - slope * x) ** 2).sum())
    return Law(None, intercept, slope, _mean_root(error, y)), error


def _with_knee(x: np.ndarray, y: np.ndarray, knee: float) -> tuple[Law, float]:
    """Return the law of least squared error with its knee there, and that error."""
    bent, _ = _line(np.maximum(x, knee), y)  # y = intercept + slope * max(x, knee)
    if bent.slope <= 0:
        return bent, np.inf
    floor = float(bent.intercept + bent.slope * knee)
    law = Law(floor, bent.intercept, bent.slope, 0.0)
    error = float(((y - np.maximum(floor, law.intercept + law.slope * x)) ** 2).sum())
    return Law(law.floor, law.intercept, law.slope, _mean_root(error, y)), error


def _mean_root(error: float, y: np.ndarray) -> float:
    return float(np.sqrt(error / len(y)))
