"""Access to a model through its wrappers: compiling, data parallel, sharding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WRAPPERS = ("_orig_mod.", "module.")  # the prefixes that compiling and data parallel add to names


def unwrapped(model: Any) -> Any:
    """Return the model itself, without the wrappers of compiling or data parallel."""
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
    """Return whether a module is one of PyTorch's wrappers, or holds only a `module`."""
    if type(model).__module__.startswith("torch."):
        return True
    return [name for name, _ in model.named_children()] == ["module"] and not model._parameters


def has_hooks(module: nn.Module) -> bool:
    """Return whether this module's own call is hooked or replaced."""
    return "forward" in vars(module) or any(getattr(module, name) for name in HOOKS)


def device_of(model: Any) -> torch.device:
    """Return the device of a model's first parameter, the CPU if it has none."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def context_length_of(model: Any) -> int:
    """Return a model's context length, from its configuration or its position embedding.

    Raises:
        ValueError: if the model has neither.
    """
    model = unwrapped(model)
    if (cfg := getattr(model, "cfg", None)) is not None:
        return int(cfg["context_length"])
    if isinstance(positions := getattr(model, "pos_emb", None), nn.Embedding):
        return positions.num_embeddings  # a model typed from the book keeps no configuration
    raise ValueError("this model has no cfg with its context length; pass context_size")
