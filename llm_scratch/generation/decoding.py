"""Token ids in, longer token ids out: the loops of book 4.7 and 5.3."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llm_scratch.generation.sampling import check_sampling, sample_next
from llm_scratch.model.modes import evaluation_mode

Model = Callable[[Tensor], Tensor]
"""Anything that maps (B, T) ids to (B, T, V) logits."""


def generate_text_simple(
    model: Model, idx: Tensor, max_new_tokens: int, context_size: int | None = None
) -> Tensor:
    """The ids and their likeliest continuation: (B, T) -> (B, T + max_new_tokens).

    Args:
        model: maps (B, T) ids to (B, T, V) logits; its train and eval modes are left as found.
        idx: (B, T) ids, T at least 1; kept whole in the result.
        max_new_tokens: 0 or more.
        context_size: how many of the last ids the model sees; None is its `cfg.context_length`.

    Raises:
        ValueError: if `idx` is empty or has no two dimensions, or a number is out of range.

    Source:
        Book 4.7, where the model stays in the mode that it is in.
    """
    return generate(model, idx, max_new_tokens, context_size)


@torch.no_grad()
def generate(
    model: Model,
    idx: Tensor,
    max_new_tokens: int,
    context_size: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    eos_id: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The ids and a continuation: (B, T) -> (B, at most T + max_new_tokens).

    Each row ends on its own: it keeps the `eos_id` that it produced (the book drops it) and is
    padded with it until the last row has ended. An `eos_id` in the prompt ends nothing.

    Args:
        model: maps (B, T) ids to (B, T, V) logits; its train and eval modes are left as found.
        idx: (B, T) ids, T at least 1; kept whole in the result.
        max_new_tokens: 0 or more.
        context_size: how many of the last ids the model sees; None is its `cfg.context_length`.
        temperature: 0 is greedy and draws no random number; above 0 samples.
        top_k: only the k likeliest tokens can be chosen; None and 0 mean no limit.
        eos_id: the id that ends a row; None never ends one.
        generator: where random numbers come from; None is PyTorch's global generator.

    Raises:
        ValueError: if `idx` is empty or has no two dimensions, or a number is out of range.

    Source:
        Book 5.3.3, where `top_k` and `eos_id` work for one row only.
    """
    context_size = _check(model, idx, max_new_tokens, context_size)
    check_sampling(temperature, top_k)
    prompt_length = idx.shape[1]
    ids = idx.new_empty(idx.shape[0], prompt_length + max_new_tokens)  # (B, T + new)
    ids[:, :prompt_length] = idx
    ended = torch.zeros(idx.shape[0], 1, dtype=torch.bool, device=idx.device)
    with evaluation_mode(model):
        for length in range(prompt_length, ids.shape[1]):
            logits = model(ids[:, max(0, length - context_size) : length])[:, -1]  # (B, V)
            chosen = sample_next(logits, temperature, top_k, generator)  # (B, 1)
            if eos_id is not None:
                chosen = chosen.masked_fill(ended, eos_id)
                ended |= chosen == eos_id
            ids[:, length : length + 1] = chosen
            if eos_id is not None and bool(ended.all()):
                return ids[:, : length + 1]
    return ids


def _check(model: Model, idx: Tensor, max_new_tokens: int, context_size: int | None) -> int:
    if idx.dim() != 2 or idx.shape[1] == 0:
        raise ValueError(
            f"expected ids of shape (batch, tokens) with a token at least, got {tuple(idx.shape)}"
        )
    if max_new_tokens < 0:
        raise ValueError(f"{max_new_tokens=} must be 0 or more")
    if context_size is None:
        cfg = getattr(model, "cfg", None)
        if cfg is None:
            raise ValueError("this model has no cfg that tells its context; pass context_size")
        context_size = int(cfg["context_length"])
    if context_size < 1:
        raise ValueError(f"{context_size=} must be 1 or more")
    return context_size
