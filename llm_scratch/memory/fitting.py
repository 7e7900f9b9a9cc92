"""The law of a peak: flat while it is the optimizer's step, then linear: y = max(a, b + c x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 3  # the fewest points on a floor, and on the line after it
WORTH = 0.9  # a floor or slope counts if it lowers the squared error below this share


@dataclass(frozen=True)
class Law:
    """The law that fits measured points best, in their units.

    Args:
        floor: a, the height of the flat part; None if there is none.
        intercept: b, the value of the line at x = 0.
        slope: c, the increase per unit of x; 0 if all is flat.
        error: the root mean square of the differences.
    """

    floor: float | None
    intercept: float
    slope: float
    error: float

    @property
    def knee(self) -> float | None:
        """The x at which the line leaves the floor; None if one of them is missing."""
        if self.floor is None or not self.slope:
            return None
        return (self.floor - self.intercept) / self.slope

    def at(self, x: float) -> float:
        """Return the value of the law at x."""
        line = self.intercept + self.slope * x
        return line if self.floor is None else max(self.floor, line)


def fit_law(xs: Sequence[float], ys: Sequence[float]) -> Law:
    """Return the law of least squared error, with a floor or slope only if the points show one.

    Args:
        xs: the x of each point, in any order; may repeat.
        ys: the measured value of each point.

    Raises:
        ValueError: if there are not two different x, or `xs` and `ys` differ in length.
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
    """Return possible knees: the inner x, and where floor and line on either side meet."""
    places = np.unique(x)
    inner = places[LEAST - 1 : 1 - LEAST]  # with enough points on either side
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
    """Return the law of least squared error with this knee, and that error."""
    bent, _ = _line(np.maximum(x, knee), y)  # y = intercept + slope * max(x, knee)
    if bent.slope <= 0:
        return bent, np.inf
    floor = float(bent.intercept + bent.slope * knee)
    law = Law(floor, bent.intercept, bent.slope, 0.0)
    error = float(((y - np.maximum(floor, law.intercept + law.slope * x)) ** 2).sum())
    return Law(law.floor, law.intercept, law.slope, _mean_root(error, y)), error


def _mean_root(error: float, y: np.ndarray) -> float:
    return float(np.sqrt(error / len(y)))
