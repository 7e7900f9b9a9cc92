"""From logits to the next token: pure functions on (B, V) logits, one choice a row (book 5.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def check_sampling(temperature: float, top_k: int | None) -> None:
    """Refuse settings that mean nothing, before any work is done.

    Raises:
        ValueError: if `temperature` is negative or no number, or `top_k` is negative.
    """
    if not temperature >= 0 or temperature == float("inf"):
        raise ValueError(f"{temperature=} must be 0 or more and finite; 0 is greedy")
    if top_k is not None and top_k < 0:
        raise ValueError(f"{top_k=} must be 0 or more; 0 and None mean no limit")


def keep_top_k(logits: Tensor, top_k: int | None) -> Tensor:
    """Logits with all but the k largest of each row at -inf: (B, V) -> (B, V).

    Ties with the k-th largest stay. None, 0 and anything from V on mean no limit.

    Source:
        Book 5.3.2; Fan et al. 2018, arXiv:1805.04833.
    """
    if not top_k or top_k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def sample_next(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one next token per row: (B, V) logits -> (B, 1) ids.

    A temperature of 0 takes the likeliest token and draws no random number; above 0 it samples,
    flatter as it grows.

    Args:
        logits: (B, V), in any floating-point type; probabilities are computed in float32.
        temperature: 0 or more.
        top_k: only the k likeliest tokens can be chosen; None and 0 mean no limit.
        generator: where random numbers come from; None is PyTorch's global generator.

    Raises:
        ValueError: if `temperature` or `top_k` is negative.

    Source:
        Book 5.3.
    """
    check_sampling(temperature, top_k)
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    logits = keep_top_k(logits.float(), top_k)
    probabilities = (logits / temperature).softmax(dim=-1)
    return torch.multinomial(probabilities, num_samples=1, generator=generator)
