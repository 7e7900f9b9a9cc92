"""nanoGPT's checkpoints: Hugging Face's names, matrices as (out, in), sizes in `model_args`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from llm_scratch.foreign import NOTHING, USED, Rule, check_settings
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.parts import Part

SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "context_length",
    "n_embd": "emb_dim",
    "n_layer": "n_layers",
    "n_head": "n_heads",
    "bias": "qkv_bias",
}
RULES: dict[str, Rule] = {**dict.fromkeys(SIZES, USED), "dropout": NOTHING}


def read_model_args(
    path: Path, settings: Mapping[str, Any], ignore_keys: Collection[str]
) -> dict[str, Any]:
    """Return the options of `GPTConfig` that nanoGPT's `model_args` state.

    Raises:
        WeightsError: if one is unknown, or of the wrong kind.
    """
    plain = {
        str(k): v if type(v) in (bool, int, float, str) else str(v) for k, v in settings.items()
    }
    values = check_settings(path, plain, RULES, ignore_keys=ignore_keys, error=WeightsError)
    found = {ours: values[theirs] for theirs, ours in SIZES.items() if theirs in values}
    if any(type(value) is not (bool if key == "qkv_bias" else int) for key, value in found.items()):
        raise WeightsError(path, f"its model_args are of the wrong kind: {str(found)[:200]}")
    warnings.warn(
        f"{path} is nanoGPT's, whose later versions compute GELU exactly, this model by GPT-2's "
        "formula with tanh: logits of those differ by some thousandths",
        stacklevel=5,
    )
    return found


def with_zero_biases(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return the parameters, with zeros for all biases if nanoGPT's `bias=False` left them out."""
    found = dict(parts)
    if any(name.endswith((".bias", ".shift")) for name in parts):
        return found
    for name, part in parts.items():
        layer, _, kind = name.rpartition(".")
        bias = f"{layer}.shift" if kind == "scale" else f"{layer}.bias"
        inside = kind == "scale" or "out_proj" in name or ".ff." in name
        if inside and part.shape:
            zeros = torch.zeros(part.shape[0], dtype=part.stored.dtype)
            found.setdefault(bias, Part(Stored(zeros, part.stored.path)))
    return found
