"""Whatever holds a GPT's weights, opened: a folder or a file in any layout."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llm_scratch.files import read_json
from llm_scratch.model.config import ConfigError, GPTConfig
from llm_scratch.model.heads import Head
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.stored import Stored, TensorFile
from llm_scratch.tensor_files.tensor_bundle import TensorBundle
from llm_scratch.weights.book_names import from_book
from llm_scratch.weights.folder_metadata import (
    is_ours,
    read_metadata,
    saved_config,
    saved_head,
    verify_checksums,
)
from llm_scratch.weights.gpt2_names import (
    BOOK,
    OPENAI,
    Part,
    from_hugging_face,
    layout_of,
    openai_as_hugging_face,
    strip_prefixes,
)
from llm_scratch.weights.huggingface_files import find_weights, read_config, read_sharded

HPARAMS = {
    "n_vocab": "vocab_size",
    "n_ctx": "context_length",
    "n_embd": "emb_dim",
    "n_head": "n_heads",
    "n_layer": "n_layers",
}
N_HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # GPT-2's four widths


@dataclass
class Source:
    """A GPT's parameters, still in their files.

    Args:
        path: what was opened.
        layout: one of "book", "huggingface", "openai".
        parts: every parameter, by this library's names.
        surplus: names of tensors that are no parameter of a GPT.
        known: the options of the model that the files state.
        metadata: what else one of this library's own files says.
    """

    path: Path
    layout: str
    parts: dict[str, Part]
    surplus: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> Head | None:
        """The head where it is not a language model's: as stated, else told by its bias."""
        if self.metadata:
            return saved_head(self.metadata)
        bias = self.parts.get("out_head.bias")
        return (
            Head("classes", bias.shape[0], bias=True) if bias is not None and bias.shape else None
        )


