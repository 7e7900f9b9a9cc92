"""The checks of appendix D: the largest gradient, and the loop with warm-up, decay and clipping.

The book's schedule is right, and so are schedules that reach their ends one step earlier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.appendix_d_run import (
    EPOCHS,
    FIRST,
    LAST,
    MOST_GRADIENT,
    PEAK,
    PER_EPOCH,
    STEPS,
    WARMUP,
    Record,
    by_hand,
    head_of,
    train,
    trained,
)
from llm_scratch.selfcheck.chapter5 import must_tell_progress, tiny_model
from llm_scratch.selfcheck.compare import Mistakes, call, is_close, must, must_equal, number, show
from llm_scratch.selfcheck.foreign import attempt, describe
from llm_scratch.selfcheck.loops import must_train_in_training_mode
from llm_scratch.selfcheck.outcome import Check, MistakeError

GRADIENTS = ([0.5, -3.0, 2.0], [4.0, -1.0, 0.25], [1.5, 1.0, -2.0])


def _with_gradients(*rows: list[float] | None) -> nn.ParameterList:
    """Return a module of three parameters, numbers from 7 to 15, and their gradients."""
    module = nn.ParameterList([*(torch.arange(9.0).view(3, 3) + 7)])
    for parameter, row in zip(module, rows, strict=True):
        parameter.grad = None if row is None else torch.tensor(row)
    return module


def _highest_in(function: Any, module: nn.Module) -> Tensor:
    return number(call("find_highest_gradient", function, (module,), "(model)"))


def _finds_the_highest(function: Any) -> None:
    module = _with_gradients(*GRADIENTS)
    came = _highest_in(function, module)
    mistakes: Mistakes = {
        hints.HIGHEST_WEIGHT: [torch.tensor(15.0), torch.tensor(7.0)],
        hints.HIGHEST_SMALLEST: torch.tensor(-3.0),
    }
    must_equal(came, torch.tensor(4.0), mistakes, hints.HIGHEST)


def _passes_over_none(function: Any) -> None:
    results: list[Tensor] = []
    module = _with_gradients(None, GRADIENTS[1], None)
    error = attempt(lambda: results.append(_highest_in(function, module)))
    if isinstance(error, (AttributeError, TypeError)):
        raise MistakeError(
            "4.0 when other parameters have none", describe(error), hints.HIGHEST_NONE
        )
    if error is not None:
        raise error
    must_equal(results[0], torch.tensor(4.0), hint=hints.HIGHEST_NONE)


def _sees_negative_ones(function: Any) -> None:
    rows = [-2.0, -0.5, -0.75], [-5.0, -1.0, -1.5], [-4.0, -3.0, -2.5]
    came = _highest_in(function, _with_gradients(*rows))
    if float(came) == -0.5:
        raise MistakeError("5.0, without the sign", "-0.5", hints.HIGHEST_SIGN, counts=False)
    mistakes: Mistakes = {hints.HIGHEST_LATE_SIGN: torch.tensor(0.5)}
    must_equal(came.abs(), torch.tensor(5.0), mistakes, hints.HIGHEST_START)


def _leaves_gradients_alone(function: Any) -> None:
    module = _with_gradients(*GRADIENTS)
    _highest_in(function, module)
    came = torch.stack([torch.as_tensor(parameter.grad) for parameter in module])
    must_equal(came, torch.tensor(GRADIENTS), hint=hints.HIGHEST_CHANGED)


def _takes_every_step(function: Any) -> None:
    trained.cache_clear()  # functions that this one calls may have been rewritten
    came = len(trained(function).record.rates)
    hint = hints.EPOCHS if came else hints.NO_STEP
    must(
        came == STEPS, f"{STEPS} steps for {EPOCHS} epochs of {PER_EPOCH} batches", f"{came}", hint
    )


def _risen(progress: Tensor) -> Tensor:
    return FIRST + progress * (PEAK - FIRST)


def _fallen(progress: Tensor, low: float = LAST) -> Tensor:
    return low + (PEAK - low) * 0.5 * (1 + torch.cos(torch.pi * progress))


def _book(steps: Tensor, total: int = STEPS) -> Tensor:
    """Return the book's rates at steps counted from 0."""
    fallen = _fallen((steps - WARMUP) / (total - WARMUP))
    return torch.where(steps < WARMUP, _risen(steps / WARMUP), fallen)


N = torch.arange(STEPS)
RISE, FALL = N[:WARMUP], N[: STEPS - WARMUP]
FLAT = torch.full((STEPS,), PEAK)


def _rates(function: Any) -> Tensor:
    rates = trained(function).record.of_first_group()
    if is_close(rates, FLAT):
        raise MistakeError(*show(_book(N), rates), hints.RATE_NOT_SET)
    return rates


def _warms_up(function: Any) -> None:
    rates = _rates(function)[:WARMUP]
    right = _book(RISE)
    repaired = [_risen((RISE + 1) / WARMUP), _risen(RISE / (WARMUP - 1))]
    mistakes: Mistakes = {
        hints.RATE_LATE: [torch.cat([FLAT[:1], rise[:-1]]) for rise in (right, *repaired)],
        hints.NO_WARMUP: [
            FLAT[:WARMUP],
            torch.full((WARMUP,), FIRST),
            _fallen(RISE / STEPS),
            _fallen((RISE - WARMUP) / len(FALL)),
        ],
        hints.INITIAL_LR: [PEAK * (RISE + n) / WARMUP for n in (0, 1)],
        hints.STEP_COUNT: [_book(RISE - 1), _book(RISE + 2)],
    }
    _must_follow(rates, right, repaired, mistakes, hints.WARMUP)


