"""The choice of a device, made on request and never at import."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def pick_device(name: str = "auto") -> torch.device:
    """Return the device to compute on; "auto" means CUDA if available, else the CPU.

    Apple's GPU is used only when named ("mps"), and only after one training step has been compared
    with the CPU's: some versions of PyTorch silently compute wrong attention there.

    Raises:
        ValueError: if the device does not exist on this machine, or "mps" fails the comparison.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{name!r} is not a device; try auto, cpu, cuda or mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{name!r} was requested, but PyTorch finds no CUDA device; try cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ValueError(f"{name!r} was requested, but PyTorch finds cuda:0 to cuda:{last}")
    if device.type == "mps":
        _check_mps(device)
    return device


def _check_mps(device: torch.device) -> None:
    if not torch.backends.mps.is_available():
        raise ValueError("'mps' was requested, but PyTorch finds no Apple GPU; try cpu")
    difference = max_step_difference(device)
    if difference > 1e-3:
        raise ValueError(
            f"'mps' computes a training step that differs from the CPU's by {difference:.1e}, more "
            "than 1e-3; update PyTorch, or use cpu"
        )


def max_step_difference(device: torch.device) -> float:
    """Return the largest difference from the CPU in output and gradient of an attention step."""
    x = torch.randn(2, 16, 192, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(192, 576, generator=torch.Generator().manual_seed(1)) / 14
    (here, here_grad), (cpu, cpu_grad) = (
        _attention_step(x.to(place), weight.to(place)) for place in (device, torch.device("cpu"))
    )
    return max((here - cpu).abs().max().item(), (here_grad - cpu_grad).abs().max().item())


def _attention_step(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weight = nn.Parameter(weight)
    queries, keys, values = (
        part.view(2, 16, 3, 64).transpose(1, 2) for part in (x @ weight).chunk(3, dim=-1)
    )
    output = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    (gradient,) = torch.autograd.grad((output**2).mean(), weight)
    return output.detach().cpu(), gradient.cpu()
