"""Loading of adapters onto their base: read, checked completely, and only then applied.

Shape letters: C emb_dim, N classes.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.lora.base import (
    base_linear,
    base_tensors,
    describe_base,
    difference,
    fingerprint_of,
)
from llm_scratch.lora.layers import freeze, lora_layers, wrap_linear
from llm_scratch.lora.peft_config import alpha_of, rank_of, read_peft_config
from llm_scratch.lora.saving import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from llm_scratch.model.families import language_model
from llm_scratch.model.initialization import SkipInitialization
from llm_scratch.model.linear import Linear
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.folder_metadata import (
    read_metadata,
    saved_head,
)
from llm_scratch.weights.hub_names import hub_name_of, is_hub_name
from llm_scratch.weights.names import layers_of, parts_of
from llm_scratch.weights.parts import Part
from llm_scratch.weights.tokenizer_files import load_tokenizer


@dataclass
class Adapter:
    """An adapter in a folder.

    Args:
        path: the file of the tensors.
        pairs: the matrices of each layer in PEFT's layout: (rank, in) and (out, rank).
        alphas: the alpha of each layer.
        beside: other tensors, by their names without LoRA.
        under: those of them that are under LoRA, and are not trained.
        mark: the fingerprint of the base; None if it is not stated.
        metadata: further data that this library wrote.
    """

    path: Path
    pairs: dict[str, tuple[Tensor, Tensor]]
    alphas: dict[str, float]
    beside: dict[str, Tensor] = field(default_factory=dict)
    under: set[str] = field(default_factory=set)
    mark: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def load_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    check_base: bool = True,
    ignore_keys: Collection[str] = (),
) -> Any | None:
    """Apply a saved adapter to its base, in place; return the tokenizer saved with it, or None.

    Nothing is changed unless all of it fits. The base is frozen, and the adapter can be trained
    further. If the model already has LoRA in the same layers, the matrices take the file's values.

    Args:
        model: the model that the adapter was trained on. A head that belongs to the adapter
            replaces the model's.
        folder: a folder from `save_adapter`, or from PEFT: for a `GPTModel`, or for transformers'
            models. GPT-2's fused query, key and value become three layers with the same A.
        check_base: whether a base with other numbers is refused. PEFT's own files do not describe
            their base; for these, only the shapes are compared.
        ignore_keys: PEFT settings to ignore although these layers do not implement them; results
            then differ.

    Raises:
        FileNotFoundError: if there is no adapter in the folder.
        WeightsError: if a file is damaged, belongs to another base (the message says what differs),
            or has matrices without a layer in the model.
        ValueError: if the model has LoRA in other layers, or of another rank.
    """
    inner: Any = language_model(model)
    folder = Path(folder)
    adapter = _read_adapter(folder, ignore_keys)
    _check_layers(inner, adapter)
    if check_base and adapter.mark is not None:
        _check_base(inner, adapter)
    description = adapter.metadata.get("tokenizer")
    tokenizer = load_tokenizer(description, folder) if isinstance(description, dict) else None
    _say_what_is_rounded(inner, adapter)
    _put_in(inner, adapter)
    return tokenizer


def adapter_base(
    folder: str | os.PathLike[str], *, ignore_keys: Collection[str] = ()
) -> str | None:
    """Return where an adapter's base came from, as `save_adapter(..., base=)` or PEFT noted it.

    Raises:
        FileNotFoundError: if there is no adapter in the folder.
        WeightsError: if its description is damaged.
    """
    config = read_peft_config(Path(folder), ignore_keys)
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        return None
    on_hub = _notes(config).get("base_on_hub") is True
    return (hub_name_of(base, config.get("revision")) if on_hub else None) or base


def base_source(
    folder: str | os.PathLike[str], *, ignore_keys: Collection[str] = ()
) -> str | Path | None:
    """Return the source of an adapter's base for `open_model`; None if it is not stated.

    The two may have been moved together, so a relative path is looked for in the adapter's folder
    first. PEFT's ORG/NAME, if not a folder here, is a model on the hub, of the given revision.

    Raises:
        FileNotFoundError: if there is no adapter in the folder.
        WeightsError: if its description is damaged.
    """
    config = read_peft_config(Path(folder), ignore_keys)
    base = adapter_base(folder, ignore_keys=ignore_keys)
    if base is None or is_hub_name(base):
        return base
    for place in (Path(folder) / base, Path(base)):
        if place.exists():
            return place
    ours = "base_fingerprint" in _notes(config)  # in which the base is always a path
    return base if ours else hub_name_of(base, config.get("revision")) or base


def _notes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return PEFT's notes on the base, which include this library's."""
    notes = config.get("auto_mapping")
    return notes if isinstance(notes, dict) else {}


