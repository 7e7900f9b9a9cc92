"""PyTorch's memory trackers, kept to what a step needs to tell: the peaks of its two phases.

They follow every tensor by its storage. They are private, so `tracker_of` says where they are not;
and they note a peak for every module, which takes three times as long as a whole step.

Source:
    `torch.distributed._tools` of PyTorch: `MemTracker`, and `FSDPMemTracker` for divided models.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from llm_scratch.memory.imagined import ImaginedStep
from llm_scratch.training.held import size_of
from llm_scratch.training.optimizer_state import own_part
from llm_scratch.training.sharding import local

BACKWARD, STEP = "backward", "step"


def tracker_of(made: ImaginedStep, elsewhere: tuple[str, ...] = ()) -> Any:
    """Return the tracker that fits how a model is divided, to be used in `followed`.

    Args:
        made: the step.
        elsewhere: kinds, in the tracker's words, that count for no peak of the backward pass.

    Raises:
        ImportError: if this PyTorch has none.
    """
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed._tools.mem_tracker import MemTracker

    module = made.engine.module
    inputs = [tensor for batch in made.batches for tensor in batch]
    if hasattr(module, "unshard"):
        tracker: Any = type("_Divided", (_Peaks, FSDPMemTracker), {})(module)
        tracker.track_inputs(tuple(inputs))
    else:
        tracker = type("_Whole", (_NoModules, _Peaks, MemTracker), {})()
        tracker.track_external(module, *inputs)
    tracker.elsewhere = elsewhere
    return tracker


@contextmanager
def followed(tracker: Any, made: ImaginedStep) -> Iterator[None]:
    """A context for steps that a tracker follows."""

    def before_forward(*call: Any) -> None:
        tracker.phase = BACKWARD
        tracker.reset_mod_stats()  # of the micro batch before

    def before_update(*call: Any) -> None:
        if tracker.phase != STEP:
            found = (p.grad for p in made.engine.model.parameters() if p.grad is not None)
            tracker.gradients = size_of(map(local, found))
        tracker.phase = STEP

    form = warnings.formatwarning  # which a tracker may replace
    with tracker:
        optimizers = map(own_part, made.engine.optimizers)
        hooks = [optimizer.register_step_pre_hook(before_update) for optimizer in optimizers]
        hooks += tracker.gradient_hooks(made.engine.module)
        hooks.append(made.engine.module.register_forward_pre_hook(before_forward, prepend=True))
        try:
            yield
        finally:
            warnings.formatwarning = form
            for hook in hooks:
                hook.remove()


class _Peaks:
    """What a tracker notes: bytes by kind, in its own words, at the peak of each phase.

    Attributes:
        phase: the present one.
        peaks: by phase.
        gradients: bytes of them when the optimizers began.
        elsewhere: see `tracker_of`.
    """

    phase = BACKWARD
    gradients = 0
    elsewhere: tuple[str, ...] = ()
    peaks: dict[str, dict[str, int]]
    _curr_mem_snap: dict[Any, dict[Any, int]]
    _track_optimizer_states: Any
    _ref_class: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.peaks, self._highest = {}, dict[str, int]()
        self._changes, self._changes_at_peak = 0, dict[str, int]()

    def begin(self, made: ImaginedStep) -> None:
        """Forget the peaks so far, and count as the optimizers' what they remember by now."""
        self.peaks, self._highest = {}, {}
        for optimizer in map(own_part, made.engine.optimizers):
            self._track_optimizer_states(self._ref_class.OPT, optimizer)

    def gradient_hooks(self, module: nn.Module) -> list[Any]:
        """Hooks that tell which tensors are gradients, where the tracker does not see to it."""
        return []

    def _update_peak_stats(self, state: Any) -> None:
        for kinds in self._curr_mem_snap.values():  # of the one device there is
            held = kinds["Total"]
            if self.elsewhere and self.phase == BACKWARD:
                held -= sum(size for kind, size in kinds.items() if kind in self.elsewhere)
            if held > self._highest.get(self.phase, -1):
                self._highest[self.phase] = held
                self.peaks[self.phase] = dict(kinds)
                self._changes_at_peak[self.phase] = self._changes

    def _update_snap(self, change: Any, tensor: Any, *sizes: Any, **before: Any) -> None:
        """Follow a change; what a tensor turns out to be, it was at the peak already."""
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
        """What an optimizer makes in its first step is its state; `begin` finds it."""


class _NoModules:
    """A tracker of a whole model that notes nothing of modules, but when they compute again."""

    _mod_tracker: Any
    _ac_mod: Any
    _in_ac: bool
    _ref_class: Any
    _update_and_maybe_create_winfos: Any

    def gradient_hooks(self, module: nn.Module) -> list[Any]:
        """Hooks on what learns that tell which tensors are gradients."""

        def tell(gradient: Tensor) -> None:
            self._update_and_maybe_create_winfos(gradient, self._ref_class.GRAD)

        def tell_sum(parameter: Any) -> None:
            tell(parameter.grad)

        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        sums = [parameter.register_post_accumulate_grad_hook(tell_sum) for parameter in learning]
        return sums + [parameter.register_hook(tell) for parameter in learning]

    def _pre_fw_hook(self, module: nn.Module, inputs: Any) -> None:
        if self._mod_tracker.is_bw and self._ac_mod is None:
            self._ac_mod, self._in_ac = weakref.ref(module), True

    def _post_fw_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._ac_mod is not None and self._ac_mod() is module:
            self._ac_mod, self._in_ac = None, False

    def _pre_bw_hook(self, module: nn.Module, args: Any) -> None:
        pass

    def _post_bw_hook(self, module: nn.Module, args: Any) -> None:
        pass
