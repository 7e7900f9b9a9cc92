"""The sizes and options of a GPT: one frozen, checked object that reads like the book's dict."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

GPT_CONFIG_124M: dict[str, Any] = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
"""The configuration dict of book chapter 4, key by key."""

_SIZES = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")
_SWITCHES = ("qkv_bias", "tie_weights")


class ConfigError(ValueError, AssertionError):
    """An error in a size or option of a model (the book asserts some of them)."""


class ReadsLikeADict:
    """Methods that make a frozen dataclass read like the book's dict: `cfg["emb_dim"]`, `**cfg`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def keys(self) -> tuple[str, ...]:
        """Return the names of all options, in order."""
        return tuple(self.__dataclass_fields__)

    def get(self, key: str, default: Any = None) -> Any:
        """Return an option's value, or `default` if there is no such option."""
        return getattr(self, key) if key in self else default

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(f"{key!r} is not an option; the options are {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass(frozen=True)
class GPTConfig(ReadsLikeADict):
    """The sizes and options of a GPT, checked once when it is made.

    It reads like the book's dict (`cfg["emb_dim"]`, `**cfg`) and changes through
    `dataclasses.replace(cfg, drop_rate=0.1)`.

    Args:
        vocab_size: V, number of token ids.
        context_length: the maximum T, number of positions.
        emb_dim: C, width of the residual stream; a multiple of `n_heads`.
        n_heads: H, attention heads per block.
        n_layers: number of transformer blocks.
        drop_rate: dropout probability wherever no other rate is given, 0 to 1.
        qkv_bias: whether the query, key and value projections have a bias (GPT-2: yes).
        tie_weights: whether the output head is the token embedding (GPT-2: yes; the book: no).
        drop_rate_emb: dropout after the embeddings; None means `drop_rate`.
        drop_rate_attn: dropout of the attention weights; None means `drop_rate`.
        drop_rate_shortcut: dropout before each shortcut addition; None means `drop_rate`.

    Raises:
        ConfigError: if a size is not a positive integer, a rate is outside 0 to 1, or `emb_dim`
            is not divisible by `n_heads`. It is a `ValueError`.

    Source:
        Book 4.1; exercise 4.3 for the three separate rates.
    """

    vocab_size: int
    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    drop_rate: float = 0.0
    qkv_bias: bool = False
    tie_weights: bool = False
    drop_rate_emb: float | None = None
    drop_rate_attn: float | None = None
    drop_rate_shortcut: float | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be True or False")
        for name in ("drop_rate", "drop_rate_emb", "drop_rate_attn", "drop_rate_shortcut"):
            _check_rate(name, getattr(self, name), optional=name != "drop_rate")
        if self.emb_dim % self.n_heads:
            raise ConfigError(
                f"emb_dim={self.emb_dim} must be divisible by n_heads={self.n_heads}, "
                "so that every head gets the same width"
            )

    @property
    def n_kv_heads(self) -> int:
        """The number of heads with their own keys and values: all heads in this family."""
        return self.n_heads

    @property
    def head_dim(self) -> int:
        """D, width of a head."""
        return self.emb_dim // self.n_heads

    @property
    def embedding_dropout(self) -> float:
        """The dropout rate that applies after the embeddings."""
        return self.drop_rate if self.drop_rate_emb is None else self.drop_rate_emb

    @property
    def attention_dropout(self) -> float:
        """The dropout rate that applies to the attention weights."""
        return self.drop_rate if self.drop_rate_attn is None else self.drop_rate_attn

    @property
    def shortcut_dropout(self) -> float:
        """The dropout rate that applies before each shortcut addition."""
        return self.drop_rate if self.drop_rate_shortcut is None else self.drop_rate_shortcut


def as_config(cfg: GPTConfig | Mapping[str, Any]) -> GPTConfig:
    """Return the configuration itself, or one made from a dict with the same keys.

    Raises:
        ConfigError: if a key is unknown or missing; the known ones are listed.
        TypeError: if `cfg` is neither a `GPTConfig` nor a mapping.
    """
    return config_from(GPTConfig, _SIZES, cfg)


Config = TypeVar("Config", bound=ReadsLikeADict)


def config_from(kind: type[Config], needed: Sequence[str], cfg: Any) -> Config:
    """Return a configuration of a kind: `cfg` itself, or one made from a dict.

    Args:
        kind: the class.
        needed: the keys that a dict must have.
        cfg: an instance of the class, or a dict.

    Raises:
        ConfigError: if a key is unknown or missing; the known ones are listed.
        TypeError: if `cfg` is neither.
    """
    if isinstance(cfg, kind):
        return cfg
    if not isinstance(cfg, Mapping):
        name = type(cfg).__name__
        raise TypeError(f"a configuration is a {kind.__name__} or a dict, got {name}")
    known = list(kind.__dataclass_fields__)
    unknown = [str(key) for key in cfg if key not in known]
    if unknown:
        raise ConfigError(f"unknown key {', '.join(unknown)}; known are {', '.join(known)}")
    missing = [name for name in needed if name not in cfg]
    if missing:
        raise ConfigError(f"the configuration lacks {', '.join(missing)}; every size is required")
    return kind(**cfg)


def positive_int(name: str, value: Any) -> int:
    """Return a size as a whole number.

    Raises:
        ConfigError: if it is not a positive whole number.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} must be a positive integer")
    return number


def _check_rate(name: str, value: Any, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise ConfigError(f"{name}={value!r} must be a number from 0 to 1")


_gpt2 = partial(GPTConfig, vocab_size=50257, context_length=1024, qkv_bias=True, tie_weights=True)

GPT2_CONFIGS: dict[str, GPTConfig] = {
    "124M": _gpt2(emb_dim=768, n_layers=12, n_heads=12),
    "355M": _gpt2(emb_dim=1024, n_layers=24, n_heads=16),
    "774M": _gpt2(emb_dim=1280, n_layers=36, n_heads=20),
    "1558M": _gpt2(emb_dim=1600, n_layers=48, n_heads=25),
}
"""OpenAI's four GPT-2 models as released: with qkv bias, tied, without dropout."""

_ALIASES = {"small": "124M", "medium": "355M", "large": "774M", "xl": "1558M", "": "124M"}


def gpt2_size(name: str) -> str:
    """Return "124M", "355M", "774M" or "1558M" for any common name of a GPT-2.

    The names are the sizes themselves, hub names ("gpt2", "openai-community/gpt2-xl"), the book's
    names ("gpt2-medium") and labels ("gpt2-medium (355M)").

    Raises:
        ValueError: if the name is none of them.
    """
    cleaned = name.strip().lower().removeprefix("openai-community/")
    label, _, size = cleaned.partition("(")
    kind = label.strip().removeprefix("gpt2").removeprefix("-")
    found = [_ALIASES.get(kind, kind.upper())] + ([size.rstrip(") ").upper()] if size else [])
    if not cleaned or set(found) - set(GPT2_CONFIGS) or len(set(found)) > 1:
        known = ", ".join(GPT2_CONFIGS)
        raise ValueError(f"{name!r} is not a GPT-2; use {known} or a name like gpt2-medium")
    return found[0]


def gpt2_config(name: str) -> GPTConfig:
    """Return the configuration of a released GPT-2, by any name that `gpt2_size` knows."""
    return GPT2_CONFIGS[gpt2_size(name)]
