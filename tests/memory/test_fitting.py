"""The law of a peak, found again in points that were made by one."""

from __future__ import annotations

import numpy as np
import pytest

from llm_scratch.memory.fitting import fit_law
from llm_scratch.memory.sweep_files import read_sweep

X = np.arange(1, 201)
NOISE = np.random.default_rng(5).normal(0, 3.0, len(X))


@pytest.mark.parametrize(
    ("floor", "intercept", "slope"), [(900, 500, 4), (1200, 0, 40), (50, 5, 1)]
)
def test_fit_finds_a_planted_floor_slope_and_knee(floor, intercept, slope) -> None:
    law = fit_law(X, np.maximum(floor, intercept + slope * X) + NOISE * slope / 10)
    assert law.floor == pytest.approx(floor, rel=0.01)
    assert law.slope == pytest.approx(slope, rel=0.01)
    assert law.knee == pytest.approx((floor - intercept) / slope, rel=0.02)
    assert law.at(1) == law.floor
    assert law.at(200) == pytest.approx(intercept + slope * 200, rel=0.01)


def test_fit_is_exact_where_points_are_and_their_order_is_nothing_to_it() -> None:
    x = [9, 2, 7, 1, 3, 8, 2, 4, 5, 6]
    law = fit_law(x, [max(12.0, 1 + 2.5 * each) for each in x])
    assert (law.floor, law.slope, law.knee) == pytest.approx((12.0, 2.5, 4.4))
    assert law.error == pytest.approx(0, abs=1e-9)


def test_fit_finds_no_floor_in_a_line_and_no_slope_in_what_is_flat() -> None:
    law = fit_law(X, 300 + 7 * X + NOISE)
    assert law.floor is None
    assert law.knee is None
    assert law.slope == pytest.approx(7, rel=0.01)
    law = fit_law(X, 300 + NOISE)
    assert (law.slope, law.knee) == (0, None)
    assert law.intercept == pytest.approx(300, rel=0.01)


def test_fit_takes_two_points_for_a_line_and_refuses_one() -> None:
    assert fit_law([1, 2], [14, 20]).slope == pytest.approx(6)
    with pytest.raises(ValueError, match="two different x"):
        fit_law([3, 3], [1.0, 2.0])
    with pytest.raises(ValueError, match="3 x and 2 y"):
        fit_law([1, 2, 3], [1.0, 2.0])


def test_fit_finds_the_knee_of_the_series_half_billion_model(series_file) -> None:
    """Where the optimizer's step stops having the peak: 929 tokens, as its figures say."""
    path = series_file("sequence-length-memory-modeling/results-with-env-var.csv")
    (curve,) = read_sweep(path)
    points = [
        (x, spread.mean / 2**20) for x, found in curve.of("active").items() for spread in found
    ]
    law = fit_law(*zip(*points, strict=True))
    assert law.knee == pytest.approx(929, rel=0.03)
    assert law.floor == pytest.approx(10_896, rel=0.001)
    assert law.slope == pytest.approx(2.955, rel=0.01)