def _decays(function: Any) -> None:
    rates = _rates(function)
    is_late = is_close(rates[0], FLAT[0])
    at_peak = is_close(rates[WARMUP - 1], FLAT[0])  # else an early decay leaves the peak out
    right, to_end, early = (_fallen(progress) for progress in _progresses())
    repaired = [to_end, early] if at_peak and not is_late else [to_end]
    mistakes = _decay_mistakes()
    mistakes[hints.RATE_LATE if is_late else hints.STEP_COUNT] = [
        _book(N[WARMUP:] - 1),
        _book(N[WARMUP:] + 2),
        early,
    ]
    _must_follow(rates[WARMUP:], right, repaired, mistakes, hints.COSINE)


def _decay_mistakes() -> dict[str, list[Tensor]]:
    to_zero = [_fallen(progress, 0.0) for progress in _progresses()]
    return {
        hints.COSINE_UP: [_fallen(1 - progress) for progress in _progresses()],
        hints.MIN_LR: [*to_zero, *(rates + LAST for rates in to_zero)],
        hints.COSINE_LENGTH: [
            _fallen(FALL / STEPS),
            _fallen(N[WARMUP:] / STEPS),
            _book(N[WARMUP:], total=PER_EPOCH),
        ],
        hints.NO_DECAY: [FLAT[WARMUP:]],
    }


def _progresses() -> list[Tensor]:
    """Return the decay's progress at each step: the book's, one to the end, and an early one."""
    return [FALL / len(FALL), FALL / (len(FALL) - 1), (FALL + 1) / len(FALL)]


def _must_follow(
    rates: Tensor, right: Tensor, repaired: list[Tensor], mistakes: Mistakes, hint: str
) -> None:
    if not is_close(rates, right) and any(is_close(rates, other) for other in repaired):
        raise MistakeError(*show(right, rates), hints.RATE_REPAIRED, counts=False)
    must_equal(rates, right, mistakes, hint)


def _sets_every_group(function: Any) -> None:
    first, second = torch.tensor(trained(function).record.rates).T
    must_equal(second, first, hint=hints.RATE_GROUPS)


def _clips(function: Any) -> None:
    record = trained(function).record
    clipped = [abs(norm - MOST_GRADIENT) < 1e-3 for norm in record.norms]
    if clipped == sorted(clipped) and all(clipped[WARMUP + 1 :]):
        return  # from the end of warm-up on, a step later (as first printed), or earlier
    norms = torch.tensor(record.norms[WARMUP:])
    expected, came = show(torch.full_like(norms, MOST_GRADIENT), norms)
    hint = hints.CLIP_WHEN if any(clipped) else _why_unclipped(record)
    raise MistakeError(f"norms {expected} after warm-up", came, hint)


def _why_unclipped(record: Record) -> str:
    if not is_close(torch.tensor(record.norms), by_hand(record)[1], 1e-2):
        return hints.CLIP_NORM
    is_late = any(norm < 1.01 * MOST_GRADIENT for norm in record.left[-1:])
    return hints.CLIP_LATE if is_late else hints.NO_CLIP


def _updates_the_parameters(function: Any) -> None:
    run = trained(function)
    mistakes: Mistakes = {hints.NO_ZERO_GRAD: by_hand(run.record, clear=False)[0]}
    right = by_hand(run.record)[0]
    must_equal(head_of(run.model), right, mistakes, hints.TRAINING_STEP, atol=1e-3)


def _tells_what_it_did(function: Any) -> None:
    run = trained(function)
    must(
        isinstance(run.came, (tuple, list)) and len(run.came) == 4,
        "train_losses, val_losses, track_tokens_seen, track_lrs",
        f"{type(run.came).__name__}",
        hints.NOT_TENSOR,
    )
    must_tell_progress(run.came[:3], STEPS)
    told = torch.tensor([float(rate) for rate in run.came[3]])
    must(len(told) == STEPS, f"{STEPS} rates, one per step", f"{len(told)}", hints.RATES_TOLD)
    must_equal(told, run.record.of_first_group(), hint=hints.RATES_TOLD)


def _trains_with_dropout(function: Any) -> None:
    model = tiny_model(drop_rate=0.5)
    must_train_in_training_mode(model, lambda: train(function, model))


CHECKS = (
    Check("D.3", "find_highest_gradient", "finds the largest gradient", _finds_the_highest),
    Check("D.3", "find_highest_gradient", "passes over parameters without one", _passes_over_none),
    Check("D.3", "find_highest_gradient", "sees negative gradients", _sees_negative_ones),
    Check("D.3", "find_highest_gradient", "leaves gradients as they are", _leaves_gradients_alone),
    Check("D.4", "train_model", "takes one step per batch", _takes_every_step),
    Check("D.4", "train_model", "raises the rate to its peak during warm-up", _warms_up),
    Check("D.4", "train_model", "then lowers it along half a cosine", _decays),
    Check("D.4", "train_model", "sets the rate of every parameter group", _sets_every_group),
    Check("D.4", "train_model", "clips gradients to a norm of 1 before the step", _clips),
    Check("D.4", "train_model", "updates the parameters batch by batch", _updates_the_parameters),
    Check("D.4", "train_model", "returns losses, tokens seen and rates", _tells_what_it_did),
    Check("D.4", "train_model", "trains in training mode", _trains_with_dropout),
)
