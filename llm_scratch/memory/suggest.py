"""Advice for a step that does not fit: a ladder of settings, each with its price.

The rungs come in order of rising cost; the first that fits is taken.

Source:
    The order is that of the advice in transformers' documentation on a single GPU and on ZeRO;
    prices are quoted with their sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llm_scratch.checks import is_number
from llm_scratch.memory.estimate import Estimate, estimate_memory
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.terms import Term
from llm_scratch.training.config import CHUNK
from llm_scratch.training.division import Division

HEADROOM = 0.15
SHORTEST = 128  # tokens of a row, below which shortening does not help
RANK = 16
MOST_ROWS = 1 << 16

NOTHING = "no time: nothing is computed twice"
CHECKPOINTING = (
    "about one more forward pass, a third more computing; the series saw 16 % fewer steps "
    "per second at batch 1 (0.5B, part 9)"
)
ZERO1 = "the updated parameters are sent too: half as much again as DDP sends (1 P to 2 P)"
FULL = "each block is gathered twice: 1.5 times what DDP sends (ZeRO, arXiv:1910.02054, section 7)"
OFFLOAD = (
    "every step moves all parameters and gradients between host and GPU; the series went from 5.6 "
    "to 13 s an iteration with the optimizer there (8B, part 4)"
)
LORA = "less time a step, but another result: thin matrices learn, the rest stays as it is"
SHORTER = "long texts are cut or split"


@dataclass(frozen=True)
class Rung:
    """A setting of the ladder, together with all those before it.

    Args:
        name: what the setting changes.
        options: the command-line options for the rung.
        price: what the setting costs in time, as far as known.
        estimate: the estimate of the step.
        fits: whether the estimate is within the limit.
    """

    name: str
    options: str
    price: str
    estimate: Estimate
    fits: bool

    @property
    def largest(self) -> Term:
        """The largest term at the peak."""
        return max(self.estimate.peak.terms, key=lambda term: term.bytes)


@dataclass(frozen=True)
class Advice:
    """The rungs that were tried, up to the first that fits.

    Args:
        rungs: the rungs in order; the last one fits, or none does.
        memory: bytes of a GPU.
        headroom: the fraction of memory that is left free.
        rows: the largest batch that fits on the last rung; 0 if none does.
    """

    rungs: tuple[Rung, ...]
    memory: int
    headroom: float
    rows: int

    @property
    def limit(self) -> int:
        """The bytes that may be used."""
        return int(self.memory * (1 - self.headroom))

    @property
    def found(self) -> Rung | None:
        """The rung that fits; None if there is none."""
        return self.rungs[-1] if self.rungs[-1].fits else None

    @property
    def before(self) -> Rung | None:
        """The rung before the last, which does not fit; None if there is only one."""
        return self.rungs[-2] if len(self.rungs) > 1 else None


def suggest(
    model: Any, memory: int, *, gpus: int = 1, headroom: float = HEADROOM, **options: Any
) -> Advice:
    """Return the first rung of the ladder on which a step fits, and those before it.

    Args:
        model: a name, a configuration or a path (see `model_config`).
        memory: bytes of each GPU.
        gpus: the number of GPUs, with one process each.
        headroom: the fraction of memory that is left to the allocator, kernels and libraries.
        options: more arguments of `TrainingStep`: rows, length, precision, ...

    Raises:
        ValueError: if a number is out of range.
        FileNotFoundError: if there is no model with this name.
    """
    if memory < 1:
        raise ValueError(f"{memory=} bytes (--memory) must be above 0, as 40GiB")
    if not is_number(headroom, 0) or headroom >= 1:
        raise ValueError(f"{headroom=} must be from 0 to below 1: the part that is left free")
    limit = int(memory * (1 - headroom))
    first = estimate_memory(model, **{"precision": "bfloat16", "ranks": gpus, "loss_chunk": None,
                                      **options}).step  # fmt: skip
    rungs = []
    for name, words, price, step in _ladder(first):
        estimate = estimate_memory(step)
        rungs.append(Rung(name, words, price, estimate, estimate.bytes <= limit))
        if rungs[-1].fits:
            break
    found = rungs[-1].estimate.step if rungs[-1].fits else None
    return Advice(tuple(rungs), memory, headroom, 0 if found is None else _rows(found, limit))


def _ladder(step: TrainingStep) -> Iterator[tuple[str, str, str, TrainingStep]]:
    """Yield name, options and price of each rung, and its step."""
    yield "as it is, logits of all tokens at once", "", "", step
    words = f"--loss-chunk {CHUNK}"
    step = replace(step, loss_chunk=CHUNK)
    yield "the loss in chunks (this library's default)", words, NOTHING, step
    if not step.checkpoint_blocks:
        words += " --checkpoint-blocks 1"
        step = replace(step, checkpoint_blocks=1)
        yield "blocks computed again in the backward pass", words, CHECKPOINTING, step
    if step.ranks > 1 and step.division.shard == "none":
        divided = replace(step, division=Division("optimizer"))
        yield "the optimizer's state divided (ZeRO-1)", f"{words} --shard optimizer", ZERO1, divided
        words += " --shard full"
        step = replace(step, division=Division("full"))
        yield "everything divided (ZeRO-3)", words, FULL, step
    if step.division.shard == "full" and not step.division.offload:
        words += " --offload"
        step = replace(step, division=replace(step.division, offload=True))
        yield "what is divided in the host's memory", words, OFFLOAD, step
    if _takes_lora(step):
        offloaded = step.division.offload
        words = words.replace(" --offload", "") + f" --lora {RANK}"
        step = replace(step, lora_rank=RANK, division=replace(step.division, offload=False))
        yield f"LoRA of rank {RANK}", words, LORA, step
        if offloaded:
            words += " --offload"
            step = replace(step, division=replace(step.division, offload=True))
            yield "LoRA, and what is divided in the host's memory", words, OFFLOAD, step
    length = step.tokens_a_row
    while (length := length // 2) >= SHORTEST:
        shorter = replace(step, length=length)
        yield f"rows of {length} tokens", f"{words} --length {length}", SHORTER, shorter


def _takes_lora(step: TrainingStep) -> bool:
    learns_all = step.lora_rank is None and step.last_blocks is None
    return learns_all and not getattr(step.cfg, "num_experts", 0)


def _rows(step: TrainingStep, limit: int) -> int:
    """Return the most rows of a micro batch that fit."""
    low, high = step.rows, step.rows
    while high < MOST_ROWS and _fits(step, high * 2, limit):
        low = high = high * 2
    high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(step, middle, limit) else (low, middle)
    return low


def _fits(step: TrainingStep, rows: int, limit: int) -> bool:
    return estimate_memory(replace(step, rows=rows)).bytes <= limit
