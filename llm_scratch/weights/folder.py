"""This library's own form of a saved model: one folder, with everything that belongs to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.conversations.encoding import Format
from llm_scratch.conversations.saved_formats import KEY as FORMAT_KEY
from llm_scratch.conversations.saved_formats import describe_format, described_format
from llm_scratch.model.families import family_of, language_model, parameter_shapes
from llm_scratch.model.heads import head_of
from llm_scratch.model.interface import LanguageModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.safetensors import NAMES, write_safetensors
from llm_scratch.tokenizers.any_tokenizer import vocab_size_of
from llm_scratch.weights.building import build_model
from llm_scratch.weights.folder_metadata import METADATA_KEY, is_ours, write_metadata
from llm_scratch.weights.parts import compare
from llm_scratch.weights.source import open_source
from llm_scratch.weights.tokenizer_files import load_tokenizer, save_tokenizer

WEIGHTS_FILE = "model.safetensors"


def save_model(
    model: nn.Module,
    folder: str | os.PathLike[str],
    tokenizer: Any | None = None,
    *,
    chat_format: Format | None = None,
) -> Path:
    """The folder that now holds the model, and the tokenizer if one is given.

    `model.safetensors` carries the configuration, the kind of head and a checksum of every tensor
    in its header; a shared tensor is written once. It takes the place of an older one only when
    it is complete.

    Args:
        model: a language model, also with a head for classes or compiled.
        folder: is made when missing.
        tokenizer: this library's or GPT-2's.
        chat_format: the format of its conversations, which `open_model` gives back.

    Raises:
        ValueError: if the model has parameters that its family does not have (LoRA: merge them
            first), or fewer ids than the tokenizer.
        TypeError: if it is no model of this library, or the tokenizer can't be saved.
    """
    return write_model(model, Path(folder), tokenizer, chat_format)


def write_model(
    model: nn.Module,
    folder: Path,
    tokenizer: Any | None = None,
    chat_format: Format | None = None,
    seen: Callable[[memoryview], object] | None = None,
) -> Path:
    """Save a model as `save_model` does; `seen` is called with the bytes of the file of weights."""
    inner = language_model(model)
    tensors, head = tensors_of(inner), head_of(inner)
    if tokenizer is not None:
        check_vocabulary(inner, tokenizer)
    config = replace(inner.cfg, tie_weights="out_head.weight" not in tensors)
    metadata: dict[str, Any] = {"model": family_of(config).model, "config": asdict(config)}
    metadata["head"] = head.as_dict()
    metadata["n_out"] = head.size if head.kind == "classes" else None  # for older versions
    metadata[FORMAT_KEY] = describe_format(chat_format)
    metadata["tokenizer"] = None if tokenizer is None else save_tokenizer(tokenizer, folder)
    write_safetensors(folder / WEIGHTS_FILE, tensors, write_metadata(metadata, tensors), seen)
    return folder


def load_model(
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Any, Any | None]:
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


def saved_format(folder: str | os.PathLike[str], file: str = WEIGHTS_FILE) -> Any:
    """Return the format of conversations that was saved with a model, None without one.

    Args:
        folder: what was given to `save_model`.
        file: its name there.

    Raises:
        WeightsError: if the description is damaged, or from a later version of this library.
    """
    path = Path(folder) / file
    texts = read_tensors(path).metadata
    if not is_ours(texts):
        return None
    try:
        return described_format(json.loads(texts[METADATA_KEY]).get(FORMAT_KEY))
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise WeightsError(path, f"its format of conversations can't be read: {err}") from err


def is_saved_model(folder: Path) -> bool:
    """Return whether a folder holds what `save_model` wrote; reads a file's header, no more.

    Raises:
        WeightsError: if the header is damaged.
    """
    path = folder / WEIGHTS_FILE
    return path.is_file() and is_ours(read_tensors(path).metadata)


def tensors_of(model: LanguageModel) -> dict[str, Tensor]:
    """Return every tensor to save, a shared head left out.

    Raises:
        ValueError: if the model holds something else than its configuration and head say.
    """
    tensors = {name: parameter.detach() for name, parameter in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if complaint := compare(parameter_shapes(model.cfg, head_of(model)), shapes):
        raise ValueError(
            f"this model is not what its configuration says: {complaint}; LoRA matrices are "
            "merged into their layers before saving"
        )
    odd = {str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in NAMES}
    if odd:
        raise ValueError(f"parameters of type {', '.join(odd)} can't be saved")
    head, embedding = tensors["out_head.weight"], tensors["tok_emb.weight"]
    if head.data_ptr() == embedding.data_ptr() and head.shape == embedding.shape:
        del tensors["out_head.weight"]
    return tensors


def check_vocabulary(model: Any, tokenizer: Any) -> None:
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
