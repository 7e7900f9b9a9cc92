"""GGUF files of GPT-2, Llama and Qwen: the mapping of their tensors and keys.

In the architecture `llama`, the dimensions of queries and keys are in pairs and are reordered to
rotate-half. Matrices are (out, in) in every architecture, also in GPT-2's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_scratch.checks import is_number
from llm_scratch.foreign import NOTHING, OFF, USED, Rule, check_settings
from llm_scratch.model.config import ConfigError
from llm_scratch.model.llama_config import LlamaConfig, RopeScaling
from llm_scratch.model.rope import frequencies, yarn_attention_factor
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.gguf import read_gguf
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.gpt2_names import NORM_NAMES, QKV
from llm_scratch.weights.parts import GGUF, GPT2, LLAMA, Part, Source

ARCHITECTURES = {"gpt2": GPT2, "llama": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA}
"""llama.cpp's names for the supported architectures, and their families."""

TOP = {"token_embd": "tok_emb", "position_embd": "pos_emb", "output": "out_head",
       "output_norm": "final_norm"}  # fmt: skip
LAYERS = {
    "attn_q": "att.W_query",
    "attn_k": "att.W_key",
    "attn_v": "att.W_value",
    "attn_output": "att.out_proj",
    "attn_norm": "norm1",
    "ffn_norm": "norm2",
}
OWN_LAYERS = {
    GPT2: {"ffn_up": "ff.layers.0", "ffn_down": "ff.layers.2"},
    LLAMA: {"ffn_gate": "ff.fc1", "ffn_up": "ff.fc2", "ffn_down": "ff.fc3",
            "attn_q_norm": "att.q_norm", "attn_k_norm": "att.k_norm"},
}  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3.1's divisors of its frequencies
# The RoPE scaling of every released Llama from 3.1 on, except for the factor itself.
LLAMA3_ROPE: dict[str, Any] = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_context_length": 8192,
}

# Settings that this library stores in addition to the factors themselves.
LLAMA3_KEYS = {
    f"rope.scaling.llama3.{name}": name
    for name in ("factor", "low_freq_factor", "high_freq_factor", "original_context_length")
}
ATTENTION_FACTOR = "rope.scaling.attn_factor"  # multiplies YaRN's own factor
QKV_BIAS = "attention.qkv_bias"  # of this library: whether GPT-2's biases, always there, are used

SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "context_length",
    "embedding_length": "emb_dim",
    "block_count": "n_layers",
    "attention.head_count": "n_heads",
    "feed_forward_length": "hidden_dim",
    "attention.head_count_kv": "n_kv_groups",
    "attention.key_length": "head_dim",
}
# The treatment of each key; the architecture is its prefix: "llama.block_count".
RULES: dict[str, Rule] = {
    **dict.fromkeys((*SIZES, "attention.value_length", "rope.dimension_count"), USED),
    **dict.fromkeys(("rope.freq_base", "attention.layer_norm_rms_epsilon"), USED),
    **dict.fromkeys(("rope.scaling.type", "rope.scaling.factor"), USED),
    **dict.fromkeys(("rope.scaling.original_context_length", "attention.sliding_window"), USED),
    "attention.layer_norm_epsilon": (1e-5, float(np.float32(1e-5))),  # which is not the same number
    "attention.causal": (True,),
    **dict.fromkeys((*LLAMA3_KEYS, ATTENTION_FACTOR, QKV_BIAS), USED),
    "rope.scaling.finetuned": NOTHING,
    "tensor_data_layout": NOTHING,
    **dict.fromkeys(("expert_count", "expert_used_count", "use_parallel_residual"), OFF),
}


