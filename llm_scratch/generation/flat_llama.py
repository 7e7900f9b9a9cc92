"""A plain model of Llama's family as functions of one token a row; see `single_token`.

Shape letters: B rows, H heads, G heads with keys and values, D head_dim, C emb_dim, F hidden_dim,
S tokens read before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.grouped_attention import GroupedQueryAttention, attend_in_groups
from llm_scratch.model.linear import Product, product_of, product_of_all
from llm_scratch.model.llama import LlamaBlock, LlamaModel
from llm_scratch.model.llama_layers import GatedFeedForward, RMSNorm
from llm_scratch.model.rope import Rope, apply_rope

HALVES = (torch.bfloat16, torch.float16)


def embed(model: Any, ids: Tensor, where: Tensor | slice) -> Tensor:
    """Return the tokens' vectors: (B, 1) ids -> (C,) for one row, else (B, C).

    A single row on a CPU is kept in float32 from block to block, which costs nothing.
    """
    x = model.tok_emb.weight[ids[:, 0]]  # (B, C), a copy
    if len(ids) > 1:
        return x
    return x[0].float() if x.dtype in HALVES and x.device.type == "cpu" else x[0]


class FlatBlock:
    """A block without module calls: (C,) or (B, C) -> the same, in place.

    Args:
        block: a plain block.
        rows: B.
    """

    def __init__(self, block: Any, rows: int) -> None:
        att, ff = block.att, block.ff
        self._norm1, self._norm2 = norm_of(block.norm1, rows), norm_of(block.norm2, rows)
        self._qkv = product_of_all([att.W_query, att.W_key, att.W_value], rows)
        self._gate_and_up = product_of_all([ff.fc1, ff.fc2], rows)
        self._out, self._down = product_of(att.out_proj, rows), product_of(ff.fc3, rows)
        self._head_norm = _head_norm(att)
        self._heads, self._groups = att.num_heads, att.num_kv_groups
        self._shape = (rows, self._heads + 2 * self._groups, 1, att.head_dim)

    def __call__(
        self, x: Tensor, place: tuple[Tensor, ...], mask: Tensor | None, rope: Rope
    ) -> Tensor:
        """Mix with the tokens before, then transform.

        Args:
            x: (C,) or (B, C), which is overwritten.
            place: one of `KVCache.next_places`, or its end where a window is open.
            mask: (B, 1, 1, S + 1), or None.
            rope: of the one position, or (B, 1, 1, D) each.
        """
        made = self._qkv(self._norm1(x)).view(self._shape)  # (B, H + 2G, 1, D)
        turned = made.narrow(1, 0, self._heads + self._groups)  # queries and keys
        if self._head_norm is not None:
            turned = self._head_norm(turned)
        turned = apply_rope(turned, rope)
        keys_place, values_place, keys, values = place
        keys_place.copy_(turned.narrow(1, self._heads, self._groups))
        values_place.copy_(made.narrow(1, self._heads + self._groups, self._groups))
        queries = turned.narrow(1, 0, self._heads)  # (B, H, 1, D)
        mixed = attend_in_groups(queries, keys, values, mask)  # (B, H, 1, D)
        x += self._out(mixed.reshape(*x.shape[:-1], -1))
        gates, values = self._gate_and_up(self._norm2(x)).chunk(2, dim=-1)  # (B, F) each
        x += self._down(F.silu(gates).mul_(values))
        return x


def norm_of(norm: Any, rows: int) -> Product:
    """Return an RMSNorm as a function; for a single row on a CPU in a third of the time."""
    weight, eps = norm.scale.detach(), norm.eps
    if rows == 1 and weight.device.type == "cpu":
        return partial(_norm_of_one, weight=weight, eps=eps)
    return partial(F.rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)


def _norm_of_one(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of one vector, in the type of the weights: (C,) -> (C,)."""
    mean_square = torch.dot(x, x).item() / len(x)
    return torch.mul(x, weight).mul_((mean_square + eps) ** -0.5).to(weight.dtype)


def _head_norm(att: Any) -> Product | None:
    """Return the normalisation of queries and keys side by side: (B, H + G, 1, D) -> same."""
    if att.q_norm is None:
        return None
    scales = [att.q_norm.scale] * att.num_heads + [att.k_norm.scale] * att.num_kv_groups
    scale = torch.stack(scales).detach()[:, None]  # (H + G, 1, D)
    shape, eps = (att.head_dim,), att.q_norm.eps
    return lambda x: F.rms_norm(x, shape, eps=eps).mul_(scale)


def expected_classes(
    model: Any, linear: tuple[type, ...]
) -> Iterator[tuple[nn.Module, tuple[type, ...]]]:
    """Yield every part of a model with the classes that this file knows how to compute.

    A part that a class of another kind lacks is never asked for: its owner is yielded first,
    and `all` stops there.
    """
    yield model, (LlamaModel,)
    yield model.final_norm, (RMSNorm,)
    for block in model.trf_blocks:
        yield block, (LlamaBlock,)
        yield block.norm1, (RMSNorm,)
        yield block.norm2, (RMSNorm,)
        yield block.att, (GroupedQueryAttention,)
        for name in ("W_query", "W_key", "W_value", "out_proj"):
            yield getattr(block.att, name), linear
        for name in ("q_norm", "k_norm"):
            if getattr(block.att, name) is not None:
                yield getattr(block.att, name), (RMSNorm,)
        yield block.ff, (GatedFeedForward,)
        for name in ("fc1", "fc2", "fc3"):
            yield getattr(block.ff, name), linear
