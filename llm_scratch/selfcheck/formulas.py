"""The formula of attention, right and with usual mistakes, to recognise wrong results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llm_scratch.selfcheck import hints

INF = float("inf")


def weights_of(q: Tensor, k: Tensor, causal: bool, mistake: str = "") -> Tensor:
    """Return attention weights (..., T, T), with one mistake if its hint is given."""
    D = q.shape[-1]
    scores = q @ k.transpose(-2, -1)
    if mistake == hints.QUERIES_KEYS:
        scores = scores.transpose(-2, -1)
    scale = {hints.NO_SCALE: 1.0, hints.SCALE: float(D)}.get(mistake, D**0.5)
    dim = {hints.SOFTMAX_DIM: -2, hints.BATCH_MIXED: 0}.get(mistake, -1)
    ones = torch.ones(scores.shape[-2:], dtype=torch.bool)
    allowed = ones.tril()
    if mistake == hints.MASK_REVERSED:
        allowed = ones.triu()
    elif mistake == hints.MASK_DIAGONAL:
        allowed = ones.tril(-1)
    if not causal or mistake == hints.NO_MASK:
        return (scores / scale).softmax(dim)
    if mistake == hints.MASK_AFTER_SOFTMAX:
        return (scores / scale).softmax(dim) * allowed
    hidden = 0.0 if mistake == hints.MASK_WITH_ZERO else -INF
    return (scores / scale).masked_fill(~allowed, hidden).softmax(dim)


WEIGHT_MISTAKES = (
    hints.NO_SCALE,
    hints.SCALE,
    hints.SOFTMAX_DIM,
    hints.BATCH_MIXED,
    hints.QUERIES_KEYS,
    hints.NO_MASK,
    hints.MASK_AFTER_SOFTMAX,
    hints.MASK_WITH_ZERO,
    hints.MASK_REVERSED,
    hints.MASK_DIAGONAL,
)


def multi_head(
    q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool, mistake: str = ""
) -> Tensor:
    """Return the joined heads: (..., T, C) three times -> (..., T, C)."""
    *rows, T, C = q.shape
    D = C // heads

    def split(t: Tensor) -> Tensor:
        if mistake == hints.VIEW_WITHOUT_TRANSPOSE:
            return t.reshape(*rows, heads, T, D)
        if mistake == hints.HEADS_INTERLEAVED:
            return t.reshape(*rows, T, D, heads).movedim(-1, -3)
        return t.reshape(*rows, T, heads, D).transpose(-3, -2)

    weights = weights_of(split(q), split(k), causal, mistake)
    values = {hints.VALUES: k}.get(mistake, v)
    joined = weights @ split(values)  # (..., H, T, D)
    if mistake == hints.MERGE_WITHOUT_TRANSPOSE:
        return joined.reshape(*rows, T, C)
    return joined.transpose(-3, -2).reshape(*rows, T, C)


def mistaken(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    causal: bool,
    project: Callable[[Tensor], Tensor],
) -> dict[str, list[Tensor]]:
    """Return the results of usual mistakes: hint -> results."""
    kinds = [*WEIGHT_MISTAKES, hints.VALUES]
    results: dict[str, list[Tensor]] = {}
    for kind in kinds:
        results[kind] = [project(multi_head(q, k, v, heads, causal, kind))]
    if causal:
        root = (q.shape[-1]) ** 0.5 / (q.shape[-1] // heads) ** 0.5
        results[hints.SCALE].append(project(multi_head(q / root, k, v, heads, causal)))
        results[hints.MASK_AFTER_SOFTMAX] += _mask_before_nothing(q, k, v, heads, project)
    else:
        results[hints.NOT_CAUSAL_HERE] = [project(multi_head(q, k, v, heads, True))]
    if heads > 1:
        results.update(_head_mistakes(q, k, v, heads, project))
    return results


def _mask_before_nothing(q: Any, k: Any, v: Any, heads: int, project: Any) -> list[Tensor]:
    """Mask after the softmax, and do not scale: two mistakes that often come together."""
    root = (q.shape[-1] // heads) ** 0.5
    return [project(multi_head(q * root, k, v, heads, True, hints.MASK_AFTER_SOFTMAX))]


def _head_mistakes(
    q: Tensor, k: Tensor, v: Tensor, heads: int, project: Callable[[Tensor], Tensor]
) -> dict[str, list[Tensor]]:
    *rows, T, C = q.shape
    results = {
        kind: [project(multi_head(q, k, v, heads, True, kind))]
        for kind in (
            hints.VIEW_WITHOUT_TRANSPOSE,
            hints.MERGE_WITHOUT_TRANSPOSE,
            hints.HEADS_INTERLEAVED,
        )
    }
    both = multi_head(q, k, v, heads, True, hints.VIEW_WITHOUT_TRANSPOSE)
    straight = both.reshape(*rows, T, heads, C // heads).transpose(-3, -2).reshape(*rows, T, C)
    results[hints.VIEW_WITHOUT_TRANSPOSE].append(project(straight))
    results[hints.HEADS_NOT_SPLIT] = [project(multi_head(q, k, v, 1, True))]
    results[hints.NO_OUT_PROJ] = [multi_head(q, k, v, heads, True)]
    return results
