"""Any model, seen through what may be wrapped around it: compiling, data parallel, sharding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WRAPPERS = ("_orig_mod.", "module.")  # what compiling and data parallel put before names


def unwrapped(model: Any) -> Any:
    """Return the model itself, without what compiling or data parallel wraps around it."""
    while isinstance(model, nn.Module):
        compiled, inner = (getattr(model, name, None) for name in ("_orig_mod", "module"))
        if isinstance(compiled, nn.Module):
            model = compiled
        elif isinstance(inner, nn.Module) and _only_wraps(model):
            model = inner
        else:
            break
    return model


def _only_wraps(model: nn.Module) -> bool:
    """Whether a module is one of PyTorch's wrappers, or holds nothing but a `module`."""
    if type(model).__module__.startswith("torch."):
        return True
    return [name for name, _ in model.named_children()] == ["module"] and not model._parameters


def has_hooks(module: nn.Module) -> bool:
    """Return whether somebody watches or has replaced the call of a module, this one itself."""
    return "forward" in vars(module) or any(getattr(module, name) for name in HOOKS)


def device_of(model: Any) -> torch.device:
    """Return where a model's parameters are: the first one's device, the CPU without any."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def context_length_of(model: Any) -> int:
    """Return how many tokens a model sees: its configuration's, or the book's position rows.

    Raises:
        ValueError: if the model says neither.
    """
    model = unwrapped(model)
    if (cfg := getattr(model, "cfg", None)) is not None:
        return int(cfg["context_length"])
    if isinstance(positions := getattr(model, "pos_emb", None), nn.Embedding):
        return positions.num_embeddings  # a model typed from the book keeps no configuration
    raise ValueError("this model has no cfg that tells its context length; pass context_size")
