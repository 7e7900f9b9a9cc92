"""A plain model of Llama's family as functions of one token per row; see `single_token`.

Between two products the processor has nothing to compute, but its caches are full of weights, which
have displaced the code of every call: a call takes five times as long as it would alone. So there
are few calls, and they write to memory already allocated.

Shape letters: B rows, H heads, G heads with keys and values, D head_dim, C emb_dim, F hidden_dim,
S tokens read before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.generation.flat_places import Place, attend, each_row
from llm_scratch.model.grouped_attention import GroupedQueryAttention
from llm_scratch.model.linear import Product, writer_of
from llm_scratch.model.llama import LlamaBlock, LlamaModel
from llm_scratch.model.llama_layers import GatedFeedForward, RMSNorm
from llm_scratch.model.rope import rope_tables

HALVES = (torch.bfloat16, torch.float16)
Turn = tuple[Tensor, ...]


class Room:
    """Memory that all blocks write to, one after another, and views of it.

    Args:
        model: a plain model.
        rows: B.
    """

    def __init__(self, model: Any, rows: int) -> None:
        cfg, weight = model.cfg, model.tok_emb.weight
        H, G, D = cfg.n_heads, cfg.n_kv_heads, cfg.head_dim
        empty = partial(torch.empty, device=weight.device, dtype=weight.dtype)
        self.qkv = empty(rows, (H + 2 * G) * D)
        heads = self.qkv.view(rows, H + 2 * G, D)
        self.straight = heads[:, : H + G]  # queries and keys before rotation
        new_values = heads[:, H + G :, None]  # (B, G, 1, D)
        self.turned = empty(rows, H + G, D, dtype=wide(weight.dtype))
        queries = self.turned[:, :H].view(rows, G, H // G, D)  # those of a group are adjacent
        new_keys = self.turned[:, H:, None]  # (B, G, 1, D)
        first, second = slice(D // 2), slice(D // 2, D)
        self.pairs = [
            (self.turned[..., here], self.straight[..., there])
            for here, there in ((first, second), (second, first))
        ]
        self.mixed = empty(rows, H * D)
        mixed, made = self.mixed.view(queries.shape), (new_keys, new_values, queries)
        self.together = [made], [mixed]
        self.each = each_row(made), mixed.split(1)
        self.gate_and_up = empty(rows, 2 * cfg.hidden_dim)
        self.gates, self.ups = self.gate_and_up.chunk(2, dim=-1)  # (B, F) each
        self.out = empty(rows, cfg.emb_dim)
        self.signs = torch.tensor([[1.0], [-1.0]], dtype=wide(weight.dtype), device=weight.device)


class FlatBlock:
    """A block without module calls: (B, 2, C), which holds x and -x, in place.

    Args:
        block: a plain block.
        rows: B.
        room: the memory that all blocks share.
    """

    def __init__(self, block: Any, rows: int, room: Room) -> None:
        att, ff = block.att, block.ff
        self._room, self._head_norm = room, _head_norm(att)
        self._norm1, self._norm2 = norm_of(block.norm1, rows), norm_of(block.norm2, rows)
        qkv, mixed, both, gates, out = (
            part[0] if rows == 1 else part  # a vector for one row
            for part in (room.qkv, room.mixed, room.gate_and_up, room.gates, room.out)
        )
        self._qkv = writer_of([att.W_query, att.W_key, att.W_value], rows, qkv)
        self._gate_and_up = writer_of([ff.fc1, ff.fc2], rows, both)
        self._project, self._down = (writer_of([x], rows, out) for x in (att.out_proj, ff.fc3))
        self._mixed, self._gates, self._out = mixed, gates, room.out[:, None]

    def __call__(self, x: Tensor, places: Sequence[Place], turn: Turn) -> Tensor:
        """Mix with the tokens before, then transform.

        Args:
            x: (B, 2, C), which is overwritten.
            places: the places in the cache that all rows share, or in each row's own.
            turn: the cosines and sines from `start`.
        """
        room = self._room
        self._qkv(self._norm1(x))
        if self._head_norm is not None:
            room.straight.copy_(self._head_norm(room.straight))
        cos, *sines = turn
        torch.mul(room.straight, cos, out=room.turned)
        for (here, there), sin in zip(room.pairs, sines, strict=True):
            here.addcmul_(there, sin)
        made, mixed = room.together if len(places) == 1 else room.each
        for out, found in zip(mixed, attend(made, places), strict=True):
            out.copy_(found)
        self._project(self._mixed)
        x.addcmul_(room.signs, self._out)
        self._gate_and_up(self._norm2(x))
        F.silu(room.gates, inplace=True).mul_(room.ups)
        self._down(self._gates)
        return x.addcmul_(room.signs, self._out)


def start(model: Any, ids: Tensor, where: Tensor | slice) -> tuple[Tensor, Turn]:
    """Return the tokens' vectors, and the cosines and sines that rotate their queries and keys.

    Returns:
        (B, 1) ids -> (B, 2, C), in float32 if the model has a 16-bit type; and cosines (D,) or
        (B, 1, D), and both halves of the sines.
    """
    x = model.tok_emb.weight[ids]  # (B, 1, C)
    x = torch.cat([x, -x], dim=1).to(wide(x.dtype))
    cos, sin = rope_tables(model.cfg, where, x.device)  # (1, D), or (B, 1, 1, D)
    return x, (cos[..., 0, :], *(half[..., 0, :] for half in sin.chunk(2, dim=-1)))


def flat_blocks(model: Any, rows: int) -> list[FlatBlock]:
    """Return the blocks of a model as functions."""
    room = Room(model, rows)
    return [FlatBlock(block, rows, room) for block in model.trf_blocks]


def norm_of(norm: Any, rows: int) -> Product:
    """Return an RMSNorm as a function of x and -x: (B, 2, C) -> (B, C), or (C,) for one row.

    Together they have a mean of 0, so that their variance is x's mean square: PyTorch's layer norm
    of both is the RMSNorm of each, in one call instead of five.
    """
    scale, eps = norm.scale.detach(), norm.eps
    weight = scale.to(wide(scale.dtype)).repeat(2)
    C, shape = len(scale), weight.shape

    def normed(x: Tensor) -> Tensor:
        flat = x.view(shape) if rows == 1 else x.view(rows, 2 * C)
        return torch.layer_norm(flat, shape, weight, None, eps)[..., :C].to(scale.dtype)

    return normed


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums are kept: float32 for 16-bit types."""
    return torch.float32 if dtype in HALVES else dtype


def _head_norm(att: Any) -> Product | None:
    """Return the normalisation of queries and keys together: (B, H + G, D) -> same."""
    if att.q_norm is None:
        return None
    scales = [att.q_norm.scale] * att.num_heads + [att.k_norm.scale] * att.num_kv_groups
    scale = torch.stack(scales).detach()  # (H + G, D)
    shape, eps = (att.head_dim,), att.q_norm.eps
    return lambda x: F.rms_norm(x, shape, eps=eps).mul_(scale)


def expected_classes(
    model: Any, linear: tuple[type, ...]
) -> Iterator[tuple[nn.Module, tuple[type, ...]]]:
    """Yield every part of a model with the classes that this file can compute.

    A part that another class lacks is never accessed: its owner is yielded first, and `all` stops
    there.
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
