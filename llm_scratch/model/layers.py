"""The parts of a block around attention: layer norm, GELU, feed-forward (book 4.2, 4.3).

Each operation exists twice: as a plain function that reads like its formula, and as a module that
calls PyTorch's fused kernel. Tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.config import GPTConfig, as_config
from llm_scratch.model.linear import Linear


def layer_norm_by_hand(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise every vector to mean 0 and variance 1, then scale and shift: (..., C) -> same.

    The variance divides by C, not by C - 1, as in GPT-2.

    Source:
        Book 4.2; Ba et al. 2016, arXiv:1607.06450.
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, unbiased=False)
    return scale * (x - mean) / torch.sqrt(variance + eps) + shift


def gelu_by_hand(x: Tensor) -> Tensor:
    """Apply a smooth ReLU, in the tanh approximation that GPT-2 was trained with: same shape.

    Source:
        Book 4.3; Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension: (..., C) -> (..., C).

    Args:
        emb_dim: C.

    Source:
        Book 4.2; computed by PyTorch's `layer_norm`, see `layer_norm_by_hand`.
    """

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every vector: (..., C) -> (..., C)."""
        scale, shift = self.scale.to(x.dtype), self.shift.to(x.dtype)
        return F.layer_norm(x, scale.shape, scale, shift, self.eps)


class GELU(nn.Module):
    """The activation function of GPT-2, applied to each element.

    Source:
        Book 4.3; computed by PyTorch's `gelu`, see `gelu_by_hand`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation: any shape, same shape."""
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """A network four times as wide, with GELU: (B, T, C) -> (B, T, C), each token on its own.

    Args:
        cfg: a `GPTConfig` or the book's dict; `emb_dim` is used.

    Source:
        Book 4.3.
    """

    def __init__(self, cfg: GPTConfig | Mapping[str, Any]) -> None:
        super().__init__()
        width = as_config(cfg).emb_dim
        self.layers = nn.Sequential(
            Linear(width, 4 * width),
            GELU(),
            Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token on its own: (B, T, C) -> (B, T, C)."""
        return self.layers(x)
