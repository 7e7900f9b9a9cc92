"""`llm-scratch pretrain --estimate`: the size and cost of a run, before it is started."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.memory_tables import gib
from llm_scratch.cli.processes import in_processes
from llm_scratch.training.config import StepPlan, TrainConfig, plan_step

if TYPE_CHECKING:
    import torch

    from llm_scratch.training.timing import StepTime

DAY = 24.0  # hours
LEAST = 2**30 / 200  # bytes: anything less is 0.00 GiB


@in_processes
def print_outlook(args: argparse.Namespace, config: TrainConfig, sizes: Any, data: Any) -> int:
    """Print tokens and steps of a run, how often it reads its data, its hours and its memory.

    Args:
        args: the command line.
        config: the settings of the run.
        sizes: the sizes of its model.
        data: the data that it would read; None leaves them out.
    """
    from llm_scratch.model.device import pick_device
    from llm_scratch.model.families import parameter_shapes

    if args.rate is not None and not args.rate > 0:
        raise ValueError(f"--rate {args.rate:g} must be above 0: tokens per second")
    if args.init is not None or args.resume:
        option = "--resume" if args.resume else "--init"
        raise ValueError(f"--estimate is about a new run by its sizes; leave out {option}")
    if data is not None:
        sizes = replace(sizes, vocab_size=data.vocab_size)
    device = pick_device(args.device)
    plan = plan_step(config, sizes.context_length, args.ranks.count)
    shapes = parameter_shapes(sizes)
    numbers = sum(_product(shape) for name, shape in shapes.items()
                  if name != "out_head.weight" or not sizes.tie_weights)  # fmt: skip
    tokens = config.steps * plan.tokens
    print(f"model   {numbers:,} parameters, a vocabulary of {sizes.vocab_size:,}")
    print(f"run     {config.steps:,} steps of {plan} x {plan.length} = {plan.tokens:,} tokens")
    print(f"tokens  {tokens:,}, {tokens / numbers:.3g} per parameter")
    if data is not None:
        for line in _passes(data, config.steps * plan.step_rows, plan.length):
            print(f"data    {line}")
    if args.rate is None:
        said, rate = _measured(args, config, sizes, device)
    else:
        said, rate = "as given", args.rate
    print(f"rate    {rate:,.0f} tokens per second, {said}")
    print(f"time    {in_hours(tokens / rate)}, without evaluations and checkpoints")
    print(f"memory  {_memory(args, config, sizes, plan, device)}")
    return 0


def in_hours(seconds: float) -> str:
    """Return a time in words: hours, with days if there are many; else minutes or seconds."""
    hours = seconds / 3600
    if seconds < 60:
        return f"{seconds:.2g} seconds"
    if hours < 1:
        return f"{seconds / 60:.2g} minutes"
    return f"{hours:,.1f} hours" + (f" ({hours / DAY:,.1f} days)" if hours > 2 * DAY else "")


def _product(shape: tuple[int, ...]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


def _passes(data: Any, rows: int, length: int) -> list[str]:
    """Return lines that say how many times the training parts are read."""
    part = data.split(min_tokens=length + 1)[0]
    if hasattr(part, "outlook"):
        return part.outlook(rows, length)
    from llm_scratch.text.mixture import times

    own = part.num_rows(length)
    return [f"will be read {times(rows / own)} times: the training part has {own:,} windows"]


def _memory(
    args: argparse.Namespace, config: TrainConfig, sizes: Any, plan: StepPlan, device: torch.device
) -> str:
    """Return the peak memory of each process, its largest kinds first."""
    from llm_scratch.memory.estimate import estimate_memory
    from llm_scratch.memory.moments import KINDS
    from llm_scratch.memory.step import TrainingStep
    from llm_scratch.training.precision import pick_precision

    precision: Any = str(pick_precision(config.precision, device)).removeprefix("torch.")
    step = TrainingStep(
        sizes,
        rows=plan.rows,
        length=plan.length,
        precision=precision,
        optimizer=config.optimizer,
        accumulation=plan.accumulation,
        checkpoint_blocks=config.checkpoint_blocks,
        loss_chunk=config.loss_chunk,
        ranks=plan.ranks,
        division=args.division,
        device="cpu" if device.type == "cpu" else "cuda",
    )
    peak = estimate_memory(step).peak
    found = sorted(((peak.of_kind(kind), kind) for kind in KINDS), reverse=True)
    kinds = ", ".join(f"{kind} {gib(size)}" for size, kind in found if size > LEAST)
    each = "" if plan.ranks == 1 else " of each process"
    return f"{gib(peak.bytes)} at the peak{each} on {step.device}: {kinds}"


def _measured(
    args: argparse.Namespace, config: TrainConfig, sizes: Any, device: torch.device
) -> tuple[str, float]:
    """Return how the rate was measured, and the rate."""
    from llm_scratch.training.starting import new_model
    from llm_scratch.training.timing import time_steps

    later = args.division.shard == "full"
    model = new_model(sizes, config.seed, later=later)
    if not later:
        model.to(device)
    processes = {"ranks": args.ranks, "division": args.division, "device": device}
    found: StepTime = time_steps(model, config, **processes)
    plan: StepPlan = plan_step(config, sizes.context_length, args.ranks.count)
    of = f" of up to {found.micro_batches} micro batches" if plan.accumulation > 1 else ""
    return f"measured here in {found.timed} steps{of} on {device}", found.tokens_per_s
