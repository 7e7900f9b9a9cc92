"""Learning rates as pure functions of the step: warm-up, then one of three schedules.

Steps count from 1. During warm-up the rate rises linearly and is `peak` at step `warmup`; at the
last step it is `minimum`. There is no state between steps, so a resumed run has the rates of a run
that was never interrupted.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from llm_scratch.checks import check_count

Schedule = Literal["cosine", "linear", "constant"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def learning_rate(
    step: int,
    *,
    steps: int,
    peak: float,
    minimum: float = 0.0,
    warmup: int = 0,
    schedule: Schedule = "cosine",
    decay_share: float = 0.2,
) -> float:
    """Return the learning rate of one step.

    The first rate is `peak / warmup`, or `peak` without warm-up; the last is `minimum`
    (a run of a single step has `peak`).

    Args:
        step: 1 to `steps`.
        steps: the number of steps of the run.
        peak: the largest rate, reached at step `warmup`.
        minimum: the rate of the last step.
        warmup: steps of linear rise; 0 is none.
        schedule: "cosine" falls along half a cosine, "linear" along a line; "constant" stays at
            the peak and falls along a line in the last part of the run.
        decay_share: "constant" only: the share of the run in which the rate falls, 0 to 1; with 0
            it never falls.

    Raises:
        ValueError: if a number is out of range, or warm-up leaves no further step.

    Source:
        Book D.1 and D.2; Loshchilov and Hutter 2017, arXiv:1608.03983 (cosine); Zhai et al. 2022,
        arXiv:2106.04560, section 3.5 (constant, then down).
    """
    check_schedule(steps, peak, minimum, warmup, schedule, decay_share)
    if not 1 <= step <= steps:
        raise ValueError(f"{step=} lies outside of 1 to {steps=}")
    if step <= warmup:
        return peak * step / warmup
    if schedule == "constant":
        if decay_share == 0:
            return peak
        start = max(warmup, 1, steps - round(decay_share * steps))
    else:
        start = max(warmup, 1)
    if step <= start:
        return peak
    progress = (step - start) / (steps - start)
    if schedule == "cosine":
        return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * progress))
    return peak + (minimum - peak) * progress


def check_schedule(
    steps: int, peak: float, minimum: float, warmup: int, schedule: str, decay_share: float = 0.2
) -> None:
    """Check that a schedule is possible; raise ValueError as `learning_rate` does if it is not."""
    if schedule not in SCHEDULES:
        raise ValueError(f"{schedule=} is not known; there are {', '.join(SCHEDULES)}")
    check_count("steps", steps)
    if not 0 <= minimum <= peak < math.inf:
        raise ValueError(f"rates must be 0 <= minimum <= peak, got {minimum=} and {peak=}")
    if not 0 <= decay_share <= 1:
        raise ValueError(f"{decay_share=} must be from 0 to 1")
    if warmup < 0 or (warmup >= steps and warmup > 0):
        raise ValueError(
            f"{warmup=} steps of warm-up do not fit a run of {steps=}; at most {steps - 1}"
        )
