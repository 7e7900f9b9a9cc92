"""Opening of a model's weights: a folder or a file in any layout."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from llm_scratch.model.config import GPT2_CONFIGS, ConfigError, GPTConfig
from llm_scratch.model.families import FAMILIES, family_name
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.gguf_header import is_gguf
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.stored import Stored, TensorFile
from llm_scratch.tensor_files.tensor_bundle import TensorBundle
from llm_scratch.weights import llama_names
from llm_scratch.weights.book_names import from_book
from llm_scratch.weights.folder_metadata import read_metadata, saved_config
from llm_scratch.weights.gguf_names import open_gguf
from llm_scratch.weights.gpt2_names import (
    CLASSES,
    from_hugging_face,
    is_linear,
    layout_of,
    openai_as_hugging_face,
    outer_prefix,
    strip_prefixes,
)
from llm_scratch.weights.huggingface_files import (
    find_weights,
    missing_index,
    read_config,
    read_sharded,
)
from llm_scratch.weights.llama_names import is_llama
from llm_scratch.weights.nanogpt import read_model_args, with_zero_biases
from llm_scratch.weights.parts import BOOK, GGUF, GPT2, HUGGING_FACE, LLAMA, NANOGPT, OPENAI, Source

N_HEADS = {(cfg.emb_dim, cfg.n_layers): cfg.n_heads for cfg in GPT2_CONFIGS.values()}


def open_source(
    source: str | os.PathLike[str],
    lora_alpha: float | None = None,
    *,
    mapped: bool = True,
    ignore_keys: Collection[str] = (),
) -> Source:
    """Open the parameters in a folder or a file, with the known sizes of the model.

    Args:
        source: the folder or file.
        lora_alpha: the alpha for LoRA matrices in a state dict.
        mapped: whether tensors of a safetensors file stay in it instead of being read.
        ignore_keys: settings in files of other programs to ignore.

    Raises:
        FileNotFoundError: if there are no weights.
        WeightsError: if a file is damaged or in no known layout.
    """
    path = Path(source)
    weights = find_weights(path) or path
    if weights.is_dir() and (index := missing_index(path)):
        raise FileNotFoundError(
            f"{index} is missing, which says which of the files beside it holds each tensor; get "
            "it from where they are from"
        )
    if weights.is_dir() and not any(path.glob("*.index")):
        raise FileNotFoundError(_nothing_in(path))
    if (
        weights.is_dir()
        or path.suffix == ".index"
        or path.with_name(f"{path.name}.index").is_file()
    ):
        return _open_bundle(path, ignore_keys)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a folder or a file of weights")
    opened = _open_file(weights, lora_alpha, mapped, ignore_keys)
    config = weights.with_name("config.json")
    # A single file in the book's layout need not belong to the configuration next to it, and a
    # training run's configuration states more than the model, which its own weights describe.
    belongs = (path.is_dir() or opened.layout != BOOK) and not opened.metadata
    if config.is_file() and belongs and opened.layout != GGUF:
        opened.known = {**read_config(config, opened.family, ignore_keys), **opened.known}
        if not opened.classes:  # every configuration of transformers has these names
            opened.known.pop("class_names", None)
    return opened


def _nothing_in(folder: Path) -> str:
    """Return a message that a folder holds no model, with advice for a run without one yet."""
    checkpoints = sorted(folder.glob("checkpoints/step-*"))
    if checkpoints:
        return (
            f"{folder} is a run that has no best model yet; its newest checkpoint is "
            f"{checkpoints[-1]}; continue the run with --resume"
        )
    return (
        f"{folder} holds no model: neither model.safetensors nor pytorch_model.bin, nor OpenAI's "
        "files, nor an adapter"
    )


def config_of(source: Source, config: Any | None = None) -> Any:
    """Return the configuration of the model in a source: given, stated, or derived from shapes.

    Raises:
        WeightsError: if these contradict each other, or the number of heads is unknown.
    """
    if config is not None and family_name(config) != source.family:
        hint = f"holds a model of the family {source.family}, the config is of another one"
        raise WeightsError(source.path, hint)
    sizes = _sizes_seen(source)
    stated = {"file": source.known, "config": dict(config) if config else {}}
    for origin, options in stated.items():
        for name, value in sizes.items():
            if name in options and options[name] != value:
                hint = f"its tensors say {name}={value}, the {origin} says {options[name]}"
                raise WeightsError(source.path, hint)
    n_heads = source.known.get("n_heads")
    if config is not None:
        if n_heads not in (None, config.n_heads):
            hint = f"the file says {n_heads=}, the config says {config.n_heads}"
            raise WeightsError(source.path, hint)
        return config
    if source.metadata:
        return saved_config(source.metadata)
    if source.family != GPT2:
        return _stated_config(source)
    n_heads = n_heads or _heads_of_gpt2(source, sizes)
    qkv_bias = source.known.get("qkv_bias", "trf_blocks.0.att.W_query.bias" in source.parts)
    try:
        return GPTConfig(**sizes, n_heads=n_heads, qkv_bias=qkv_bias)
    except ConfigError as err:
        raise WeightsError(source.path, str(err)) from err


def _stated_config(source: Source) -> Any:
    """Return the configuration that the files of a model state, if it is not a GPT-2."""
    family = FAMILIES[source.family]
    options = {k: v for k, v in source.known.items() if k != "class_names"}
    if not {"n_heads", "context_length"} <= options.keys():
        raise WeightsError(
            source.path,
            "has no config.json beside it, and tensors do not say how a model of the family "
            f"{source.family} computes; give config={family.config.__name__}(...)",
        )
    try:
        return family.config(**options)
    except ConfigError as err:
        raise WeightsError(source.path, str(err)) from err


def _heads_of_gpt2(source: Source, sizes: Mapping[str, Any]) -> int:
    """Return the number of heads of the GPT-2 of this width and depth; warn that it is a guess.

    The released files, which are fetched without their configuration, are recognised by their names
    and by all of their sizes.
    """
    shape = (sizes["emb_dim"], sizes["n_layers"])
    if (n_heads := N_HEADS.get(shape)) is None:
        raise WeightsError(
            source.path,
            "nothing says how many attention heads it has; give n_heads= or config=, or convert it "
            "first: llm-scratch weights convert MODEL FOLDER --n-heads N",
        )
    if source.layout != BOOK and (sizes["vocab_size"], sizes["context_length"]) == (50257, 1024):
        return n_heads
    warnings.warn(
        f"nothing beside {source.path} says how many attention heads it has; {n_heads} are "
        "assumed, as in GPT-2 of its width and depth (state it with config= or n_heads=)",
        stacklevel=4,
    )
    return n_heads


def _sizes_seen(source: Source) -> dict[str, Any]:
    """Return the sizes shown by the shapes of the embeddings and the numbers of the blocks."""
    shapes = []
    tables = ("tok_emb.weight", "pos_emb.weight") if source.family == GPT2 else ("tok_emb.weight",)
    for name in tables:
        part = source.parts.get(name)
        if part is None or len(part.shape) != 2 or 0 in part.shape:
            seen = "missing" if part is None else f"of shape {part.shape}"
            raise WeightsError(source.path, f"{name} is {seen}; two dimensions are needed")
        shapes.append(part.shape)
    numbers = {name.split(".")[1] for name in source.parts if name.startswith("trf_blocks.")}
    if numbers != {str(number) for number in range(len(numbers))} or not numbers:
        some = ", ".join(sorted(numbers)[:6]) or "none"
        raise WeightsError(source.path, f"its blocks are not numbered from 0 on: {some}")
    sizes = dict(zip(("vocab_size", "emb_dim"), shapes[0], strict=True))
    if len(shapes) > 1:
        sizes["context_length"] = shapes[1][0]
    return {**sizes, "n_layers": len(numbers)}


def _open_file(
    path: Path, lora_alpha: float | None, mapped: bool, ignore_keys: Collection[str]
) -> Source:
    with open(path, "rb") as start:
        if is_gguf(start.read(4)):
            return open_gguf(path, ignore_keys)
    sharded = path.suffix == ".json"
    file = TensorFile(read_sharded(path), {}) if sharded else read_tensors(path, mapped)
    metadata = read_metadata(path, file)
    opened = _sorted_into_parts(path, file.tensors, lora_alpha)
    opened.known, opened.metadata = dict(metadata.get("config", {})), metadata
    if metadata:
        opened.family = family_name(saved_config(metadata))
    if file.settings is not None and opened.layout == NANOGPT:
        opened.known = read_model_args(path, file.settings, ignore_keys)
    return opened


def _open_bundle(path: Path, ignore_keys: Collection[str]) -> Source:
    bundle = TensorBundle(path)
    bundle.verify()
    opened = _sorted_into_parts(bundle.path, stored_of_bundle(bundle), None)
    hparams = bundle.path.parent / "hparams.json"
    if hparams.is_file():
        opened.known = read_config(hparams, GPT2, ignore_keys)
    return opened


def stored_of_bundle(bundle: TensorBundle) -> dict[str, Stored]:
    """Return a TensorFlow checkpoint's tensors by name; GPT-2's leading 1 is dropped."""
    found = {}
    for name in bundle.names():
        entry, array = bundle.entry(name), bundle.read(name)
        if entry.dtype in ("uint16", "uint32", "uint64"):
            continue  # counters, never weights
        tensor = torch.from_numpy(array if array.flags.aligned else array.copy())
        if entry.dtype == "bfloat16":
            tensor = tensor.view(torch.bfloat16)
        if len(entry.shape) == 3 and entry.shape[0] == 1 and name.endswith("/w"):
            tensor = tensor[0]
        offset = entry.offset if entry.size else None
        found[name] = Stored(tensor, bundle.shard_path(entry.shard), offset)
    return found


def _sorted_into_parts(path: Path, tensors: dict[str, Stored], lora_alpha: float | None) -> Source:
    tensors = _without_prefixes(path, tensors)
    family = LLAMA if is_llama(tensors) else GPT2
    if family == LLAMA and any("embed_tokens" in name for name in tensors):
        parts, surplus = llama_names.from_hugging_face(tensors)
        classes = llama_names.CLASSES in tensors
        return Source(path, HUGGING_FACE, parts, surplus, classes=classes, family=LLAMA)
    layout = layout_of(tensors)
    if layout is None:
        some = ", ".join(sorted(tensors)[:4]) or "no tensors"
        raise WeightsError(path, f"these are not names of a known model's weights: {some[:200]}")
    if layout == OPENAI:
        tensors = {openai_as_hugging_face(name): stored for name, stored in tensors.items()}
    if layout == BOOK:
        return Source(path, layout, from_book(tensors, path, lora_alpha), family=family)
    linear = layout == HUGGING_FACE and is_linear(tensors)
    parts, surplus = from_hugging_face(tensors, linear=linear)
    if linear:
        return Source(path, NANOGPT, with_zero_biases(parts), surplus)
    return Source(path, layout, parts, surplus, classes=CLASSES in tensors)


def _without_prefixes(path: Path, tensors: dict[str, Stored]) -> dict[str, Stored]:
    outer = outer_prefix(tensors)
    stripped = {strip_prefixes(n.removeprefix(outer)): stored for n, stored in tensors.items()}
    if len(stripped) != len(tensors):
        twice = sorted(name for name in tensors if name not in stripped)[:4]
        raise WeightsError(path, f"some tensors occur twice, with a prefix: {', '.join(twice)}")
    return stripped
