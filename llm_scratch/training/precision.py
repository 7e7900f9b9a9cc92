"""The precision that a run computes in, chosen by the abilities of the device."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from llm_scratch.model.linear import has_matrix_units
from llm_scratch.training.config import PRECISIONS, Precision


def pick_precision(name: Precision, device: torch.device) -> torch.dtype:
    """Return the type of the matrix products; parameters, sums, norms and losses stay in float32.

    "auto" is bfloat16 on a CUDA GPU that supports it, else float16 there (with a scaled loss);
    bfloat16 on a CPU with matrix units for it (AMX), else float32; float32 on Apple's GPU.

    Raises:
        ValueError: if the device can't compute in the type, naming those it can.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r} is not known; there are {', '.join(PRECISIONS)}")
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if has_bfloat16(device) else torch.float16
        fast = device.type == "cpu" and has_matrix_units()
        return torch.bfloat16 if fast else torch.float32
    if name == "bfloat16" and not has_bfloat16(device):
        raise ValueError(f"{device} does not compute in bfloat16; float16, float32 or auto do")
    return getattr(torch, name)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 natively rather than through float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type != "mps"


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Return a context in which matrix products are computed in `dtype`.

    Autocast's cache is off. It would keep every weight in `dtype` until the context ends, even
    those of recomputed or divided blocks: two bytes per parameter. A forward pass uses each weight
    only once.
    """
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype, cache_enabled=False)


def make_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Return a scaler that keeps small float16 gradients above zero; for other types it is off."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
