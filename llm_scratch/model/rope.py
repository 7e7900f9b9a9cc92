"""Rotary position embedding: queries and keys are turned by angles that grow with the position.

The product of a query and a key then depends on their distance, not on their positions. Dimension i
of a head is paired with dimension i + D/2 (rotate-half, the order of Hugging Face's files).

Shape letters: B batch, H heads, T tokens, D head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llm_scratch.model.llama_config import LlamaConfig, RopeScaling

Rope = tuple[Tensor, Tensor]


def rope_by_hand(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + D/2}) by its angle: (..., T, D), (T, D/2) -> (..., T, D).

    `apply_rope` computes this formula in one piece; a test compares the two.

    Source:
        Su et al. 2021, arXiv:2104.09864, section 3.2.
    """
    first, second = x.chunk(2, dim=-1)  # (..., T, D/2) each
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def frequencies(cfg: LlamaConfig, device: torch.device | str | None = None) -> Tensor:
    """Return the angle by which each pair turns per position, in radians: (D/2,)."""
    D = cfg.head_dim
    powers = torch.arange(0, D, 2, dtype=torch.float32, device=device) / D
    turns = 1.0 / cfg.rope_base**powers
    scaling = cfg.rope_freq
    if scaling is None:
        return turns
    if scaling.kind == "linear":
        return turns / scaling.factor
    return _llama3(turns, scaling) if scaling.kind == "llama3" else _yarn(turns, scaling, cfg)


def _llama3(turns: Tensor, scaling: RopeScaling) -> Tensor:
    """Stretch the slow waves, keep the fast ones, and interpolate between the two."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    waves = scaling.original_context_length * turns / (2 * math.pi)  # type: ignore[operator]
    kept = ((waves - low) / (high - low)).clamp(0, 1)  # 0 is stretched by the whole factor
    return (1 - kept) * turns / scaling.factor + kept * turns


def _yarn(turns: Tensor, scaling: RopeScaling, cfg: LlamaConfig) -> Tensor:
    """Stretch by the number of turns in the original context, in whole dimensions."""

    def dimension(rotations: float) -> float:
        length = scaling.original_context_length / (rotations * 2 * math.pi)  # type: ignore[operator]
        return cfg.head_dim * math.log(length) / (2 * math.log(cfg.rope_base))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), cfg.head_dim - 1)
    places = torch.arange(len(turns), dtype=torch.float32, device=turns.device)
    stretched = ((places - low) / max(high - low, 0.001)).clamp(0, 1)
    return turns / scaling.factor * stretched + turns * (1 - stretched)


def yarn_attention_factor(factor: float) -> float:
    """Return YaRN's default factor for cosines and sines."""
    return 0.1 * math.log(factor) + 1


def rope_tables(cfg: LlamaConfig, positions: Tensor | slice, device: torch.device) -> Rope:
    """Compute cosines and sines for positions, in float32: (T, D) each, or (B, 1, T, D).

    They are computed at each call, so that no file holds them and no move of a model loses them.
    The first half of the sines is negated, as `apply_rope` needs it.

    Args:
        cfg: the model's configuration.
        positions: a slice, (T,) or (B, T).
        device: the device of the tables for a slice.
    """
    if isinstance(positions, slice):
        positions = torch.arange(positions.start, positions.stop, device=device)
    if positions.dim() == 2:
        positions = positions[:, None]  # (B, 1, T): the same for all heads
    angles = positions[..., None].float() * frequencies(cfg, positions.device)  # (..., T, D/2)
    cos, sin = angles.cos(), angles.sin()
    if cfg.rope_freq is not None and cfg.rope_freq.kind == "yarn":
        scale = cfg.rope_freq.attention_factor or yarn_attention_factor(cfg.rope_freq.factor)
        cos, sin = cos * scale, sin * scale
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def apply_rope(x: Tensor, rope: Rope) -> Tensor:
    """Turn queries or keys by the angles of their positions: (B, H, T, D) -> (B, H, T, D).

    The computation is in float32, whatever the type of x.
    """
    cos, sin = rope
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)
