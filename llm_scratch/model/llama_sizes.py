"""Configurations of released Llama, Qwen and SmolLM2 models, named as in the book's package.

Each is a plain dict, as `GPT_CONFIG_124M` is: `LlamaModel(LLAMA32_CONFIG_1B)`.
"""

from __future__ import annotations

from typing import Any

Sizes = dict[str, Any]


def _llama(emb_dim: int, n_heads: int, n_layers: int, hidden_dim: int, **more: Any) -> Sizes:
    sizes = {"emb_dim": emb_dim, "n_heads": n_heads, "n_layers": n_layers}
    return {"vocab_size": 128_256, "context_length": 131_072, **sizes, "hidden_dim": hidden_dim,
            "n_kv_groups": 8, "rope_base": 500_000.0, "dtype": "bfloat16", **more}  # fmt: skip


def _stretched(factor: float) -> Sizes:
    turns = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {"factor": factor, **turns, "original_context_length": 8192}


def _qwen3(emb_dim: int, n_heads: int, n_layers: int, **more: Any) -> Sizes:
    sizes = {"emb_dim": emb_dim, "n_heads": n_heads, "n_layers": n_layers}
    return {"vocab_size": 151_936, "context_length": 40_960, **sizes, "head_dim": 128,
            "qk_norm": True, "n_kv_groups": 8, "rope_base": 1_000_000.0, "dtype": "bfloat16",
            **more}  # fmt: skip


LLAMA2_CONFIG_7B = _llama(
    4096, 32, 32, 11008,
    vocab_size=32_000, context_length=4096, n_kv_groups=32, rope_base=10_000.0,
)  # fmt: skip
LLAMA3_CONFIG_8B = _llama(4096, 32, 32, 14336, context_length=8192)
LLAMA31_CONFIG_8B = _llama(4096, 32, 32, 14336, rope_freq=_stretched(8.0))
LLAMA32_CONFIG_1B = _llama(2048, 32, 16, 8192, rope_freq=_stretched(32.0))
LLAMA32_CONFIG_3B = _llama(3072, 24, 28, 8192, rope_freq=_stretched(32.0))

SMOLLM2_CONFIG_135M = _llama(
    576, 9, 30, 1536,
    vocab_size=49_152, context_length=8192, n_kv_groups=3, rope_base=100_000.0, tie_weights=True,
)  # fmt: skip

QWEN_CONFIG_06_B = _qwen3(1024, 16, 28, hidden_dim=3072)
QWEN3_CONFIG_1_7B = _qwen3(2048, 16, 28, hidden_dim=6144)
QWEN3_CONFIG_4B = _qwen3(2560, 32, 36, hidden_dim=9728)
QWEN3_CONFIG_8B = _qwen3(4096, 32, 36, hidden_dim=12288)
QWEN3_CONFIG_14B = _qwen3(5120, 40, 40, hidden_dim=17408)
QWEN3_CONFIG_32B = _qwen3(5120, 64, 64, hidden_dim=25600)
QWEN3_CONFIG_30B_A3B = _qwen3(
    2048, 32, 48, context_length=262_144, n_kv_groups=4, rope_base=10_000_000.0,
    num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
)  # fmt: skip
