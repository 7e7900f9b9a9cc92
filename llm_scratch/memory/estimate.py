"""Estimates of the memory of a training step as tables of terms, without taking the step.

The peak is the larger of two: that of the forward and backward passes, and that of the optimizer's
step. Each term is a formula as text (`terms`) that follows the training code (`blocks`, `ends`,
`moments`). A test compares them with tensors that are tracked one by one (`tracking`).
PyTorch is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from llm_scratch.memory.deepspeed import DeepSpeedMoments
from llm_scratch.memory.models import model_config
from llm_scratch.memory.moments import KINDS, Moments
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.terms import LEGEND, Peak, Term, letters_in

GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """The bytes that one process will hold in a training step.

    Args:
        step: the step.
        backward: the peak of the forward and backward passes.
        update: what is held while the optimizers step.
        host: the terms in the host's memory, for one process.
        left_out: what is not counted, one item each.
    """

    step: TrainingStep
    backward: Peak
    update: Peak
    host: tuple[Term, ...]
    left_out: tuple[str, ...]

    @property
    def peak(self) -> Peak:
        """The larger of the two peaks."""
        return max(self.backward, self.update, key=lambda peak: peak.bytes)

    @property
    def bytes(self) -> int:
        """The bytes held at the peak."""
        return self.peak.bytes

    @property
    def host_bytes(self) -> int:
        """The bytes in the host's memory."""
        return sum(term.bytes for term in self.host)

    @property
    def winner(self) -> str:
        """The name of the larger peak, "backward" or "update"."""
        return "backward" if self.backward.bytes >= self.update.bytes else "update"

    @property
    def legend(self) -> dict[str, str]:
        """The meanings of the letters in the formulas."""
        terms = (*self.backward.terms, *self.update.terms, *self.host)
        return {letter: LEGEND[letter] for letter in letters_in(terms)}

    def as_json(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        step = {name: value for name, value in vars(self.step).items() if name != "cfg"}
        step["division"] = asdict(self.step.division)
        peaks = {"backward": self.backward, "update": self.update}
        return {
            "bytes": self.bytes,
            "host_bytes": self.host_bytes,
            "winner": self.winner,
            "model": asdict(self.step.cfg),
            "step": step,
            **{name: _as_json(peak) for name, peak in peaks.items()},
            "host": [asdict(term) for term in self.host],
            "left_out": list(self.left_out),
        }


def _as_json(peak: Peak) -> dict[str, Any]:
    kinds = {kind: size for kind in KINDS if (size := peak.of_kind(kind))}
    terms = [asdict(term) for term in peak.terms]
    return {"moment": peak.moment, "bytes": peak.bytes, "by_kind": kinds, "terms": terms}


def estimate_memory(model: Any, **options: Any) -> Estimate:
    """Return an estimate of what each process holds in a training step.

    Args:
        model: a `TrainingStep`; or a model's name, configuration or path (see `model_config`).
        options: arguments of `TrainingStep` if `model` is not one (rows, length, precision, ...).

    Raises:
        ValueError: if such a step is impossible, or a `TrainingStep` comes with options.
        FileNotFoundError: if there is no model with this name.
    """
    if isinstance(model, TrainingStep):
        if options:
            raise ValueError(f"a TrainingStep states {', '.join(options)} itself")
        step = model
    else:
        step = TrainingStep(model_config(model), **options)
    if step.lora_rank is not None and bool(getattr(step.cfg, "num_experts", False)):
        raise ValueError("experts have no LoRA in this library; leave lora_rank (--lora) out")
    if step.engine == "deepspeed":
        moments: Any = DeepSpeedMoments(step)
    else:
        moments = Moments(step)
    backward, update = moments.backward(), moments.update()
    left_out = (*_left_out(step), *moments.left_out)
    return Estimate(step, _shown(backward), _shown(update), tuple(moments.host()), left_out)


def _shown(peak: Peak) -> Peak:
    """Return a peak without its terms of 0 bytes."""
    return Peak(peak.moment, tuple(term for term in peak.terms if term.bytes))


def _left_out(step: TrainingStep) -> Iterator[str]:
    """Yield what the estimate of a step does not count."""
    if step.device == "cuda":
        yield ("what PyTorch's allocator reserves beyond what is allocated, often 5 to 15 % more; "
               "its expandable segments keep it small")  # fmt: skip
        yield "CUDA's own context and libraries, 0.3 to 1 GiB, and work space of its kernels"
        yield ("norms and attention follow CUDA's fused kernels as they are written; they are "
               "unchecked until a GPU was asked")  # fmt: skip
    else:
        yield "the interpreter and PyTorch themselves, and memory that malloc keeps when it is free"
    if step.ranks > 1:
        yield "buffers of the library that sends tensors between processes"
    yield "evaluations, samples of text, the data, and masks of rows that are packed"
    yield "torch.compile, which keeps other tensors"
    if getattr(step.cfg, "num_experts", 0):
        yield "experts that get more tokens than others: all are taken to get as many"
