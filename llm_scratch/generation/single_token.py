"""One token through a plain GPT without calling its modules, at the speed of its memory.

To write one token for one row, every weight is read once and used once: matrix times vector.
What counts is how fast memory delivers the weights, and that nothing else takes time: calling
twelve layers of modules takes about as long as a tenth of the products of GPT-2 124M.

The weights stay where they are, shared with the model and trainable; nothing is fused, copied or
left behind.

Shape letters: B batch, H heads, D head_dim, C emb_dim, S tokens read before, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.generation.quantized import Int8Linear
from llm_scratch.model.attention import MultiHeadAttention
from llm_scratch.model.cache import KVCache
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.layers import GELU, FeedForward, LayerNorm
from llm_scratch.model.linear import Linear, Product, product_of
from llm_scratch.model.wrappers import device_of

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class _Layer:
    """What one block computes, as plain functions of (C,) or (B, C)."""

    norm1: Product
    query: Product
    key: Product
    value: Product
    out: Product
    norm2: Product
    up: Product
    down: Product


class FlatModel:
    """A plain `GPTModel` for one token a row; use `FlatModel.of`, which checks that it is plain.

    Args:
        model: in evaluation mode.
        rows: B.
    """

    def __init__(self, model: GPTModel, rows: int) -> None:
        self._tokens = model.tok_emb.weight
        self._positions = model.pos_emb.weight
        self._layers = [_layer(block, rows) for block in model.trf_blocks]
        self._final_norm = _norm(model.final_norm)
        self._head = product_of(model.out_head, rows)
        attention: Any = model.trf_blocks[0].att
        self._heads_shape = (rows, attention.num_heads, 1, attention.head_dim)

    @classmethod
    def of(cls, model: Any, rows: int) -> FlatModel | None:
        """The flat form of a model, or None where calling its modules would do anything else."""
        device = device_of(model)
        if torch.is_autocast_enabled(device.type) or not is_plain(model):
            return None
        return cls(model, rows)

    def __call__(self, ids: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
        """Read one token of each row: (B, 1) ids -> (B, V) logits, as `GPTModel` would.

        Args:
            ids: (B, 1).
            cache: holds the S tokens before; gets this one too.
            mask: (B, S + 1) booleans, False where a token is padding.
        """
        x = self._embed(ids, cache.length, mask)  # (C,) for one row, else (B, C)
        shape = self._heads_shape
        seen = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, S + 1)
        for index, layer in enumerate(self._layers):
            normed = layer.norm1(x)
            queries = layer.query(normed).view(shape)  # (B, H, 1, D)
            keys, values = layer.key(normed).view(shape), layer.value(normed).view(shape)
            keys, values = cache.update(index, keys, values)  # (B, H, S + 1, D)
            context_vec = F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
            x = x + layer.out(context_vec.reshape(x.shape))
            x = x + layer.down(F.gelu(layer.up(layer.norm2(x)), approximate="tanh"))
        cache.advance(1)
        return self._head(self._final_norm(x)).view(len(ids), -1)

    def _embed(self, ids: Tensor, past: int, mask: Tensor | None) -> Tensor:
        if mask is None:
            places = self._positions[past]  # (C,)
        else:
            places = self._positions[mask.sum(dim=1) - 1]  # (B, C)
        x = self._tokens[ids[:, 0]] + places  # (B, C)
        return x[0] if len(ids) == 1 else x


def is_plain(model: Any) -> bool:
    """Whether every layer is exactly the plain class, unwatched, on one device in one type."""
    # Private: where a later version has it no more, modules are called, which is always right.
    watched = getattr(torch.nn.modules.module, "_has_any_global_hook", lambda: True)
    if watched():
        return False
    expected = _expected_classes(model)
    if not all(type(part) in kinds and not has_hooks(part) for part, kinds in expected):
        return False
    parameters = list(model.parameters())
    return (
        model.tok_emb.max_norm is None
        and model.pos_emb.max_norm is None
        and len({(p.device, p.dtype) for p in parameters}) == 1
        and all(type(p) is nn.Parameter for p in parameters)
        and len({(block.att.num_heads, block.att.head_dim) for block in model.trf_blocks}) == 1
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches or has replaced the call of a module, this one itself."""
    return "forward" in vars(module) or any(getattr(module, name) for name in HOOKS)


def _expected_classes(model: Any) -> Iterator[tuple[nn.Module, tuple[type, ...]]]:
    """Every part of a model with the classes that this file knows how to compute.

    A part that a class of another kind lacks is never asked for: its owner is yielded first,
    and `all` stops there.
    """
    linear = (nn.Linear, Linear, Int8Linear)
    yield model, (GPTModel,)
    yield model.tok_emb, (nn.Embedding,)
    yield model.pos_emb, (nn.Embedding,)
    yield model.drop_emb, (nn.Dropout,)
    yield model.trf_blocks, (nn.Sequential,)
    yield model.final_norm, (LayerNorm,)
    yield model.out_head, linear
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


def _layer(block: Any, rows: int) -> _Layer:
    att, up, down = block.att, block.ff.layers[0], block.ff.layers[2]
    return _Layer(
        norm1=_norm(block.norm1),
        query=product_of(att.W_query, rows),
        key=product_of(att.W_key, rows),
        value=product_of(att.W_value, rows),
        out=product_of(att.out_proj, rows),
        norm2=_norm(block.norm2),
        up=product_of(up, rows),
        down=product_of(down, rows),
    )


def _norm(norm: Any) -> Product:
    return partial(
        torch.layer_norm,
        normalized_shape=norm.scale.shape,
        weight=norm.scale,
        bias=norm.shift,
        eps=norm.eps,
    )
