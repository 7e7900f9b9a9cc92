"""This library's own form of a saved model: one folder with all its parts."""

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
    """Save the model, and the tokenizer if one is given, and return the folder.

    The header of `model.safetensors` has the configuration, the kind of head and a checksum of
    every tensor; a shared tensor is written once. The file replaces an older one only when it is
    complete.

    Args:
        model: a language model, also with a head for classes or compiled.
        folder: the folder to write; it is created if missing.
        tokenizer: this library's or GPT-2's.
        chat_format: the model's chat format, which `open_model` returns.

    Raises:
        ValueError: if the model has parameters that its family does not have (merge LoRA first),
            or fewer ids than the tokenizer.
        TypeError: if it is not a model of this library, or the tokenizer cannot be saved.
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
    """Load the model, in evaluation mode, and the tokenizer that `save_model` wrote, or None.

    Args:
        folder: the folder that was given to `save_model`.
        device: the device of the parameters; None means the CPU.
        dtype: the type of the parameters; None keeps the saved one.

    Raises:
        FileNotFoundError: if there is no saved model.
        WeightsError: if a file is damaged; every tensor's checksum is verified.
    """
    folder = Path(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: no model was saved in {folder}")
    # Read, not mapped: training may continue with this model and save it in the same place.
    source = open_source(path, mapped=False)
    if not source.metadata:
        raise WeightsError(path, "was not written by save_model; load_gpt2 reads it")
    description = source.metadata.get("tokenizer")
    tokenizer = load_tokenizer(description, folder) if isinstance(description, dict) else None
    return build_model(source, device=device, dtype=dtype), tokenizer


def saved_format(folder: str | os.PathLike[str], file: str = WEIGHTS_FILE) -> Any:
    """Return the chat format that was saved with a model; None without one.

    Args:
        folder: the folder that was given to `save_model`.
        file: the name of the file in it.

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
    """Return whether `save_model` wrote a folder; only a file's header is read.

    Raises:
        WeightsError: if the header is damaged.
    """
    path = folder / WEIGHTS_FILE
    return path.is_file() and is_ours(read_tensors(path).metadata)


def tensors_of(model: LanguageModel) -> dict[str, Tensor]:
    """Return every tensor to save, without a head that is the embedding.

    Raises:
        ValueError: if the model's tensors do not match its configuration and head.
    """
    tensors = {name: parameter.detach() for name, parameter in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if complaint := compare(parameter_shapes(model.cfg, head_of(model)), shapes):
        raise ValueError(
            f"this model does not match its configuration: {complaint}; LoRA matrices must be "
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
    """Refuse a tokenizer with more ids than the model.

    Raises:
        ValueError: naming both sizes.
    """
    size = vocab_size_of(tokenizer)
    if size is not None and size > model.cfg.vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the model's vocab_size is {model.cfg.vocab_size}: "
            "they do not belong together"
        )
