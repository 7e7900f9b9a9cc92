"""Attention, from two trainable matrices to many heads, in the order of book chapter 3.

Shape letters: B batch, T tokens, H heads, D head_dim. `attention_by_hand` is the formula; the
modules up to `CausalAttention` are built on it, `MultiHeadAttention` on PyTorch's fused kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.cache import KVCache
from llm_scratch.model.config import ConfigError
from llm_scratch.model.linear import Linear
from llm_scratch.model.together import outputs_of


def causal_mask(length: int, device: torch.device | str | None = None, past: int = 0) -> Tensor:
    """Return which token may see which: (T, S + T) booleans, True for itself and all before it.

    Args:
        length: T, the number of tokens that look.
        device: the device of the mask.
        past: S, the number of earlier tokens, which all may see.
    """
    return torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)


def attention_mask_of(attention_mask: Tensor, B: int, T: int, past: int) -> Tensor:
    """Expand a model's `attention_mask` to which token may see which: (B, 1, T, S + T) booleans.

    Args:
        attention_mask: (B, S + T), False (or 0) where a token is padding; or (B, T, S + T), True
            where a token may look at another. No token sees later ones, and each sees itself, even
            padding: a row that sees nothing would become NaN in some kernels, and the output of
            padding is not used.
        B: the number of rows.
        T: the number of tokens that look.
        past: S, the number of tokens before them.

    Raises:
        ValueError: if the mask has another shape.
    """
    shapes = (B, past + T), (B, T, past + T)
    if attention_mask.shape not in shapes:
        raise ValueError(
            f"an attention_mask of shape {tuple(attention_mask.shape)} does not fit; {shapes[0]} "
            f"is needed, one place per token, or {shapes[1]}, one row of places per token"
        )
    allowed = attention_mask.bool().reshape(B, -1, past + T)  # (B, 1 or T, S + T)
    mask = causal_mask(T, attention_mask.device, past)  # (T, S + T)
    itself = mask ^ mask.tril(past - 1)
    return ((mask & allowed) | itself)[:, None]


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute how much each token attends to each: (..., T, D), (..., S, D) -> (..., T, S).

    This is softmax(Q K^T / sqrt(D)) over the keys; each row sums to 1.

    Args:
        queries: what each token looks for.
        keys: what each token offers.
        mask: booleans that broadcast to (..., T, S), True where a query may look. A query that
            may not look anywhere (a padding row) gets zeros, never NaN.

    Raises:
        TypeError: if `mask` does not hold booleans.

    Source:
        Book 3.4 and 3.5; Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
    """
    scores = queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5  # (..., T, S)
    if mask is None:
        return scores.softmax(dim=-1)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask holds booleans, True where a query may look, not {mask.dtype}")
    # The smallest number, not -inf: a row without any allowed key would become NaN.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).masked_fill(~mask, 0.0)


