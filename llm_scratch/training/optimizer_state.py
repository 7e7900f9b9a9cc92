"""The state of optimizers as named tensors, such as `trf_blocks.0.att.W_query.weight.exp_avg`.

Names, instead of positions in a list, let any number of processes read the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def optimizer_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Return the optimizer state of a model; of a divided model, this process's part."""
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}.{key}": value
        for optimizer in map(own_part, optimizers)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def fill_optimizers(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], saved: Mapping[str, Tensor]
) -> None:
    """Give new optimizers the saved state of a run's optimizers.

    Raises:
        ValueError: if a tensor is missing or of another shape.
    """
    for name, parameter, optimizer in _trained(model, optimizers):
        found = {
            key.removeprefix(f"{name}."): tensor
            for key in state_names(name, optimizer)
            if (tensor := saved.get(key)) is not None
        }
        wrong = [key for key, t in found.items() if t.dim() and t.shape != parameter.shape]
        if len(found) != len(state_names(name, optimizer)) or wrong:
            raise ValueError(f"the optimizer's state of {name} is missing or of another shape")
        optimizer.state[parameter] = {
            key: tensor.to(parameter.device) for key, tensor in found.items()
        }


def begin_optimizers(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Give new optimizers a state of zeros, shaped as after a step, for a checkpoint to fill."""
    for name, parameter, optimizer in _trained(model, optimizers):
        optimizer.state[parameter] = {
            key.removeprefix(f"{name}."): torch.zeros((), device=parameter.device)
            if key.endswith(".step")
            else torch.zeros_like(parameter, requires_grad=False)
            for key in state_names(name, optimizer)
        }


def state_names(name: str, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of a parameter's state: those in the optimizer's `STATE`, or AdamW's."""
    return [f"{name}.{key}" for key in getattr(optimizer, "STATE", ADAMW)]


ADAMW = ("step", "exp_avg", "exp_avg_sq")


def own_part(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer of this process's share if the state is divided, else `optimizer`."""
    return getattr(optimizer, "optim", optimizer)


def _trained(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterable[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in map(own_part, optimizers):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield names[parameter], parameter, optimizer
