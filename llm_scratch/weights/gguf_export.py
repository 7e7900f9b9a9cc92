"""Export of a model to one file that llama.cpp, and programs built on it, can open."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_scratch.model.families import family_name
from llm_scratch.model.llama_config import LlamaConfig, RopeScaling
from llm_scratch.model.rope import frequencies, yarn_attention_factor
from llm_scratch.tensor_files.gguf_writing import Q8_BLOCK, Outgoing, write_gguf
from llm_scratch.tokenizers.wrapped import WrappedTokenizer
from llm_scratch.weights.export import as_exportable, exportable
from llm_scratch.weights.folder import check_vocabulary
from llm_scratch.weights.gguf_names import (
    ARCHITECTURES,
    ATTENTION_FACTOR,
    LLAMA3_KEYS,
    QKV_BIAS,
    ROPE_FACTORS,
    SIZES,
    their_name,
)
from llm_scratch.weights.gpt2_names import QKV
from llm_scratch.weights.parts import GPT2, LLAMA

# llama.cpp's names for files, by the type of most of their numbers.
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
QUANTIZATION_VERSION = 2

_ELSEWHERE = "export_huggingface writes the model"


def export_gguf(
    model: nn.Module,
    path: str | os.PathLike[str],
    tokenizer: Any,
    *,
    tensor_type: str = "f16",
    chat_template: str | None = None,
    name: str | None = None,
    license: str | None = None,
) -> Path:
    """Write a single file that llama.cpp, and programs built on it, can open.

    It holds the weights, all settings that affect their use, the tokenizer and the chat template.
    `open_model` reads it back: bit for bit from "f32", otherwise rounded to the type. It is written
    atomically, in the memory of one tensor. The package `gguf` is needed (extra `gguf`).

    Args:
        model: a GPT-2, a Llama or a Qwen 2 or 3, tied or not.
        path: the file; a missing folder is created.
        tokenizer: a `BytePairTokenizer`, or GPT-2's in any form; llama.cpp needs one.
        tensor_type: the type of the matrices: "f32", "f16", or "q8_0" (one byte per number and one
            scale per 32; matrices with rows that are not a multiple of 32 wide are then F16, with a
            warning). Vectors and GPT-2's positions are always F32.
        chat_template: Jinja text that makes a prompt from a conversation.
        name: the name of the model; by default the file's name.
        license: the licence of the model, such as "apache-2.0"; None states none.

    Raises:
        ValueError: if llama.cpp has no architecture that computes the same as the model, or no name
            for the tokenizer's splitting rule; or if the model has a head for classes or LoRA
            matrices, fewer ids than the tokenizer, or numbers that the type cannot hold.
        TypeError: if it is not a model of this library, or the tokenizer is of another kind.
        WeightsError: if the package is missing.
    """
    if tensor_type not in FILE_TYPES:
        raise ValueError(f"{tensor_type=} must be one of {', '.join(FILE_TYPES)}")
    path = Path(path)
    inner, tensors = exportable(model)
    architecture = architecture_of(inner.cfg)
    keys = {
        **_general_keys(path, tensor_type, name, license),
        **{f"{architecture}.{key}": value for key, value in _model_keys(inner.cfg).items()},
        **_tokenizer_keys(inner, tokenizer),
    }
    if chat_template is not None:
        keys["tokenizer.chat_template"] = chat_template
    wanted = tensor_type.upper()
    outgoing = list(_outgoing(inner.cfg, architecture, tensors, wanted))
    narrow = [each.name for each in outgoing if wanted == "Q8_0" and each.kind == "F16"]
    if narrow:
        warnings.warn(
            f"{len(narrow)} matrices have rows that are not a multiple of {Q8_BLOCK} wide and are "
            f"F16 instead of {wanted}: {', '.join(narrow[:4])}{' ...' * (len(narrow) > 4)}",
            stacklevel=2,
        )
    write_gguf(path, architecture, keys, outgoing)
    return path


def architecture_of(cfg: Any) -> str:
    """Return llama.cpp's name for the architecture of a configuration.

    Raises:
        ValueError: if it has none.
    """
    if (family := family_name(cfg)) == GPT2:
        return "gpt2"
    if family != LLAMA:
        raise ValueError(
            f"a model of the family {family} is not written to GGUF files; use save_model"
        )
    if cfg.num_experts:
        raise ValueError(f"experts are not written to GGUF files; {_ELSEWHERE}")
    if cfg.qkv_bias and cfg.qk_norm:
        raise ValueError("no architecture of llama.cpp has qkv_bias and qk_norm; save_model does")
    found = "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias else "llama"
    if found == "qwen2" and cfg.head_dim * cfg.n_heads != cfg.emb_dim:
        raise ValueError(
            f"the heads of llama.cpp's qwen2 are together as wide as the model, {cfg.emb_dim}; "
            f"here {cfg.n_heads} of {cfg.head_dim} make {cfg.n_heads * cfg.head_dim}; {_ELSEWHERE}"
        )
    windows = [cfg.window_of(layer) for layer in range(cfg.n_layers)]
    if narrow := [w for w in windows if w is not None and w < cfg.context_length]:
        raise ValueError(
            f"sliding_window={narrow[0]} is below context_length={cfg.context_length}, and in "
            f"llama.cpp's {found} every token looks back at all; with a context_length of "
            f"{narrow[0]} it makes no difference, and {_ELSEWHERE}"
        )
    if cfg.rope_freq is not None:
        _check_rope(cfg.rope_freq, found)
    return found


def _check_rope(scaling: RopeScaling, architecture: str) -> None:
    """Refuse a RoPE that an architecture of llama.cpp does not compute."""
    if scaling.kind == "llama3" and architecture != "llama":
        raise ValueError(f"llama.cpp's {architecture} has no RoPE of the kind llama3; {_ELSEWHERE}")
    usual = RopeScaling(factor=1.0, original_context_length=1)
    for beta in ("beta_fast", "beta_slow"):
        if scaling.kind == "yarn" and scaling[beta] != usual[beta]:
            raise ValueError(
                f"llama.cpp's {architecture} takes {usual[beta]:g} as YaRN's {beta}, which is "
                f"{scaling[beta]:g} here; {_ELSEWHERE}"
            )


def _general_keys(
    path: Path, tensor_type: str, name: str | None, license: str | None
) -> dict[str, Any]:
    keys: dict[str, Any] = {"general.type": "model"}
    called = path.stem if name is None else name
    # llama.cpp changes the effect of special tokens in a model with this name.
    if "phi3" not in called.lower() and "phi-3" not in called.lower():
        keys["general.name"] = called
    elif name is not None:
        raise ValueError(f"llama.cpp takes a model with {name=} for Phi-3; use another name")
    if license is not None:
        keys["general.license"] = license
    keys["general.file_type"] = FILE_TYPES[tensor_type]
    keys["general.quantization_version"] = QUANTIZATION_VERSION
    return keys


def _model_keys(cfg: Any) -> dict[str, Any]:
    """Return the keys of an architecture, without its name as their prefix."""
    options = asdict(cfg)
    if architecture_of(cfg) == "gpt2":
        options["hidden_dim"] = 4 * cfg.emb_dim
        keys = {key: options[ours] for key, ours in SIZES.items() if ours in options}
        keys["attention.layer_norm_epsilon"] = 1e-5
        return keys if cfg.qkv_bias else {**keys, QKV_BIAS: False}
    return {
        **{key: options[ours] for key, ours in SIZES.items()},
        "attention.value_length": cfg.head_dim,
        "attention.layer_norm_rms_epsilon": float(cfg.norm_eps),
        "rope.dimension_count": cfg.head_dim,
        "rope.freq_base": float(cfg.rope_base),
        **_rope_keys(cfg.rope_freq),
    }


def _rope_keys(scaling: RopeScaling | None) -> dict[str, Any]:
    """Return the keys for RoPE's scaling; llama3's factors are an additional tensor."""
    if scaling is None:
        return {}
    if scaling.kind == "llama3":
        noted = {key: scaling[ours] for key, ours in LLAMA3_KEYS.items()}
        exact = {key: np.float64(value) for key, value in noted.items()}
        return {"rope.scaling.type": "none", **exact}
    keys: dict[str, Any] = {
        "rope.scaling.type": scaling.kind,
        "rope.scaling.factor": float(scaling.factor),
    }
    if scaling.original_context_length is not None:
        keys["rope.scaling.original_context_length"] = scaling.original_context_length
    if scaling.kind == "yarn" and scaling.attention_factor is not None:
        usual = yarn_attention_factor(scaling.factor)
        keys[ATTENTION_FACTOR] = scaling.attention_factor / usual
    return keys


def _tokenizer_keys(inner: Any, tokenizer: Any) -> dict[str, Any]:
    if tokenizer is None:
        raise TypeError("llama.cpp opens no model without a tokenizer; give the model's own")
    if isinstance(tokenizer, WrappedTokenizer):
        raise TypeError(
            f"{tokenizer!r} is not a byte-level BPE, the only kind written to GGUF files here; "
            "use export_huggingface, and convert its folder with llama.cpp's convert_hf_to_gguf.py"
        )
    bpe: Any = as_exportable(tokenizer)
    check_vocabulary(inner, bpe)
    return bpe.to_gguf(inner.cfg.vocab_size)


def _outgoing(
    cfg: Any, architecture: str, tensors: Mapping[str, Tensor], wanted: str
) -> Iterator[Outgoing]:
    """Yield every tensor of the file, each to be computed only when it is written."""
    joined = ARCHITECTURES[architecture] == GPT2
    heads = {"W_query": cfg.n_heads, "W_key": cfg.n_kv_heads}
    for name, tensor in tensors.items():
        layer = name.split(".")[-2]
        if joined and layer in QKV:
            if name.endswith(f"{QKV[0]}.weight"):
                yield from _joined(name.removesuffix(f"{QKV[0]}.weight"), tensors, wanted)
            continue
        theirs = their_name(name, ARCHITECTURES[architecture])
        make = partial(_as_it_is, tensor)
        if architecture == "llama" and layer in heads:
            make = partial(_in_pairs, tensor, heads[layer])
        shape = tuple(tensor.shape)
        yield Outgoing(theirs, shape, _kind(theirs, shape, wanted), make)
    if ARCHITECTURES[architecture] == LLAMA and (factors := _rope_factors(cfg)) is not None:
        yield Outgoing(ROPE_FACTORS, tuple(factors.shape), "F32", partial(_as_it_is, factors))


def _kind(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """Return the type of a tensor in the file."""
    if len(shape) == 1 or name.startswith("position_embd."):
        return "F32"
    return "F16" if wanted == "Q8_0" and shape[-1] % Q8_BLOCK else wanted


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _in_pairs(tensor: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of heads from halves to adjacent pairs: (H * D, C) -> (H * D, C)."""
    halves = tensor.reshape(n_heads, 2, -1, tensor.shape[-1])  # (H, 2, D/2, C)
    return halves.transpose(1, 2).reshape(tensor.shape)


def _joined(prefix: str, tensors: Mapping[str, Tensor], wanted: str) -> Iterator[Outgoing]:
    """Yield a block's query, key and value as one tensor each, with zeros for missing biases."""
    weights = [tensors[f"{prefix}{layer}.weight"] for layer in QKV]  # three of (C, C)
    none = weights[0].new_zeros(len(weights[0]))
    biases = [tensors.get(f"{prefix}{layer}.bias", none) for layer in QKV]
    name = f"blk.{prefix.split('.')[1]}.attn_qkv"
    for kind, parts in (("weight", weights), ("bias", biases)):
        shape = (len(QKV) * len(parts[0]), *parts[0].shape[1:])  # (3C, C) or (3C,)
        whole = partial(torch.cat, parts)
        yield Outgoing(f"{name}.{kind}", shape, _kind(name, shape, wanted), whole)


def _rope_factors(cfg: LlamaConfig) -> Tensor | None:
    """Return Llama 3.1's divisors of RoPE's frequencies, (D/2,); None for other kinds."""
    if cfg.rope_freq is None or cfg.rope_freq.kind != "llama3":
        return None
    plain = LlamaConfig(**{**cfg, "rope_freq": None})
    return frequencies(plain) / frequencies(cfg)