def attention_by_hand(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Mix for every token the values it looks at: (..., T, D) three times -> (..., T, D).

    `torch.nn.functional.scaled_dot_product_attention` computes this formula in one kernel; a test
    compares the outputs and gradients of the two.

    Args:
        queries: (..., T, D).
        keys: (..., S, D).
        values: (..., S, D).
        mask: as in `attention_weights`.
        dropout: probability of dropping a weight; the others are scaled by 1 / (1 - dropout).

    Source:
        Book 3.4 to 3.5.
    """
    weights = attention_weights(queries, keys, mask)
    return F.dropout(weights, dropout) @ values if dropout else weights @ values


def check_length(length: int, context_length: int) -> None:
    """Refuse a sequence that is longer than the model's context.

    Raises:
        ValueError: naming both lengths.
    """
    if length > context_length:
        raise ValueError(
            f"a sequence of {length} tokens does not fit a context_length of {context_length}; "
            "pass only the last tokens, or build the model with a longer context"
        )


class SelfAttention_v1(nn.Module):
    """Self-attention with three plain matrices: (..., T, d_in) -> (..., T, d_out).

    Args:
        d_in: width of the inputs.
        d_out: width of queries, keys, values and outputs.

    Source:
        Book 3.4.2, where it takes only (T, d_in).
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.W_query = nn.Parameter(torch.rand(d_in, d_out))
        self.W_key = nn.Parameter(torch.rand(d_in, d_out))
        self.W_value = nn.Parameter(torch.rand(d_in, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """Let every token look at every token: (..., T, d_in) -> (..., T, d_out)."""
        return attention_by_hand(x @ self.W_query, x @ self.W_key, x @ self.W_value)


class SelfAttention_v2(nn.Module):
    """Self-attention with linear layers, which are better initialised: same shapes as v1.

    Args:
        d_in: width of the inputs.
        d_out: width of queries, keys, values and outputs.
        qkv_bias: whether the three projections have a bias.

    Source:
        Book 3.4.2, where it takes only (T, d_in).
    """

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token look at every token: (..., T, d_in) -> (..., T, d_out)."""
        return attention_by_hand(self.W_query(x), self.W_key(x), self.W_value(x))


class _MaskNotStored:
    """The mask of the causal modules, which is made on demand and never stored.

    The book keeps it as a buffer, so files made with the book's classes hold one `mask` entry per
    layer, which is dropped when such a file is loaded.
    """

    context_length: int

    @property
    def mask(self) -> Tensor:
        """The book's mask: (context_length, context_length), 1 where a token must not look."""
        return (~causal_mask(self.context_length)).float()


def _drop_mask(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    state_dict.pop(prefix + "mask", None)


class CausalAttention(_MaskNotStored, nn.Module):
    """One head that sees only the past: (B, T, d_in) -> (B, T, d_out).

    Args:
        d_in: width of the inputs.
        d_out: width of queries, keys, values and outputs.
        context_length: maximum number of tokens in a sequence.
        dropout: dropout probability of the attention weights, in training.
        qkv_bias: whether the three projections have a bias.

    Source:
        Book 3.5.3; the mask is not stored here.
    """

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        self.d_out = d_out
        self.context_length = context_length
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.register_load_state_dict_pre_hook(_drop_mask)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token look at itself and its past: (B, T, d_in) -> (B, T, d_out).

        Raises:
            ValueError: if T is above `context_length`.
        """
        length = x.shape[-2]
        check_length(length, self.context_length)
        dropout = self.dropout.p if self.dropout.training else 0.0
        return attention_by_hand(
            self.W_query(x),
            self.W_key(x),
            self.W_value(x),
            mask=causal_mask(length, x.device),
            dropout=dropout,
        )


class MultiHeadAttentionWrapper(nn.Module):
    """Several causal heads side by side: (B, T, d_in) -> (B, T, num_heads * d_out).

    Args:
        d_in: width of the inputs.
        d_out: width of each head's output.
        context_length: maximum number of tokens in a sequence.
        dropout: dropout probability of the attention weights, in training.
        num_heads: number of heads.
        qkv_bias: whether the projections have a bias.

    Source:
        Book 3.6.1.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            CausalAttention(d_in, d_out, context_length, dropout, qkv_bias)
            for _ in range(num_heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the heads one after another and concatenate them: (B, T, num_heads * d_out)."""
        return torch.cat([head(x) for head in self.heads], dim=-1)


class MultiHeadAttention(_MaskNotStored, nn.Module):
    """All causal heads at once, then a projection: (B, T, d_in) -> (B, T, d_out).

    Args:
        d_in: width of the inputs.
        d_out: C, width of the output, split evenly among the heads.
        context_length: maximum number of tokens in a sequence.
        dropout: dropout probability of the attention weights, in training.
        num_heads: H.
        qkv_bias: whether query, key and value projections have a bias.

    Raises:
        ConfigError: if `d_out` is not divisible by `num_heads` (a `ValueError`, and an
            `AssertionError` as in the book).

    Source:
        Book 3.6.2, computed by PyTorch's `scaled_dot_product_attention`; the mask is not stored.
    """

    one_input = ("W_query", "W_key", "W_value")

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_out % num_heads:
            raise ConfigError(f"{d_out=} must be divisible by {num_heads=}, 1 or more")
        self.d_out = d_out
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.context_length = context_length
        self.W_query = Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_load_state_dict_pre_hook(_drop_mask)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Let every token look at itself and its past: (B, T, d_in) -> (B, T, d_out).

        Args:
            x: (B, T, d_in).
            mask: booleans that broadcast to (B, H, T, S + T), True where a token may look, or
                numbers to add to the scores; by default, a token sees itself and all before it.
            cache: the cache of the S tokens before these, which are added to it.
            layer: the number of this layer in the cache.

        Raises:
            ValueError: if `x` does not have three dimensions, or T is above `context_length`.
        """
        if x.dim() != 3:
            raise ValueError(f"expected (batch, tokens, d_in), got shape {tuple(x.shape)}")
        B, T, _ = x.shape
        check_length(T, self.context_length)
        queries, keys, values = (
            made.view(B, T, self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, D)
            for made in outputs_of((self.W_query, self.W_key, self.W_value), x)
        )
        if x.device.type == "mps":  # some versions compute transposed views wrongly there
            queries, keys, values = queries.contiguous(), keys.contiguous(), values.contiguous()
        if cache is not None:
            keys, values = cache.update(layer, keys, values)  # (B, H, S + T, D)
            if mask is None and T > 1 and cache.length:
                mask = causal_mask(T, x.device, past=cache.length)
        context_vec = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout.p if self.dropout.training else 0.0,
            is_causal=mask is None and T > 1,  # a single token may look at all tokens held
        )
        context_vec = context_vec.transpose(1, 2).reshape(B, T, self.d_out)  # (B, T, C)
        return self.out_proj(context_vec)
