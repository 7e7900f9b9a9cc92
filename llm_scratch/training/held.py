"""The bytes that one process holds and sends during a step, by purpose.

At each start, a run writes these numbers for all its processes to `held.json` in its folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from llm_scratch.training.optimizer_state import own_part
from llm_scratch.training.sharding import is_sharded, local
from llm_scratch.training.steps import Engine


@dataclass
class Held:
    """Bytes that one process holds.

    Args:
        parameters: its part of the parameters; all of them if they are not divided.
        gathered: the most bytes of divided parameters gathered at a time in the forward pass.
        gradients: its part of the gradients, when the optimizers begin.
        optimizer: the state of its optimizers.
        activations: what the forward pass of one micro batch keeps for the backward pass, without
            parameters and without the gradients that a chunked loss has already computed.
        sent: the exchanges between processes, by phase of the step and kind ("numbers" are single
            ones, such as the loss): the number of exchanges, and the bytes of their tensors.
    """

    parameters: int = 0
    gathered: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    sent: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


@contextmanager
def held_in_step(engine: Engine, compiled: bool = False) -> Iterator[Held]:
    """Return a context for one step of a run that counts the bytes this process holds and sends.

    The step computes the same numbers, a little more slowly. Gradients are counted when the first
    optimizer steps; activations are those of the first micro batch.

    Args:
        engine: the engine that computes the step.
        compiled: whether the model is compiled, which hides activations and gathered parameters.
    """
    held = Held()
    with ExitStack() as stack:
        exchanges = _Exchanges(held)
        if engine.ranks.count > 1:
            stack.enter_context(exchanges)
        stack.enter_context(_phases(engine, held, exchanges))
        if not compiled:
            stack.enter_context(_gathered(engine.model, held))
            stack.enter_context(_kept(held, exchanges))
        yield held
    held.parameters = size_of(map(local, engine.model.parameters()))
    held.optimizer = size_of_state(engine.optimizers)


@contextmanager
def kept_for_backward() -> Iterator[Held]:
    """Return a context that counts the activations a forward pass keeps for the backward pass."""
    held = Held()
    with _kept(held, _Exchanges(held)):
        yield held


def size_of(tensors: Iterable[Any]) -> int:
    """Return the bytes of tensors, counting shared memory once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def size_of_state(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Return the bytes of optimizer state in this process."""
    return size_of(
        value
        for optimizer in map(own_part, optimizers)
        for state in optimizer.state.values()
        for value in map(local, state.values())
    )


@contextmanager
def _kept(held: Held, exchanges: _Exchanges) -> Iterator[None]:
    """Count the activations that the first forward pass keeps for the backward pass."""
    seen: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        counts = not exchanges.forwards and not _is_parameter(tensor)
        if counts and storage._cdata not in seen:
            seen.add(storage._cdata)  # unique: the memory is kept, so its address is not reused
            held.activations += storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, _same):
        yield


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _is_parameter(tensor: Tensor) -> bool:
    """Return whether a tensor is a parameter, gathered or not, or a view such as its transpose."""
    whole = tensor if tensor._base is None else tensor._base
    return isinstance(whole, nn.Parameter)


@contextmanager
def _phases(engine: Engine, held: Held, exchanges: _Exchanges) -> Iterator[None]:
    """Track the phases of the step, and count gradients before the optimizers' step."""

    def before_forward(*call: Any) -> None:
        exchanges.phase = "forward"

    def after_forward(*call: Any) -> None:
        exchanges.phase = "backward"
        exchanges.forwards += 1

    def before_update(*call: Any) -> None:
        exchanges.phase = "update"
        gradients = (p.grad for p in engine.model.parameters() if p.grad is not None)
        held.gradients = held.gradients or size_of(map(local, gradients))

    hooks = [optimizer.register_step_pre_hook(before_update) for optimizer in engine.optimizers]
    hooks.append(engine.module.register_forward_pre_hook(before_forward, prepend=True))
    hooks.append(engine.module.register_forward_hook(after_forward))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _gathered(model: Any, held: Held) -> Iterator[None]:
    """Count, after each block of a divided model, the parameters that are gathered."""

    def after_block(*call: Any) -> None:
        held.gathered = max(held.gathered, size_of(p for p in model.parameters() if _whole(p)))

    divided = any(map(is_sharded, model.parameters()))
    # These hooks run first, before a block is divided again.
    hooks = [
        block.register_forward_hook(after_block, prepend=True)
        for block in (model.trf_blocks if divided else ())
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _whole(parameter: Any) -> bool:
    return not is_sharded(parameter)


class _Exchanges(TorchDispatchMode):
    """A counter of the exchanges between processes, by phase of the step."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self.phase, self.forwards = "forward", 0  # current phase, forward passes so far
        self._sent = held.sent

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "device_mesh") for kind in types):
            return NotImplemented  # a divided tensor first dispatches to its local part
        if func.namespace in ("c10d", "_c10d_functional"):
            name = EXCHANGES.get(func._opname.strip("_"))
            if name is not None:
                size = max(map(size_of, _tensors_in(args)), default=0)
                name = name if size > FEW else "numbers"
                counts = self._sent.setdefault(self.phase, {}).setdefault(name, [0, 0])
                counts[0] += 1
                counts[1] += size
        return func(*args, **(kwargs or {}))


FEW = 64  # bytes: at most this are counts, losses and norms, never a tensor of a model
EXCHANGES = {
    "allreduce": "all-reduce",
    "all_reduce": "all-reduce",
    "broadcast": "broadcast",
    "allgather_base": "all-gather",
    "allgather": "all-gather",
    "all_gather_into_tensor": "all-gather",
    "reduce_scatter_base": "reduce-scatter",
    "reduce_scatter_tensor": "reduce-scatter",
}


def _tensors_in(args: Iterable[Any]) -> Iterator[list[Tensor]]:
    """Yield the tensors of each argument, which may be a list or a list of lists."""
    for arg in args:
        flat = torch.utils._pytree.tree_leaves(arg)
        found = [item for item in flat if isinstance(item, Tensor)]
        if found:
            yield found
