"""The memory of a training step, counted on tensors without memory, at full size, on any machine.

The count is that of the CPU's kernels, whatever the step's device: norms and other operations that
a GPU fuses into one kernel make intermediate tensors here. By-hand attention stands for PyTorch's
kernel that holds all scores.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from llm_scratch.memory.imagined import ImaginedStep, imagined
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.trackers import BACKWARD, STEP, followed, tracker_of
from llm_scratch.training.held import held_in_step, size_of, size_of_state
from llm_scratch.training.sharding import local

Parts = dict[str, int]
# Kinds of memory, and the trackers' words for them.
KINDS = {
    "parameters": ("Parameter", "Sharded Param"),
    "gathered": ("Unsharded Param", "All Gather"),
    "gradients": ("Gradient", "Sharded Grad", "Unsharded Grad", "Reduce Scatter"),
    "optimizer": ("Optstate", "OptState"),
    "activations": ("Activation",),
    "temporary": ("Temp",),
    "other": ("Buffer", "Other", "Inputs"),
}
DIVIDED = ("Sharded Param", "Sharded Grad", "OptState")


@dataclass(frozen=True)
class Tracked:
    """The bytes that one process holds in a training step; parts are by kind.

    "parameters" and "gradients" are those of this process, with gradients that wait to be sent;
    "gathered" are divided parameters that are complete for a while; "activations" come from a
    forward pass, "temporary" from a backward pass or an optimizer; "other" are the inputs.

    Args:
        backward_parts: bytes at the peak of the forward and backward passes.
        step_parts: bytes at the peak of the optimizers' step.
        static: bytes of parameters, the optimizers' state, and gradients when the optimizers begin.
        host: bytes in the host's memory, with `offload`.
        seconds: how long the counting took.
        followed: whether every tensor was tracked; if not, only what is kept for the backward
            pass is known besides `static`.
    """

    backward_parts: Parts
    step_parts: Parts
    static: Parts
    host: int = 0
    seconds: float = field(default=0.0, compare=False)
    followed: bool = True

    @property
    def backward_peak(self) -> int:
        """The most bytes that are held until the last gradient exists."""
        return sum(self.backward_parts.values())

    @property
    def step_peak(self) -> int:
        """The most bytes that are held while the optimizers step."""
        return sum(self.step_parts.values())

    @property
    def peak(self) -> int:
        """The bytes held at the peak."""
        return max(self.backward_peak, self.step_peak)

    @property
    def parts(self) -> Parts:
        """The bytes held at the peak, by kind."""
        is_step = self.step_peak > self.backward_peak
        return self.step_parts if is_step else self.backward_parts


def track_step(step: TrainingStep) -> Tracked:
    """Count the bytes that a training step holds, without allocating its tensors.

    Args:
        step: the step. Every target counts, and all experts get equally many tokens.

    Raises:
        ValueError: if such a step can't be taken, or is for another engine.
    """
    start = time.perf_counter()
    with imagined(step) as made:
        try:
            tracker = tracker_of(made, DIVIDED if step.division.offload else ())
        except ImportError as err:
            warnings.warn(
                f"PyTorch {torch.__version__} has no memory tracker ({err}); of activations, what "
                "is kept for the backward pass is counted, and nothing temporary",
                stacklevel=2,
            )
            found = _kept(made)
        else:
            found = _followed(made, tracker, step.division.offload)
    return replace(found, seconds=time.perf_counter() - start)


def _followed(made: ImaginedStep, tracker: Any, offload: bool) -> Tracked:
    """Count with a tracker."""
    with followed(tracker, made):
        made.take()  # creates the optimizers' state
        tracker.begin(made)
        made.take()
    backward, update = (_parts(tracker.peaks[phase]) for phase in (BACKWARD, STEP))
    # In the optimizers' step every tensor is temporary, except those that exist before and after.
    update["temporary"] += update["activations"]
    update["activations"] = 0
    static = _static(made, tracker.gradients)
    if not offload:
        return Tracked(backward, update, static)
    # If everything divided is in the host's memory, so are the optimizers' updates.
    peak = tracker.peaks[BACKWARD]
    on_device = _parts({word: size for word, size in peak.items() if word not in DIVIDED})
    return Tracked(on_device, dict.fromkeys(KINDS, 0), static, host=sum(update.values()))


def _kept(made: ImaginedStep) -> Tracked:
    """Count parameters, gradients, state, and what is kept for the backward pass."""
    made.take()
    with held_in_step(made.engine) as held:
        made.take()
    static = _static(made, held.gradients)
    parts = dict.fromkeys(KINDS, 0) | static
    backward = parts | {"gathered": held.gathered, "activations": held.activations}
    return Tracked(backward, parts, static, followed=False)


def _static(made: ImaginedStep, gradients: int) -> Parts:
    engine = made.engine
    return {
        "parameters": size_of(map(local, engine.model.parameters())),
        "gradients": gradients,
        "optimizer": size_of_state(engine.optimizers),
    }


def _parts(found: Mapping[str, int]) -> Parts:
    """Return bytes by the kinds of `KINDS` from bytes by a tracker's."""
    return {kind: sum(found.get(word, 0) for word in words) for kind, words in KINDS.items()}
