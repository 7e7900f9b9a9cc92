"""Enlarging a model's vocabulary in place.

Shape letters: V vocabulary, C emb_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from llm_scratch.model.decoder import is_tied
from llm_scratch.model.heads import head_of


def grow_vocabulary(model: Any, size: int) -> None:
    """Add rows for more ids to a model, in place; new rows start at the mean of the old ones.

    An optimizer made earlier does not know the new parameters.

    Args:
        model: a language model without LoRA.
        size: the new V.

    Raises:
        ValueError: if it is not above the model's vocabulary size, or the head is not a plain one.
    """
    before = model.cfg.vocab_size
    if size <= before:
        raise ValueError(f"{size=} is not above the model's vocab_size of {before}")
    _check_head(model)
    tied = is_tied(model)
    model.tok_emb.weight = _grown(model.tok_emb.weight, size)
    model.tok_emb.num_embeddings = model.out_head.out_features = size
    model.cfg = replace(model.cfg, vocab_size=size)
    if tied:
        model.tie_weights()
    else:
        model.out_head.weight = _grown(model.out_head.weight, size)


def start_at_mean(model: Any, ids: Sequence[int], others: Sequence[int]) -> None:
    """Set rows of the embedding, and of an untied head, to the mean of others, in place.

    Args:
        model: a language model without LoRA.
        ids: the ids of the rows to set.
        others: the ids of the rows to average.

    Raises:
        ValueError: if the head is not a plain one.
    """
    _check_head(model)
    with torch.no_grad():
        for weight in {model.tok_emb.weight, model.out_head.weight}:  # (V, C); one if they are tied
            weight[list(ids)] = _mean(weight[list(others)])


def _check_head(model: Any) -> None:
    layer = model.out_head
    if hasattr(layer, "linear") or not hasattr(layer, "weight") or head_of(model).kind != "tokens":
        raise ValueError(
            "tokens must be added to a plain language model, before it gets LoRA or a head for "
            "classes"
        )


def _grown(weight: torch.Tensor, size: int) -> nn.Parameter:
    """Return (V, C) weights with more rows, set to the mean of the existing ones."""
    rows = _mean(weight.detach()).expand(size - weight.shape[0], -1)
    return nn.Parameter(torch.cat([weight.detach(), rows]), requires_grad=weight.requires_grad)


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Average rows in double precision: (n, C) -> (C,)."""
    return rows.detach().double().mean(dim=0).to(rows.dtype)