def open_gguf(path: Path, ignore_keys: Collection[str] = ()) -> Source:
    """Open a GGUF file: its parameters, the options of its model, and all of its keys.

    Raises:
        WeightsError: if it is damaged, or has an unsupported architecture or settings.
    """
    file = read_gguf(path)
    name = file.keys.get("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise WeightsError(path, f"is of the architecture {str(name)[:60]!r}; {known} are read")
    family = ARCHITECTURES[name]
    settings = {
        key.removeprefix(f"{name}."): value
        for key, value in file.keys.items()
        if key.startswith(f"{name}.")
    }
    settings = check_settings(
        path, settings, RULES, ignore_keys=ignore_keys, error=WeightsError, where=name
    )
    tensors = dict(file.tensors)
    factors = tensors.pop(ROPE_FACTORS, None)
    known_sizes = _sizes(path, settings, name, tensors)
    if family == LLAMA:
        try:
            known_sizes |= _llama_options(path, settings, name, tensors, factors, known_sizes)
        except ConfigError as err:
            raise WeightsError(path, str(err)) from err
    else:
        known_sizes = {k: v for k, v in known_sizes.items() if k != "hidden_dim"}
        known_sizes.pop("n_kv_groups", None)
        if settings.get(QKV_BIAS) is False:  # zeros that llama.cpp needs
            known_sizes["qkv_bias"] = False
    parts, surplus = _parts(tensors, family, known_sizes, paired=name == "llama")
    return Source(path, GGUF, parts, surplus, known_sizes, family=family, gguf_keys=file.keys)


def _sizes(
    path: Path, settings: Mapping[str, Any], name: str, tensors: Mapping[str, Stored]
) -> dict[str, Any]:
    found = {ours: settings[theirs] for theirs, ours in SIZES.items() if theirs in settings}
    if (embedding := tensors.get("token_embd.weight")) is not None and len(embedding.shape) == 2:
        found["vocab_size"] = embedding.shape[0]
    needed = {"context_length", "emb_dim", "n_layers", "n_heads"}
    wrong = [n for n in found.keys() | needed if type(v := found.get(n)) is not int or v < 1]
    if wrong:
        keys = [f"{name}.{theirs}" for theirs, ours in SIZES.items() if ours in wrong]
        raise WeightsError(path, f"has no positive number as {', '.join(sorted(keys))}")
    return found


def _llama_options(
    path: Path,
    settings: Mapping[str, Any],
    name: str,
    tensors: Mapping[str, Stored],
    factors: Stored | None,
    sizes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the other options of a model of Llama's family."""
    D = sizes.get("head_dim", sizes["emb_dim"] // sizes["n_heads"])
    for key in ("rope.dimension_count", "attention.value_length"):
        if settings.get(key, D) != D:
            raise WeightsError(path, f"{name}.{key} is {settings[key]}; the heads have {D}")
    eps, base = (settings.get(k) for k in ("attention.layer_norm_rms_epsilon", "rope.freq_base"))
    base = 10_000.0 if base is None else base
    if not isinstance(eps, float):
        raise WeightsError(path, f"has no {name}.attention.layer_norm_rms_epsilon")
    options = {
        "rope_base": base,
        "norm_eps": float(f"{eps:.6g}"),  # 1e-5 is not a 32-bit number
        "qkv_bias": "blk.0.attn_q.bias" in tensors,
        "qk_norm": "blk.0.attn_q_norm.weight" in tensors,
        "tie_weights": "output.weight" not in tensors,
    }
    if window := settings.get("attention.sliding_window"):
        options["sliding_window"] = window
    cfg = LlamaConfig(**{"hidden_dim": 1, **sizes, **options, "vocab_size": 1})
    options["rope_freq"] = _scaling(path, settings, name, factors, cfg)
    return options


def _scaling(
    path: Path, settings: Mapping[str, Any], name: str, factors: Stored | None, cfg: LlamaConfig
) -> RopeScaling | None:
    """Return RoPE's scaling, from the keys or from Llama 3.1's factors."""
    kind = settings.get("rope.scaling.type", "none")
    times = settings.get(ATTENTION_FACTOR, 1.0)
    if not is_number(times) or (kind != "yarn" and times != 1.0):
        hint = f"is {str(times)[:40]!r}; only YaRN has another number than 1"
        raise WeightsError(path, f"{name}.{ATTENTION_FACTOR} {hint}")
    if kind in ("linear", "yarn") and factors is None:
        scaling = RopeScaling(
            kind=kind,
            factor=settings.get("rope.scaling.factor"),  # type: ignore[arg-type]
            original_context_length=settings.get("rope.scaling.original_context_length"),
        )
        if times == 1.0:
            return scaling
        own = float(f"{times * yarn_attention_factor(scaling.factor):.6g}")
        return replace(scaling, attention_factor=own)
    if kind != "none":
        raise WeightsError(path, f"{name}.rope.scaling.type={str(kind)[:40]!r} is not read here")
    if factors is None:
        return None
    there = factors.tensor.float()
    noted = {ours: settings[key] for key, ours in LLAMA3_KEYS.items() if key in settings}
    scaling = RopeScaling(**{"factor": float(there.max()), **LLAMA3_ROPE, **noted})
    if there.shape == (cfg.head_dim // 2,):
        turns = frequencies(cfg)
        stretched = LlamaConfig(**{**cfg, "rope_freq": scaling})
        if torch.allclose(turns / frequencies(stretched), there, rtol=1e-4):
            return scaling
    hint = "are not what its keys say" if noted else "are not those of Llama 3.1 and its successors"
    raise WeightsError(path, f"{ROPE_FACTORS} {hint}")


def _parts(
    tensors: Mapping[str, Stored], family: str, sizes: Mapping[str, Any], paired: bool
) -> tuple[dict[str, Part], list[str]]:
    """Return every parameter by this library's name, and the unknown names."""
    heads = {"W_query": sizes["n_heads"], "W_key": sizes.get("n_kv_groups", sizes["n_heads"])}
    parts: dict[str, Part] = {}
    surplus = []
    for name, stored in tensors.items():
        names = _our_names(name, family)
        layer = names[0].split(".")[-2] if names else ""
        if not names:
            surplus.append(name)
        elif len(names) > 1 and stored.shape and stored.shape[0] % 3 == 0:
            rows = stored.tensor.chunk(3)  # (3C, C) -> three of (C, C)
            parts |= {n: Part(Stored(r, stored.path)) for n, r in zip(names, rows, strict=True)}
        else:
            parts[names[0]] = Part(stored, pairs_of=heads.get(layer, 0) if paired else 0)
    return parts, surplus


def _our_names(name: str, family: str) -> tuple[str, ...]:
    """Return this library's names for the parameters in one tensor; empty if it is unknown."""
    match = re.fullmatch(r"(?:blk\.(0|[1-9]\d*)\.)?(\w+)\.(weight|bias)", name)
    if match is None:
        return ()
    block, layer, kind = match.groups()
    prefix = "" if block is None else f"trf_blocks.{block}."
    if block is not None and family == GPT2 and layer == "attn_qkv":
        return tuple(f"{prefix}att.{one}.{kind}" for one in QKV)
    ours = (TOP if block is None else LAYERS | OWN_LAYERS[family]).get(layer)
    if ours is None:
        return ()
    return (f"{prefix}{ours}.{NORM_NAMES[kind] if 'norm' in ours else kind}",)


def their_name(name: str, family: str) -> str:
    """Return a parameter's name in the file; parameters that GPT-2 joins have none."""
    path, _, kind = name.rpartition(".")
    kind = {ours: theirs for theirs, ours in NORM_NAMES.items()}.get(kind, kind)
    match = re.fullmatch(r"trf_blocks\.(\d+)\.(.+)", path)
    names = TOP if match is None else LAYERS | OWN_LAYERS[family]
    back = {ours: theirs for theirs, ours in names.items()}
    return f"{back[path]}.{kind}" if match is None else f"blk.{match[1]}.{back[match[2]]}.{kind}"