def _read_adapter(folder: Path, ignore_keys: Collection[str]) -> Adapter:
    config = read_peft_config(folder, ignore_keys)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        path = path.with_suffix(".bin")  # the form of older versions of PEFT
    if not path.is_file():
        raise FileNotFoundError(f"{folder / WEIGHTS_FILE}, with the adapter's matrices, is missing")
    file = read_tensors(path, mapped=False)
    metadata = read_metadata(path, file)
    adapter = Adapter(path, {}, {}, metadata=metadata, mark=_mark_of(path, config, metadata))
    pairs = _sort(adapter, file.tensors)
    for name, (A, B) in pairs.items():
        rank = rank_of(name, config, folder / CONFIG_FILE)
        if rank != A.shape[0]:
            hint = f"{name} has matrices of rank {A.shape[0]}, {CONFIG_FILE} says {rank}"
            raise WeightsError(path, f"{hint}; the two files belong to different adapters")
        alpha = alpha_of(name, config, folder / CONFIG_FILE, rank)
        layers = layers_of(name) or (name,)
        if B.shape[0] % len(layers):
            hint = f"{name[:100]} has {B.shape[0]} outputs, which do not make {len(layers)} layers"
            raise WeightsError(path, hint)
        # One layer, or the three that c_attn is: (3C, rank) -> three of (C, rank).
        for layer, part in zip(layers, B.chunk(len(layers)), strict=True):
            if layer in adapter.pairs:
                raise WeightsError(path, f"has matrices for {layer[:100]} twice")
            adapter.pairs[layer], adapter.alphas[layer] = (A, part), alpha
    return adapter


def _mark_of(path: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of an adapter's base, which must be the same in both files."""
    noted = _notes(config).get("base_fingerprint")
    base = metadata.get("base")
    if base is None:
        return noted if isinstance(noted, str) else None
    try:
        mark = fingerprint_of(base)
        dict(base["options"]), dict(base["crc32"])
    except (KeyError, TypeError, ValueError) as err:
        raise WeightsError(path, "its description of the base is damaged") from err
    if noted is not None and noted != mark:
        hint = f"was trained on base {mark}, {CONFIG_FILE} says {str(noted)[:16]}"
        raise WeightsError(path, f"{hint}; the two files belong to different adapters")
    return mark


def _sort(adapter: Adapter, tensors: Mapping[str, Stored]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the pairs of matrices by the file's layer names; put other tensors in `beside`."""
    halves: dict[str, dict[str, Tensor]] = {}
    for full_name, stored in tensors.items():
        name, tensor = full_name.removeprefix(PREFIX), stored.tensor
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name)
        if not tensor.is_floating_point() or name == full_name:
            hint = f"{full_name[:100]!r} of type {tensor.dtype} is not part of a LoRA adapter"
            raise WeightsError(adapter.path, hint)
        if match:
            halves.setdefault(match[1], {})[match[2]] = tensor
            continue
        plain = name.replace(".base_layer.", ".")
        parts = parts_of(plain, stored) or {plain: Part(stored)}
        adapter.beside |= {ours: part.tensor() for ours, part in parts.items()}
        if plain != name:
            adapter.under |= parts.keys()
    pairs = {}
    for name, half in halves.items():
        A, B = half.get("A"), half.get("B")
        if A is None or B is None or A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1]:
            shapes = {letter: tuple(tensor.shape) for letter, tensor in half.items()}
            hint = f"the matrices of {name[:100]} are not a pair of (rank, in) and (out, rank)"
            raise WeightsError(adapter.path, f"{hint}: {shapes}")
        pairs[name] = A, B
    if not pairs:
        raise WeightsError(adapter.path, "holds no LoRA matrices")
    return pairs


