"""Learning rates are what the formulas say, at the edges too."""

from __future__ import annotations

import math

import pytest

from llm_scratch.training.schedules import SCHEDULES, learning_rate


def rates(**options) -> list[float]:
    options = {"steps": 10, "peak": 1.0, "minimum": 0.1, **options}
    return [learning_rate(step, **options) for step in range(1, options["steps"] + 1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 4, 9])
def test_learning_rate_rises_to_the_peak_and_ends_at_the_minimum(schedule, warmup):
    values = rates(schedule=schedule, warmup=warmup)
    assert values[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])
    assert max(values) == 1.0
    assert values[max(warmup, 1) - 1] == 1.0
    assert values[-1] == pytest.approx(0.1)
    assert values[max(warmup, 1) - 1 :] == sorted(values[max(warmup, 1) - 1 :], reverse=True)


def test_learning_rate_cosine_is_half_way_down_in_the_middle():
    assert rates(steps=11, schedule="cosine")[5] == pytest.approx(0.55)
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    assert rates(steps=9, schedule="cosine")[2] == pytest.approx(quarter)


def test_learning_rate_linear_falls_evenly():
    assert rates(steps=4, schedule="linear") == pytest.approx([1.0, 0.7, 0.4, 0.1])


def test_learning_rate_constant_falls_in_the_last_part_only():
    assert rates(schedule="constant", decay_share=0.2) == pytest.approx([1.0] * 8 + [0.55, 0.1])
    assert rates(schedule="constant", decay_share=0) == [1.0] * 10


def test_learning_rate_of_a_single_step_is_the_peak():
    assert rates(steps=1) == [1.0]


@pytest.mark.parametrize("warmup", [10, 15, -1])
def test_learning_rate_refuses_a_warm_up_that_does_not_fit(warmup):
    with pytest.raises(ValueError, match="do not fit a run of steps=10; at most 9"):
        learning_rate(1, steps=10, peak=1.0, warmup=warmup)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step=0 lies outside"),
        ({"step": 11}, "step=11 lies outside"),
        ({"steps": 0}, "steps=0 must be 1 or more"),
        ({"minimum": 2.0}, "0 <= minimum <= peak"),
        ({"peak": float("nan")}, "0 <= minimum <= peak"),
        ({"schedule": "stairs"}, "'stairs' is not known; there are cosine"),
        ({"decay_share": 1.5}, "must be from 0 to 1"),
    ],
)
def test_learning_rate_refuses_what_makes_no_schedule(options, message):
    options = {"step": 1, "steps": 10, "peak": 1.0, **options}
    with pytest.raises(ValueError, match=message):
        learning_rate(options.pop("step"), **options)
