"""Timing of a few steps on this machine, on random ids, to estimate the time of a whole run."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_scratch.model.wrappers import device_of
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.training.allocator import keep_freed_memory
from llm_scratch.training.config import TrainConfig, plan_step
from llm_scratch.training.distributed import ONE, Ranks
from llm_scratch.training.division import WHOLE, Division
from llm_scratch.training.objective import Batch
from llm_scratch.training.reporting import synchronize
from llm_scratch.training.starting import build_engine
from llm_scratch.training.steps import Engine, compile_model, take_step

ROUNDS = 3
ENOUGH = 60.0  # seconds after which no further round begins


@dataclass(frozen=True)
class StepTime:
    """The time of a step.

    Args:
        seconds: seconds per whole step, without evaluations and checkpoints.
        tokens_per_s: training tokens per second over all processes.
        timed: the number of timed steps.
        micro_batches: micro batches of the longest timed step; longer steps are extrapolated.
    """

    seconds: float
    tokens_per_s: float
    timed: int
    micro_batches: int


def time_steps(
    model: Any,
    config: TrainConfig,
    *,
    ranks: Ranks = ONE,
    division: Division = WHOLE,
    device: torch.device | None = None,
) -> StepTime:
    """Train for a few steps on random ids and return the time of one.

    The first step is not timed. For a step of several micro batches, steps of one and of two are
    timed, and the time that the second adds is taken for every further one. This changes the
    model's weights.

    Args:
        model: a model of the run's sizes.
        config: the settings of the run.
        ranks: the processes that train together.
        division: the part of the run that each process holds.
        device: the device to compute on; None is the model's.
    """
    plan = plan_step(config, model.cfg.context_length, ranks.count)
    model.checkpoint_blocks = config.checkpoint_blocks
    if config.tune_allocator and device_of(model).type == "cpu":
        keep_freed_memory()
    engine = build_engine(model, config, None, ranks, division, device)
    counts = (1, 2) if plan.accumulation > 1 else (1,)
    batches = _random_batches(model.cfg.vocab_size, plan.rows, plan.length, counts[-1], ranks.rank)
    if config.compile:
        compile_model(engine, batches[0], lambda line: None)
    found: dict[int, list[float]] = {count: [] for count in counts}
    _seconds(engine, config, batches[:1])
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for count in counts:
            found[count].append(_seconds(engine, config, batches[:count]))
        if max(ranks.gather(time.perf_counter() - started)) > ENOUGH:
            break
    middle = [statistics.median(found[count]) for count in counts]
    further = max(0.0, middle[-1] - middle[0])
    seconds = middle[0] + (plan.accumulation - 1) * further
    seconds = max(ranks.gather(seconds))
    timed = sum(map(len, found.values()))
    return StepTime(seconds, plan.tokens / seconds, timed, counts[-1])


def _random_batches(vocab_size: int, rows: int, length: int, count: int, rank: int) -> list[Batch]:
    ids = np.random.default_rng(rank).integers(0, vocab_size, rows * length + 1)
    part = TokenPart.from_tokens(ids, vocab_size)
    return [part.batch(0, step, rows, length) for step in range(count)]


def _seconds(engine: Engine, config: TrainConfig, batches: list[Batch]) -> float:
    """Take a step; return its seconds, with an idle device before and after it."""
    synchronize(engine.device)
    start = time.perf_counter()
    take_step(engine, batches, config.rate(1), config.clip, 0)
    synchronize(engine.device)
    return time.perf_counter() - start
