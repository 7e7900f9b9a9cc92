"""This library's own form of a saved model: one folder, with everything that belongs to it."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.safetensors import NAMES, write_safetensors
from llm_scratch.tokenizers.any_tokenizer import vocab_size_of
from llm_scratch.weights.folder_metadata import write_metadata
from llm_scratch.weights.gpt2 import build_model
from llm_scratch.weights.gpt2_names import compare, expected_shapes
from llm_scratch.weights.source import open_source
from llm_scratch.weights.tokenizer_files import load_tokenizer, save_tokenizer

WEIGHTS_FILE = "model.safetensors"


def save_model(
    model: nn.Module, folder: str | os.PathLike[str], tokenizer: Any | None = None
) -> Path:
    """The folder that now holds the model, and the tokenizer if one is given.

    `model.safetensors` carries the configuration, the kind of head and a checksum of every tensor
    in its header; a shared tensor is written once. It takes the place of an older one only when
    it is complete.

    Args:
        model: a `GPTModel`, also with a head for classes or compiled.
        folder: is made when missing.
        tokenizer: this library's or GPT-2's.

    Raises:
        ValueError: if the model has parameters that are no part of a `GPTModel` (LoRA: merge them
            first), or fewer ids than the tokenizer.
        TypeError: if it is no `GPTModel`, or the tokenizer can't be saved.
    """
    model = unwrapped(model)
    tensors, n_out = tensors_of(model)
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(model.cfg, tie_weights="out_head.weight" not in tensors)
    metadata: dict[str, Any] = {"model": "GPTModel", "config": asdict(config), "n_out": n_out}
    metadata["tokenizer"] = None if tokenizer is None else save_tokenizer(tokenizer, folder)
    write_safetensors(folder / WEIGHTS_FILE, tensors, write_metadata(metadata, tensors))
    return folder


def load_model(
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[GPTModel, Any | None]:
    """The model in evaluation mode and the tokenizer that `save_model` wrote, None without one.

    Args:
        folder: what was given to `save_model`.
        device: where the parameters go; None means the CPU.
        dtype: None keeps what was saved.

    Raises:
        FileNotFoundError: if there is no saved model.
        WeightsError: if a file is damaged; every tensor's checksum is compared.
    """
    folder = Path(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: no model was saved in {folder}")
    # Read, not mapped: training goes on with this model and may save it in the same place.
    source = open_source(path, mapped=False)
    if not source.metadata:
        raise WeightsError(path, "was not written by save_model; load_gpt2 reads it")
    description = source.metadata.get("tokenizer")
    tokenizer = load_tokenizer(description, folder) if isinstance(description, dict) else None
    return build_model(source, device=device, dtype=dtype), tokenizer


def tensors_of(model: GPTModel) -> tuple[dict[str, Tensor], int | None]:
    """Every tensor to save, a shared head left out, and the number of classes of another head.

    Raises:
        ValueError: if the model holds something else than a `GPTModel` does.
    """
    tensors = {name: parameter.detach() for name, parameter in model.state_dict().items()}
    head, embedding = tensors.get("out_head.weight"), tensors.get("tok_emb.weight")
    has_bias = "out_head.bias" in tensors
    n_out = tensors["out_head.bias"].shape[0] if has_bias else None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if complaint := compare(expected_shapes(model.cfg, n_out), shapes):
        raise ValueError(
            f"this model is not what its configuration says: {complaint}; LoRA matrices are "
            "merged into their layers before saving, a head for classes has a bias"
        )
    odd = {str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in NAMES}
    if odd:
        raise ValueError(f"parameters of type {', '.join(odd)} can't be saved")
    if head is not None and embedding is not None and not has_bias:
        if head.data_ptr() == embedding.data_ptr():
            del tensors["out_head.weight"]
    return tensors, n_out


def unwrapped(model: nn.Module) -> GPTModel:
    """The model itself, without what compiling or data parallel wraps around it.

    Raises:
        TypeError: if there is no `GPTModel` inside.
    """
    while not isinstance(model, GPTModel):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            raise TypeError(f"expected a GPTModel, got {type(model).__name__}")
        model = inner
    return model


def check_vocabulary(model: GPTModel, tokenizer: Any) -> None:
    """Refuse a tokenizer whose ids the model does not have.

    Raises:
        ValueError: naming both sizes.
    """
    size = vocab_size_of(tokenizer)
    if size is not None and size > model.cfg.vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the model's vocab_size is {model.cfg.vocab_size}: "
            "they do not belong together"
        )