def _check_layers(model: Any, adapter: Adapter) -> None:
    """Check that every tensor fits its place; nothing is changed yet."""
    shapes = {name: tuple(tensor.shape) for name, tensor in base_tensors(model).items()}
    layers = lora_layers(model)
    if (head := _head_of(adapter)) is not None and "out_head" not in layers:
        shapes = {n: shape for n, shape in shapes.items() if not n.startswith("out_head.")}
        shapes |= {name: tuple(tensor.shape) for name, tensor in head.items()}
    for name, tensor in adapter.beside.items():
        if shapes.get(name) != tuple(tensor.shape):
            found = f"{name[:100]} of shape {tuple(tensor.shape)}"
            raise WeightsError(adapter.path, f"holds {found}, the model has {shapes.get(name)}")
    modules = dict(model.named_modules())
    for name, (A, B) in adapter.pairs.items():
        linear = base_linear(modules[name]) if name in modules else None
        size = shapes.get(f"{name}.weight")
        if linear is None or size != (B.shape[0], A.shape[1]):
            hint = f"has matrices for {name[:100]}, a layer of {(B.shape[0], A.shape[1])}"
            has = "no such linear layer" if linear is None else f"one of {size}"
            raise WeightsError(adapter.path, f"{hint}; the model has {has}")
    here = {name: layer.lora.rank for name, layer in layers.items()}
    there = {name: A.shape[0] for name, (A, _) in adapter.pairs.items()}
    if here and here != there:
        raise ValueError(
            f"the model has LoRA in {len(here)} layers, the adapter in {len(there)}, which differ "
            "in names or ranks; load it onto a model without LoRA"
        )


def _head_of(adapter: Adapter) -> dict[str, Tensor] | None:
    """Return the head's tensors if the adapter has its own: (N, C), and (N,) for a bias."""
    head = {n: t for n, t in adapter.beside.items() if n.startswith("out_head.")}
    if not head:
        return None
    weight, bias = head.get("out_head.weight"), head.get("out_head.bias")
    fits = weight is not None and weight.dim() == 2 and len(head) == 1 + (bias is not None)
    if weight is None or not fits or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
        raise WeightsError(adapter.path, f"the head in it is incomplete: {shapes}")
    return head


def _check_base(model: Any, adapter: Adapter) -> None:
    """Refuse an adapter that was trained on a base with other numbers."""
    ours = describe_base(model, adapter.beside)
    mark = fingerprint_of(ours)
    if mark == adapter.mark:
        return
    theirs = adapter.metadata.get("base")
    what = f": {difference(theirs, ours)}" if theirs else ""
    raise WeightsError(
        adapter.path,
        f"was trained on another base, {adapter.mark}, this model is {mark}{what}; load the model "
        "that it was trained on, in the same dtype",
    )


def _say_what_is_rounded(model: Any, adapter: Adapter) -> None:
    """Warn if the model's type is too narrow for the numbers of an adapter."""
    dtype = model.tok_emb.weight.dtype
    types = {tensor.dtype for pair in adapter.pairs.values() for tensor in pair}
    if wider := [each for each in types if torch.promote_types(each, dtype) != dtype]:
        warnings.warn(
            f"the matrices of {adapter.path} are {wider[0]} and become {dtype}, as the model is; "
            "open the model in their type to keep all digits",
            stacklevel=3,
        )


@torch.no_grad()
def _put_in(model: Any, adapter: Adapter) -> None:
    """Put the adapter's tensors into the model; everything has been checked."""
    like = model.tok_emb.weight
    layers = lora_layers(model)
    head = _head_of(adapter)
    if head is not None and "out_head" not in layers:
        n_out, width = head["out_head.weight"].shape
        with SkipInitialization():  # of the classes of a language model's and a classifier's head
            plain = Linear(width, n_out, bias="out_head.bias" in head)
        model.out_head = plain.to(like.device, like.dtype)
    if (stated := saved_head(adapter.metadata) if adapter.metadata else None) is not None:
        model.class_names = stated.names
    if head is None and "tok_emb.weight" in adapter.beside and "out_head" not in layers:
        # PEFT trains a copy of an embedding, so the head stays unchanged, tied or not.
        model.out_head.weight = nn.Parameter(model.out_head.weight.detach().clone())
    freeze(model)
    tensors = base_tensors(model)
    for name, tensor in adapter.beside.items():
        tensors[name].copy_(tensor)
    parameters = dict(model.named_parameters())
    for name in adapter.beside.keys() - adapter.under:
        parameters[name].requires_grad = True
    for name, (A, B) in adapter.pairs.items():
        alpha = adapter.alphas[name]
        with SkipInitialization():  # no random numbers for what a file fills
            layer = layers.get(name) or wrap_linear(model, name, A.shape[0], alpha)
        layer.lora.A.copy_(A.T)
        layer.lora.B.copy_(B.T)
        layer.lora.alpha = alpha
        layer.lora.requires_grad_(True)
        layer.merged_weight = None
