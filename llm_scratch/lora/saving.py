"""Saving of LoRA matrices to a folder, in the form that PEFT writes and reads.

`adapter_config.json` has ranks, alphas and names. `adapter_model.safetensors` has the matrices and,
in its header, a description that identifies the base they were trained on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llm_scratch.conversations.encoding import Format
from llm_scratch.conversations.saved_formats import KEY as FORMAT_KEY
from llm_scratch.conversations.saved_formats import describe_format
from llm_scratch.files import write_json
from llm_scratch.lora.base import (
    base_tensors,
    describe_base,
    fingerprint_of,
    tensors_beside,
)
from llm_scratch.lora.layers import LinearWithLoRA, lora_layers
from llm_scratch.model.families import family_of, language_model
from llm_scratch.model.heads import head_of
from llm_scratch.tensor_files.safetensors import write_safetensors
from llm_scratch.weights.folder import check_vocabulary
from llm_scratch.weights.folder_metadata import ADAPTER, write_metadata
from llm_scratch.weights.hub_names import is_hub_name, parse_hub_name
from llm_scratch.weights.huggingface_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from llm_scratch.weights.llama_config_json import ARCHITECTURES, model_type_of
from llm_scratch.weights.llama_names import their_name
from llm_scratch.weights.tokenizer_files import save_tokenizer

CONFIG_FILE = ADAPTER_CONFIG
WEIGHTS_FILE = ADAPTER_WEIGHTS[0]
PREFIX = "base_model.model."
TASKS = {"tokens": "CAUSAL_LM", "classes": "SEQ_CLS"}


def save_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    tokenizer: Any | None = None,
    *,
    base: str | os.PathLike[str] | None = None,
    chat_format: Format | None = None,
) -> Path:
    """Save a model's LoRA matrices, without the model itself, and return the folder.

    Other trained parts are saved too, and a head that is not the base's own. PEFT loads the folder
    onto the same `GPTModel`, or onto transformers' model for a `LlamaModel`.
    `train(..., save_best=save_adapter)` keeps the best matrices.

    Args:
        model: a language model with LoRA.
        folder: the folder to write; it is created if missing.
        tokenizer: this library's or GPT-2's, to be saved with them.
        base: where the base was loaded from, for loading the adapter later.
        chat_format: the format of its conversations, which `open_model` returns.

    Raises:
        ValueError: if the model has no LoRA, or layers under LoRA are also trained.
        TypeError: if it is not a model of this library, or the tokenizer cannot be saved.
    """
    inner: Any = language_model(model)
    layers = lora_layers(inner)
    if not layers:
        raise ValueError("the model has no LoRA to save; use save_model for the whole model")
    beside = tensors_beside(inner)
    if tokenizer is not None:
        check_vocabulary(inner, tokenizer)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = describe_base(inner, beside)
    mark = fingerprint_of(description)
    metadata: dict[str, Any] = {
        "model": ADAPTER,
        "base_model": family_of(inner.cfg).model,
        "config": asdict(inner.cfg),
        "head": head_of(inner).as_dict(),
        "base": description,
        FORMAT_KEY: describe_format(chat_format),
    }
    metadata["tokenizer"] = None if tokenizer is None else save_tokenizer(tokenizer, folder)
    shown = partial(_peft_name, inner)
    tensors = {n: p.detach() for n, p in _adapter_tensors(inner, layers, beside, shown).items()}
    modules = {name.rpartition(".")[0] for name in beside} - layers.keys()
    settings = {shown(name): layer for name, layer in layers.items()}
    config = _peft_config(settings, sorted(map(shown, modules)), mark, inner, base)
    write_json(folder / CONFIG_FILE, config, indent=2)
    write_safetensors(folder / WEIGHTS_FILE, tensors, write_metadata(metadata, tensors))
    return folder


def _adapter_tensors(
    model: nn.Module,
    layers: dict[str, LinearWithLoRA],
    beside: list[str],
    shown: Callable[[str], str],
) -> dict[str, Tensor]:
    """Return the tensors of an adapter by PEFT's names, in its layout: (rank, in), (out, rank)."""
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{shown(name)}.lora_A.weight"] = layer.lora.A.T.contiguous()
        tensors[f"{PREFIX}{shown(name)}.lora_B.weight"] = layer.lora.B.T.contiguous()
    whole = base_tensors(model)
    for name in beside:
        module, _, kind = name.rpartition(".")
        under = ".base_layer" if module in layers else ""
        kind = "weight" if kind == "scale" and shown(module) != module else kind
        tensors[f"{PREFIX}{shown(module)}{under}.{kind}"] = whole[name]
    return tensors


def _peft_name(model: Any, module: str) -> str:
    """Return the name of a part of a model in the model for which PEFT opens the adapter."""
    if family_of(model.cfg).model != "LlamaModel":
        return module
    kind = "scale" if "norm" in module.rpartition(".")[2] else "weight"
    theirs = their_name(f"{module}.{kind}", classes=head_of(model).kind == "classes")
    return theirs.rpartition(".")[0]


def _peft_config(
    layers: dict[str, LinearWithLoRA],
    modules: list[str],
    mark: str,
    model: Any,
    base: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Return the content of `adapter_config.json`; missing keys have PEFT's defaults."""
    ranks = {name: layer.lora.rank for name, layer in layers.items()}
    alphas = {name: layer.lora.alpha for name, layer in layers.items()}
    (rank, _), (alpha, _) = (Counter(v.values()).most_common(1)[0] for v in (ranks, alphas))
    theirs, words = family_of(model.cfg).model == "LlamaModel", _base_words(base)
    library, name = type(model).__module__, type(model).__name__
    if theirs:
        family = model_type_of(model.cfg)
        library, name = f"transformers.models.{family}.modeling_{family}", ARCHITECTURES[family]
    return {
        "peft_type": "LORA",
        "task_type": TASKS[head_of(model).kind] if theirs else None,
        "inference_mode": True,
        **words,
        # PEFT's own notes on the base, to which ours are added.
        "auto_mapping": {
            "base_model_class": name,
            "parent_library": library,
            "base_fingerprint": mark,
            "base_on_hub": "revision" in words,
        },
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": list(layers),
        "modules_to_save": modules or None,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
    }


def _base_words(base: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return PEFT's keys for a base: a path, or ORG/NAME and the revision on the hub."""
    if isinstance(base, str) and is_hub_name(base) and (name := parse_hub_name(base)).file is None:
        return {"base_model_name_or_path": name.repository, "revision": name.revision}
    return {"base_model_name_or_path": None if base is None else os.fspath(base)}
