"""This library's Llama under the names and signatures of the published package's two modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.attention import attention_by_hand
from llm_scratch.model.cache import KVCache as Room
from llm_scratch.model.grouped_attention import GroupedQueryAttention
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.llama_layers import ExpertsFeedForward, RMSNorm
from llm_scratch.model.llama_sizes import LLAMA32_CONFIG_1B, LLAMA32_CONFIG_3B, QWEN_CONFIG_06_B
from llm_scratch.model.rope import apply_rope, rope_tables
from llm_scratch.weights.llama import load_weights_into_llama


def compute_rope_params(
    head_dim: int,
    theta_base: float = 10_000,
    context_length: int = 4096,
    freq_config: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all positions, without the sign that ours have: (T, D) each."""
    cfg = LlamaConfig(1, context_length, head_dim, 1, 1, hidden_dim=1, rope_base=theta_base,
                      rope_freq=freq_config)  # type: ignore[arg-type]  # fmt: skip
    cos, sin = rope_tables(cfg, slice(0, context_length), torch.device("cpu"))
    return cos.to(dtype), sin[:, head_dim // 2 :].repeat(1, 2).to(dtype)


def signed(cos: Tensor, sin: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The tables of the first positions as `apply_rope` takes them."""
    half = sin.shape[-1] // 2
    return cos[:length], torch.cat([-sin[:length, :half], sin[:length, half:]], dim=-1)


def apply_rope_(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, H, T, D)."""
    return apply_rope(x, signed(cos, sin, x.shape[-2]))


class GroupedQueryAttentionFast(nn.Module):
    """Our attention, with the rotation handed in."""

    def __init__(self, d_in, d_out, num_heads, num_kv_groups, dtype=None):
        super().__init__()
        self.att = GroupedQueryAttention(
            LlamaConfig(1, 1, d_in, num_heads, 1, hidden_dim=1, n_kv_groups=num_kv_groups,
                        head_dim=d_out // num_heads)
        ).to(dtype)  # fmt: skip

    def forward(self, x, cos, sin):
        return self.att(x, rope=signed(cos, sin, x.shape[1]))


class GroupedQueryAttentionByHand(GroupedQueryAttentionFast):
    """The formula, on repeated keys and values, with the mask handed in."""

    def forward(self, x, mask, cos, sin):
        att, (B, T, _) = self.att, x.shape
        queries, keys, values = (
            layer(x).view(B, T, -1, att.head_dim).transpose(1, 2)
            for layer in (att.W_query, att.W_key, att.W_value)
        )
        queries, keys = apply_rope_(queries, cos, sin), apply_rope_(keys, cos, sin)
        times = att.num_heads // att.num_kv_groups
        keys, values = (part.repeat_interleave(times, dim=1) for part in (keys, values))
        context = attention_by_hand(queries, keys, values, ~mask)
        return att.out_proj(context.transpose(1, 2).reshape(B, T, -1))


class KVCache:
    """The package's cache, which is made without a model: ours is made at its first use."""

    def __init__(self, n_layers):
        self.room: Room | None = None


class ModelWithCache(LlamaModel):
    """The package's variant that takes its cache."""

    def forward(self, in_idx, cache=None):
        if cache is None:
            return super().forward(in_idx)
        if cache.room is None:
            cache.room = self.new_cache(len(in_idx))
        return super().forward(in_idx, cache=cache.room)

    def reset_kv_cache(self):
        """Nothing is kept in the model."""


def qwen_norm(emb_dim, eps=1e-6, bias=False, qwen3_compatible=True):
    return RMSNorm(emb_dim, eps)


class Qwen3Tokenizer:
    """Imported by the tests, and used only by those that reach a network."""


COMMON = {"apply_rope": apply_rope_, "compute_rope_params": compute_rope_params}
NAMES: dict[str, dict[str, Any]] = {
    "llama3": {
        **COMMON,
        "GroupedQueryAttention": GroupedQueryAttentionByHand,
        "GroupedQueryAttentionFast": GroupedQueryAttentionFast,
        "load_weights_into_llama": load_weights_into_llama,
        "LLAMA32_CONFIG_1B": LLAMA32_CONFIG_1B,
        "LLAMA32_CONFIG_3B": LLAMA32_CONFIG_3B,
        "Llama3Model": LlamaModel,
    },
    "qwen3": {
        **COMMON,
        "load_weights_into_qwen": load_weights_into_llama,
        "QWEN_CONFIG_06_B": QWEN_CONFIG_06_B,
        "Qwen3Model": LlamaModel,
        "Qwen3Tokenizer": Qwen3Tokenizer,
        "RMSNorm": qwen_norm,
        "MoEFeedForward": ExpertsFeedForward,
    },
    "kv_cache.llama3": {"Llama3Model": ModelWithCache},
    "kv_cache.qwen3": {"Qwen3Model": ModelWithCache},
    "kv_cache.utils": {"KVCache": KVCache},
    "kv_cache_batched.qwen3": {"Qwen3Model": ModelWithCache},
}
