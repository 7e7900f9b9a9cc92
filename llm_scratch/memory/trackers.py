"""PyTorch's memory trackers, reduced to the peaks of a step's two phases.

They follow every tensor by its storage. PyTorch's own also record a peak for every module, which
takes several times as long, and they fail if a forward pass computes gradients, as a loss in
pieces does.

Source:
    `torch.distributed._tools` of PyTorch, which is private: `MemTracker`, and `FSDPMemTracker` for
    divided models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llm_scratch.memory.imagined import ImaginedStep
from llm_scratch.training.held import size_of
from llm_scratch.training.optimizer_state import own_part
from llm_scratch.training.sharding import local

BACKWARD, STEP = "backward", "step"


def tracker_of(made: ImaginedStep, elsewhere: tuple[str, ...] = ()) -> Any:
    """Return the tracker for the way a model is divided, for use in `followed`.

    Args:
        made: the step.
        elsewhere: kinds, in the tracker's words, that the backward pass's peak does not count.

    Raises:
        ImportError: if this PyTorch has no such tracker.
    """
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed._tools.mem_tracker import MemTracker

    module = made.engine.module
    inputs = [tensor for batch in made.batches for tensor in batch]
    if hasattr(module, "unshard"):
        tracker: Any = type("_Divided", (_Peaks, FSDPMemTracker), {})(module)
        tracker.track_inputs(tuple(inputs))
    else:
        tracker = type("_Whole", (_Peaks, MemTracker), {})()
        tracker.track_external(module, *inputs)
    tracker.elsewhere = elsewhere
    return tracker


@contextmanager
def followed(tracker: Any, made: ImaginedStep) -> Iterator[None]:
    """Return a context for steps that a tracker follows."""
    engine = made.engine
    divided = hasattr(engine.module, "unshard")

    def before_forward(*call: Any) -> None:
        tracker.phase = BACKWARD

    def before_update(*call: Any) -> None:
        if tracker.phase != STEP:
            found = [p.grad for p in engine.model.parameters() if p.grad is not None]
            tracker.gradients = size_of(map(local, found))
            for gradient in () if divided else found:  # data parallel's are views of its buckets
                tracker.tell_gradient(gradient)
        tracker.phase = STEP

    with tracker:
        hooks = [engine.module.register_forward_pre_hook(before_forward, prepend=True)]
        for optimizer in map(own_part, engine.optimizers):
            hooks.append(optimizer.register_step_pre_hook(before_update))
        if not divided:
            hooks += _gradient_hooks(tracker, engine.model) + _block_hooks(tracker, engine.model)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _gradient_hooks(tracker: Any, model: Any) -> list[Any]:
    """Return hooks on learning parameters that tell a tracker which tensors are gradients."""

    def tell_sum(parameter: Any) -> None:
        tracker.tell_gradient(parameter.grad)

    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums = [parameter.register_post_accumulate_grad_hook(tell_sum) for parameter in learning]
    return sums + [parameter.register_hook(tracker.tell_gradient) for parameter in learning]


def _block_hooks(tracker: Any, model: Any) -> list[Any]:
    """Return hooks on blocks that tell a tracker when one is recomputed in the backward pass."""

    def before(*call: Any) -> None:
        tracker._in_ac = tracker._mod_tracker.is_bw

    def after(*call: Any) -> None:
        tracker._in_ac = False

    blocks = model.trf_blocks
    hooks = [block.register_forward_pre_hook(before) for block in blocks]
    return hooks + [block.register_forward_hook(after, always_call=True) for block in blocks]


class _Modules:
    """The answers about modules that a tracker needs, without PyTorch's hooks on each call."""

    parents: frozenset[str] = frozenset()

    @property
    def is_bw(self) -> bool:
        """Whether a backward pass is running."""
        return torch._C._current_graph_task_id() != -1

    def get_known_fqn(self, module: Any) -> str:
        """Return a name for a module."""
        return type(module).__name__

    def register_user_hooks(self, *hooks: Any) -> None:
        """Ignore the hooks."""

    def clear_user_hooks(self) -> None:
        """Do nothing: there are none."""

    def __enter__(self) -> _Modules:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class _Peaks:
    """The records of a tracker: bytes by kind, in its own words, at the peak of each phase.

    Attributes:
        phase: the current phase.
        peaks: bytes by kind, by phase.
        gradients: bytes of gradients when the optimizers began.
        elsewhere: see `tracker_of`.
    """

    phase = BACKWARD
    gradients = 0
    elsewhere: tuple[str, ...] = ()
    peaks: dict[str, dict[str, int]]
    _curr_mem_snap: dict[Any, dict[Any, int]]
    _track_optimizer_states: Any
    _update_and_maybe_create_winfos: Any
    _ref_class: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._mod_tracker = _Modules()
        self.peaks, self._highest = {}, dict[str, int]()
        self._changes, self._changes_at_peak = 0, dict[str, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":  # a tensor's device, queried as often as all else
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[misc]

    def begin(self, made: ImaginedStep) -> None:
        """Forget the peaks so far, and register the state that the optimizers hold by now."""
        self.peaks, self._highest, self.phase = {}, {}, BACKWARD
        for optimizer in map(own_part, made.engine.optimizers):
            self._track_optimizer_states(self._ref_class.OPT, optimizer)

    def tell_gradient(self, gradient: Tensor) -> None:
        """Count a tensor as a gradient of an undivided model."""
        self._update_and_maybe_create_winfos(gradient, self._ref_class.GRAD)

    def _update_peak_stats(self, state: Any) -> None:
        for kinds in self._curr_mem_snap.values():  # of the only device
            held = kinds["Total"]
            if self.elsewhere and self.phase == BACKWARD:
                held -= sum(size for kind, size in kinds.items() if kind in self.elsewhere)
            if held > self._highest.get(self.phase, -1):
                self._highest[self.phase] = held
                self.peaks[self.phase] = dict(kinds)
                self._changes_at_peak[self.phase] = self._changes

    def _update_snap(self, change: Any, tensor: Any, *sizes: Any, **before: Any) -> None:
        """Follow a change; a kind that a tensor gets later also counts at the peak so far."""
        super()._update_snap(change, tensor, *sizes, **before)  # type: ignore[misc]
        self._changes += 1
        was = before.get("old_reftype")
        if change.name == "ADD":
            tensor.made = self._changes
        elif was is not None and self.phase in self.peaks:
            if tensor.made <= self._changes_at_peak[self.phase]:
                self.peaks[self.phase][was] -= tensor.mem_consumed
                self.peaks[self.phase][tensor.reftype] += tensor.mem_consumed

    def _register_global_optimizer_hook(self) -> None:
        """Do nothing: `begin` finds the state that an optimizer creates in its first step."""
