"""The sizes and options of Llama and its relatives (Qwen, SmolLM2, Mistral): one configuration.

Shape letters: V vocabulary, T tokens, C emb_dim, H heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from llm_scratch.checks import is_number
from llm_scratch.model.config import ConfigError, ReadsLikeADict, config_from, positive_int

ROPE_KINDS = ("llama3", "linear", "yarn")
DTYPES = ("float32", "bfloat16", "float16")
_SIZES = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")


@dataclass(frozen=True)
class RopeScaling(ReadsLikeADict):
    """The scaling of RoPE's frequencies for texts longer than those of pretraining.

    Args:
        factor: how many times longer texts may be.
        kind: "llama3" (slow waves are stretched, fast ones kept), "linear" (all are), or "yarn".
        low_freq_factor: llama3: waves with fewer turns than this in the original context are
            stretched by the whole factor.
        high_freq_factor: llama3: waves with more turns than this are kept.
        original_context_length: context length of pretraining; llama3 and yarn need it.
        beta_fast: yarn: waves with more turns than this are kept.
        beta_slow: yarn: waves with fewer turns than this are stretched by the whole factor.
        attention_factor: yarn: the factor for cosines and sines; None means 0.1 ln(factor) + 1.

    Raises:
        ConfigError: if the kind is unknown, or a number is missing or out of range.

    Source:
        Llama 3.1's model card; Chen et al. 2023, arXiv:2306.15595 (linear); Peng et al. 2023,
        arXiv:2309.00071 (yarn).
    """

    factor: float
    kind: str = "llama3"
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise ConfigError(f"RoPE of kind {self.kind!r} is unknown; use {', '.join(ROPE_KINDS)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "kind" or (value is None and field.default is None):
                continue
            if not is_number(value) or value <= 0:
                raise ConfigError(f"{field.name}={value!r} of RoPE must be a positive number")
        if self.kind != "linear" and self.original_context_length is None:
            raise ConfigError(f"RoPE of kind {self.kind} needs original_context_length")
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError("low_freq_factor of RoPE must be below high_freq_factor")


@dataclass(frozen=True)
class LlamaConfig(ReadsLikeADict):
    """The sizes and options of a `LlamaModel`, checked once when it is made.

    Args:
        vocab_size: V, number of token ids.
        context_length: the maximum T.
        emb_dim: C, width of the residual stream.
        n_heads: H, attention heads per block.
        n_layers: number of transformer blocks.
        hidden_dim: width inside the feed-forward network; required without experts.
        n_kv_groups: number of keys and values for the H queries; 0 means H.
        head_dim: D, width of a head; 0 means C / H.
        rope_base: the base of RoPE's frequencies.
        rope_freq: the scaling of the frequencies: a `RopeScaling`, or a dict of its arguments.
        qk_norm: whether queries and keys are normalised (Qwen 3).
        qkv_bias: whether the query, key and value projections have a bias (Qwen 1.5 to 2.5).
        tie_weights: whether the output head is the token embedding.
        norm_eps: the number that keeps RMSNorm from dividing by 0; 0 means 1e-6 with `qk_norm`,
            else 1e-5.
        sliding_window: number of tokens that each token sees, itself included; None means all.
        sliding_layers: the blocks with the window, from 0; None means all.
        num_experts: experts of each feed-forward network; 0 for a single network.
        num_experts_per_tok: number of experts per token.
        moe_intermediate_size: width inside an expert.
        norm_topk_prob: whether the shares of a token's experts are scaled to sum to 1.
        dtype: type of a new model's parameters, as a name or PyTorch's; None means PyTorch's
            default. Weights from a file keep their own.

    Raises:
        ConfigError: if a size is missing or out of range, or two conflict. It is a `ValueError`.

    Source:
        Touvron et al. 2023, arXiv:2302.13971; the keys are those of the book's own package.
    """

    vocab_size: int
    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    hidden_dim: int = 0
    n_kv_groups: int = 0
    head_dim: int = 0
    rope_base: float = 10_000.0
    rope_freq: RopeScaling | None = None
    qk_norm: bool = False
    qkv_bias: bool = False
    tie_weights: bool = False
    norm_eps: float = 0.0
    sliding_window: int | None = None
    sliding_layers: tuple[int, ...] | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = True
    dtype: str | None = None

    def __post_init__(self) -> None:
        self._set_defaults()
        for name in self._sizes():
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        for name in ("qk_norm", "qkv_bias", "tie_weights", "norm_topk_prob"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be True or False")
        for name in ("rope_base", "norm_eps"):
            if not is_number(value := getattr(self, name)) or value <= 0:
                raise ConfigError(f"{name}={value!r} must be a positive number")
        self._check_pairs()

    def _set_defaults(self) -> None:
        """Fill in the options that follow from others, and convert all to plain data."""
        put = partial(object.__setattr__, self)
        if not self.n_kv_groups:
            put("n_kv_groups", self.n_heads)
        if not self.head_dim:
            heads = positive_int("n_heads", self.n_heads)
            if positive_int("emb_dim", self.emb_dim) % heads:
                raise ConfigError(
                    f"emb_dim={self.emb_dim} is not divisible by n_heads={heads}; pass head_dim"
                )
            put("head_dim", self.emb_dim // heads)
        if not self.norm_eps:
            put("norm_eps", 1e-6 if self.qk_norm else 1e-5)
        if isinstance(self.rope_freq, Mapping):
            put("rope_freq", _rope_scaling(self.rope_freq))
        if self.sliding_layers is not None:
            put("sliding_layers", tuple(self.sliding_layers))
        if self.dtype is not None:
            put("dtype", str(self.dtype).removeprefix("torch."))

    def _sizes(self) -> list[str]:
        """Return the names of the options that must be positive whole numbers here."""
        names = [*_SIZES, "n_kv_groups", "head_dim"]
        if self.num_experts:
            names += ["num_experts", "num_experts_per_tok", "moe_intermediate_size"]
        if not self.num_experts or self.hidden_dim:
            names.append("hidden_dim")
        return names + (["sliding_window"] if self.sliding_window is not None else [])

    def _check_pairs(self) -> None:
        """Refuse combinations that do not fit."""
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads={self.n_heads} must be divisible by n_kv_groups={self.n_kv_groups}, so "
                "that each key serves the same number of queries"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} must be even, as RoPE turns pairs")
        if self.rope_freq is not None and not isinstance(self.rope_freq, RopeScaling):
            raise ConfigError(f"rope_freq={self.rope_freq!r} must be a RopeScaling or a dict")
        if self.num_experts and self.num_experts_per_tok > self.num_experts:
            raise ConfigError(f"{self.num_experts_per_tok} of {self.num_experts} experts can't be")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r} must be one of {', '.join(DTYPES)}")
        layers = range(self.n_layers)
        if any(layer not in layers for layer in self.sliding_layers or ()):
            raise ConfigError(f"sliding_layers={self.sliding_layers} must be 0 to {layers[-1]}")

    @property
    def n_kv_heads(self) -> int:
        """The number of heads with their own keys and values."""
        return self.n_kv_groups

    def window_of(self, layer: int) -> int | None:
        """Return the number of tokens that each token of a block sees; None for all."""
        slides = self.sliding_layers is None or layer in self.sliding_layers
        return self.sliding_window if slides else None


def _rope_scaling(options: Mapping[str, Any]) -> RopeScaling:
    known = [field.name for field in fields(RopeScaling)]
    if unknown := [str(key) for key in options if key not in known]:
        raise ConfigError(
            f"unknown key {', '.join(unknown)} of rope_freq; known are {', '.join(known)}"
        )
    if "factor" not in options:
        raise ConfigError("rope_freq lacks factor")
    return RopeScaling(**options)


def as_llama_config(cfg: LlamaConfig | Mapping[str, Any]) -> LlamaConfig:
    """Return the configuration itself, or one made from a dict with the same keys.

    Raises:
        ConfigError: if a key is unknown or missing; the known ones are listed.
        TypeError: if `cfg` is neither a `LlamaConfig` nor a mapping.
    """
    return config_from(LlamaConfig, _SIZES, cfg)
