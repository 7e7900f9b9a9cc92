"""Attention in which several queries share a key and a value.

Shape letters: B batch, T tokens, S tokens in a cache, H heads, G heads with keys and values of
their own, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.attention import causal_mask
from llm_scratch.model.cache import KVCache
from llm_scratch.model.linear import Linear
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.llama_layers import RMSNorm
from llm_scratch.model.rope import Rope, apply_rope, rope_tables
from llm_scratch.model.together import outputs_of


def window_mask(
    length: int, window: int, past: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Return which token may see which: (T, S + T) booleans, True for the last `window` tokens.

    Args:
        length: T, the number of tokens that look.
        window: the number of tokens that each may see, itself included.
        past: S, the number of tokens before these.
        device: the device of the mask.
    """
    mask = causal_mask(length, device, past)
    return mask ^ mask.tril(past - window)


class GroupedQueryAttention(nn.Module):
    """Attention of H queries, G keys and values, turned by position: (B, T, C) -> (B, T, C).

    Args:
        cfg: a `LlamaConfig`.

    Source:
        Ainslie et al. 2023, arXiv:2305.13245; computed by PyTorch's
        `scaled_dot_product_attention`, see `attention_by_hand` on repeated keys and values.
    """

    one_input = ("W_query", "W_key", "W_value")

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        C, D = cfg.emb_dim, cfg.head_dim
        self.cfg = cfg
        self.num_heads, self.num_kv_groups, self.head_dim = cfg.n_heads, cfg.n_kv_heads, D
        self.W_query = Linear(C, cfg.n_heads * D, bias=cfg.qkv_bias)
        self.W_key = Linear(C, cfg.n_kv_heads * D, bias=cfg.qkv_bias)
        self.W_value = Linear(C, cfg.n_kv_heads * D, bias=cfg.qkv_bias)
        self.out_proj = Linear(cfg.n_heads * D, C, bias=False)
        self.q_norm = RMSNorm(D, cfg.norm_eps) if cfg.qk_norm else None
        self.k_norm = RMSNorm(D, cfg.norm_eps) if cfg.qk_norm else None

    def forward(
        self,
        x: Tensor,
        *,
        rope: Rope | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Let every token look at itself and its past: (B, T, C) -> (B, T, C).

        Args:
            x: (B, T, C).
            rope: tables from `rope_tables`; by default for positions that continue from the cache.
            mask: booleans that broadcast to (B, H, T, S + T), True where a token may look, or
                numbers to add to the scores; by default, a token sees itself and all before it.
            cache: the cache of the S tokens before these, which are added to it.
            layer: the number of this layer in the cache.
        """
        B, T, _ = x.shape
        past = 0 if cache is None else cache.length
        queries, keys, values = (
            made.view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H or G, T, D)
            for made in outputs_of((self.W_query, self.W_key, self.W_value), x)
        )
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        rope = rope_tables(self.cfg, slice(past, past + T), x.device) if rope is None else rope
        queries, keys = apply_rope(queries, rope), apply_rope(keys, rope)
        if cache is not None:
            keys, values = cache.update(layer, keys, values)  # (B, G, S + T, D)
            if mask is None and T > 1 and past:
                mask = causal_mask(T, x.device, past)
        context_vec = attend_in_groups(queries, keys, values, mask)  # (B, H, T, D)
        return self.out_proj(context_vec.transpose(1, 2).reshape(B, T, -1))


def attend_in_groups(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Mix values, each for H / G queries: (B, H, T, D), twice (B, G, S + T, D) -> (B, H, T, D).

    Args:
        queries: (B, H, T, D).
        keys: (B, G, S + T, D).
        values: (B, G, S + T, D).
        mask: booleans that broadcast to (B, H, T, S + T), True where a token may look. With None, a
            single token sees all; several see themselves and those before them, and S is 0.
    """
    B, H, T, D = queries.shape
    groups = keys.shape[1]
    if T == 1 and (mask is None or mask.dim() == 2 or mask.shape[-3] == 1):
        # The queries of a group become adjacent tokens, so its keys are read once for all of them.
        queries = queries.reshape(B, groups, H // groups, D)
        return F.scaled_dot_product_attention(queries, keys, values, mask).view(B, H, 1, D)
    if H != groups and mask is not None and queries.device.type != "cpu":
        # With a mask, grouped heads use a kernel there that holds all T x (S + T) scores.
        keys, values = (part.repeat_interleave(H // groups, dim=1) for part in (keys, values))
    return F.scaled_dot_product_attention(
        queries, keys, values, mask, is_causal=mask is None, enable_gqa=H != keys.shape[1]
    )