def open_source(
    source: str | os.PathLike[str], lora_alpha: float | None = None, *, mapped: bool = True
) -> Source:
    """The parameters in a folder or a file, with what is known of the model's sizes.

    Args:
        source: the folder or file.
        lora_alpha: for LoRA matrices in a state dict.
        mapped: whether tensors of a safetensors file stay in it, or are read.

    Raises:
        FileNotFoundError: if there is nothing of the kind.
        WeightsError: if a file is damaged or in no known layout.
    """
    path = Path(source)
    if path.is_dir() and (weights := find_weights(path)) is not None:
        opened = _open_file(weights, lora_alpha, mapped)
        if (path / "config.json").is_file():
            opened.known = {**read_config(path / "config.json"), **opened.known}
        return opened
    if path.is_dir() and not any(path.glob("*.index")):
        raise FileNotFoundError(_nothing_in(path))
    if path.is_dir() or path.suffix == ".index" or path.with_name(f"{path.name}.index").is_file():
        return _open_bundle(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: a folder or a file of weights is needed")
    opened = _open_file(path, lora_alpha, mapped)
    if opened.layout != BOOK and (path.parent / "config.json").is_file():
        opened.known = {**read_config(path.parent / "config.json"), **opened.known}
    return opened


def _nothing_in(folder: Path) -> str:
    """Say that a folder holds no model, and what to do where a run has not written one yet."""
    checkpoints = sorted(folder.glob("checkpoints/step-*"))
    if checkpoints:
        return (
            f"{folder} is a run that has no best model yet; its newest checkpoint is "
            f"{checkpoints[-1]}, and --resume goes on with the run"
        )
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return (
        f"{folder} holds no model: neither model.safetensors nor pytorch_model.bin, nor OpenAI's "
        "files, nor an adapter"
    )


def config_of(source: Source, config: GPTConfig | None = None) -> GPTConfig:
    """The configuration of the model that a source holds: given, stated, or seen in the shapes.

    Raises:
        WeightsError: if these contradict one another, or the number of heads is nowhere.
    """
    sizes = _sizes_seen(source)
    stated = {"file": source.known, "config": dict(config) if config else {}}
    for origin, options in stated.items():
        for name, value in sizes.items():
            if name in options and options[name] != value:
                hint = f"its tensors say {name}={value}, the {origin} says {options[name]}"
                raise WeightsError(source.path, hint)
    heads = {o: options["n_heads"] for o, options in stated.items() if "n_heads" in options}
    if len(set(heads.values())) > 1:
        hint = f"the file says n_heads={heads['file']}, the config says {heads['config']}"
        raise WeightsError(source.path, hint)
    if config is not None:
        return config
    if source.metadata:
        return saved_config(source.metadata)
    n_heads = next(iter(heads.values()), N_HEADS.get(sizes["emb_dim"]))
    if n_heads is None:
        raise WeightsError(
            source.path, "nothing says how many attention heads it has; give config=GPTConfig(...)"
        )
    qkv_bias = source.known.get("qkv_bias", "trf_blocks.0.att.W_query.bias" in source.parts)
    try:
        return GPTConfig(**sizes, n_heads=n_heads, qkv_bias=qkv_bias)
    except ConfigError as err:
        raise WeightsError(source.path, str(err)) from err


def _sizes_seen(source: Source) -> dict[str, Any]:
    """The sizes that the shapes of the embeddings and the numbers of the blocks give."""
    shapes = []
    for name in ("tok_emb.weight", "pos_emb.weight"):
        part = source.parts.get(name)
        if part is None or len(part.shape) != 2 or 0 in part.shape:
            seen = "missing" if part is None else f"of shape {part.shape}"
            raise WeightsError(source.path, f"{name} is {seen}; a GPT-2 has one of two dimensions")
        shapes.append(part.shape)
    numbers = {name.split(".")[1] for name in source.parts if name.startswith("trf_blocks.")}
    if numbers != {str(number) for number in range(len(numbers))} or not numbers:
        some = ", ".join(sorted(numbers)[:6]) or "none"
        raise WeightsError(source.path, f"its blocks are not numbered from 0 on: {some}")
    (vocab_size, emb_dim), (context_length, _) = shapes
    return {
        "vocab_size": vocab_size,
        "context_length": context_length,
        "emb_dim": emb_dim,
        "n_layers": len(numbers),
    }


def _open_file(path: Path, lora_alpha: float | None, mapped: bool) -> Source:
    sharded = path.suffix == ".json"
    tensors, texts = TensorFile(read_sharded(path), {}) if sharded else read_tensors(path, mapped)
    metadata = read_metadata(path, texts) if is_ours(texts) else {}
    if metadata:
        verify_checksums(path, tensors, metadata)
    opened = _sorted_into_parts(path, tensors, lora_alpha)
    opened.known, opened.metadata = dict(metadata.get("config", {})), metadata
    return opened


def _open_bundle(path: Path) -> Source:
    bundle = TensorBundle(path)
    opened = _sorted_into_parts(bundle.path, stored_of_bundle(bundle), None)
    hparams = bundle.path.parent / "hparams.json"
    if hparams.is_file():
        values = read_json(hparams, error=WeightsError)
        opened.known = {
            ours: values[theirs] for theirs, ours in HPARAMS.items() if theirs in values
        }
    return opened


def stored_of_bundle(bundle: TensorBundle) -> dict[str, Stored]:
    """Every tensor of a TensorFlow checkpoint by its own name; GPT-2's leading 1 is dropped."""
    found = {}
    for name in bundle.names():
        entry, array = bundle.entry(name), bundle.read(name)
        if entry.dtype in ("uint16", "uint32", "uint64"):
            continue  # numbers that count something, never weights
        tensor = torch.from_numpy(array if array.flags.aligned else array.copy())
        if entry.dtype == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        if len(entry.shape) == 3 and entry.shape[0] == 1 and name.endswith("/w"):
            tensor = tensor[0]
        offset = entry.offset if entry.size else None
        found[name] = Stored(tensor, bundle.shard_path(entry.shard), offset)
    return found


def _sorted_into_parts(path: Path, tensors: dict[str, Stored], lora_alpha: float | None) -> Source:
    layout = layout_of(tensors)
    if layout is None:
        some = ", ".join(sorted(tensors)[:4]) or "no tensors"
        raise WeightsError(path, f"these are no names of a GPT-2's weights: {some[:200]}")
    if layout == OPENAI:
        tensors = {openai_as_hugging_face(name): stored for name, stored in tensors.items()}
    else:
        tensors = _without_prefixes(path, tensors)
    if layout == BOOK:
        return Source(path, layout, from_book(tensors, path, lora_alpha))
    parts, surplus = from_hugging_face(tensors)
    return Source(path, layout, parts, surplus)


def _without_prefixes(path: Path, tensors: dict[str, Stored]) -> dict[str, Stored]:
    stripped = {strip_prefixes(name): stored for name, stored in tensors.items()}
    if len(stripped) != len(tensors):
        twice = sorted(name for name in tensors if name not in stripped)[:4]
        raise WeightsError(path, f"some tensors are there twice, with a prefix: {', '.join(twice)}")
    return stripped
