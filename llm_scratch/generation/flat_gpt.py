"""A plain GPT as functions of one token per row; see `single_token`.

Shape letters: B rows, H heads, D head_dim, C emb_dim, S tokens read before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.generation.flat_places import Place, attend, each_row
from llm_scratch.model.attention import MultiHeadAttention
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.layers import GELU, FeedForward, LayerNorm
from llm_scratch.model.linear import Product, product_of, product_of_all


def start(model: Any, ids: Tensor, where: Tensor | slice) -> tuple[Tensor, None]:
    """Add token and position embeddings: (B, 1) ids -> (C,) for one row, else (B, C)."""
    positions = model.pos_emb.weight[where]  # (1, C), or (B, 1, C)
    x = model.tok_emb.weight[ids[:, 0]] + positions.view(-1, positions.shape[-1])  # (B, C)
    return (x[0] if len(ids) == 1 else x), None


def flat_blocks(model: Any, rows: int) -> list[FlatBlock]:
    """Return the blocks of a model as functions."""
    return [FlatBlock(block, rows) for block in model.trf_blocks]


class FlatBlock:
    """A block without module calls: (C,) or (B, C) -> the same.

    Args:
        block: a plain block.
        rows: B.
    """

    def __init__(self, block: Any, rows: int) -> None:
        att, layers = block.att, block.ff.layers
        self._norm1, self._norm2 = norm_of(block.norm1, rows), norm_of(block.norm2, rows)
        self._qkv = product_of_all([att.W_query, att.W_key, att.W_value], rows)
        self._out, self._up, self._down = (
            product_of(layer, rows) for layer in (att.out_proj, layers[0], layers[2])
        )
        self._shape = (rows, 3, att.num_heads, 1, att.head_dim)

    def __call__(self, x: Tensor, places: Sequence[Place], rope: Any) -> Tensor:
        """Mix with the tokens before, then transform.

        Args:
            x: (C,) or (B, C).
            places: the places in the cache that all rows share, or in each row's own.
            rope: unused; positions are in x.
        """
        queries, new_keys, new_values = self._qkv(self._norm1(x)).view(self._shape).unbind(1)
        rows = (new_keys, new_values, queries)
        found = attend([rows] if len(places) == 1 else each_row(rows), places)
        mixed = found[0] if len(found) == 1 else torch.cat(found)  # (B, H, 1, D)
        x = x + self._out(mixed.reshape(x.shape))
        return x + self._down(F.gelu(self._up(self._norm2(x)), approximate="tanh"))


def norm_of(norm: Any, rows: int) -> Product:
    """Return a layer norm as a function."""
    options = {"weight": norm.scale, "bias": norm.shift, "eps": norm.eps}
    return partial(torch.layer_norm, normalized_shape=norm.scale.shape, **options)


def expected_classes(
    model: Any, linear: tuple[type, ...]
) -> Iterator[tuple[nn.Module, tuple[type, ...]]]:
    """Yield every part of a model with the classes that this file can compute.

    A part that another class lacks is never accessed: its owner is yielded first, and `all` stops
    there.
    """
    yield model, (GPTModel,)
    yield model.pos_emb, (nn.Embedding,)
    yield model.drop_emb, (nn.Dropout,)
    yield model.final_norm, (LayerNorm,)
    for block in model.trf_blocks:
        yield block, (TransformerBlock,)
        yield block.norm1, (LayerNorm,)
        yield block.norm2, (LayerNorm,)
        yield block.drop_shortcut, (nn.Dropout,)
        yield block.att, (MultiHeadAttention,)
        yield block.att.dropout, (nn.Dropout,)
        for name in ("W_query", "W_key", "W_value", "out_proj"):
            yield getattr(block.att, name), linear
        yield block.ff, (FeedForward,)
        yield block.ff.layers, (nn.Sequential,) if len(block.ff.layers) == 3 else ()
        yield from zip(block.ff.layers, (linear, (GELU,), linear), strict=True)
