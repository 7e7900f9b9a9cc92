"""The base of an adapter: its tensors, and the fingerprint that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from llm_scratch.lora.layers import LinearWithLoRA, lora_layers
from llm_scratch.model.families import parameter_shapes
from llm_scratch.weights.folder_metadata import checksum

# The options of a model that change what its weights compute.
OPTIONS = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers", "qkv_bias")


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of a model but its LoRA matrices, by the names it has without LoRA."""
    layers = lora_layers(model)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner = next((n for n in layers if name.startswith(f"{n}.")), None)
        if owner is None:
            tensors[name] = tensor
        elif name.startswith(f"{owner}.linear."):
            tensors[f"{owner}.{name.removeprefix(f'{owner}.linear.')}"] = tensor
    return tensors


def tensors_beside(model: Any) -> list[str]:
    """Return the names of an adapter's tensors besides LoRA: trained ones, and a new head's.

    Names are those without LoRA.

    Raises:
        ValueError: if a layer under LoRA is also trained: its base would change at every step.
    """
    layers = lora_layers(model)
    for name, layer in layers.items():
        if any(p.requires_grad for p in layer.linear.parameters()):
            raise ValueError(
                f"{name} learns beside its LoRA, so an adapter would not hold all of the change; "
                "call freeze(model) before replace_linear_with_lora, or merge and save the model"
            )
    inside = tuple(f"{name}." for name in layers)
    learning = {
        name for name, p in model.named_parameters(remove_duplicate=False)
        if p.requires_grad and not name.startswith(inside)
    }  # fmt: skip
    expected, base = parameter_shapes(model.cfg), base_tensors(model)
    changed = {
        name for name, tensor in base.items()
        if name.startswith("out_head.") and expected.get(name) != tuple(tensor.shape)
    }  # fmt: skip
    # Whole modules, as PEFT keeps them: a trained bias includes its weight.
    modules = {name.rpartition(".")[0] for name in learning | changed}
    return [name for name in base if name.rpartition(".")[0] in modules]


def describe_base(model: Any, without: Collection[str]) -> dict[str, Any]:
    """Describe a base as plain data: its options, and a checksum of each tensor not left out."""
    config = asdict(model.cfg)
    tensors = base_tensors(model)
    return {
        "options": {name: config[name] for name in OPTIONS if name in config},
        "crc32": {name: checksum(t) for name, t in tensors.items() if name not in without},
    }


def fingerprint_of(base: Mapping[str, Any]) -> str:
    """Return 16 hex digits that identify a base."""
    text = json.dumps([base["options"], base["crc32"]], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Describe the difference of two bases in a few words; both are from `describe_base`."""
    options = [
        f"{name} {value!r} there, {ours['options'].get(name)!r} here"
        for name, value in theirs["options"].items()
        if ours["options"].get(name) != value
    ]
    if options:
        return ", ".join(options)
    names = [*theirs["crc32"], *(name for name in ours["crc32"] if name not in theirs["crc32"])]
    differing = [n for n in names if theirs["crc32"].get(n) != ours["crc32"].get(n)]
    return f"{len(differing)} of {len(names)} tensors differ, the first is {differing[0]}"


def base_linear(layer: nn.Module) -> nn.Linear | None:
    """Return a linear layer itself, without LoRA around it; None for any other layer."""
    layer = layer.linear if isinstance(layer, LinearWithLoRA) else layer
    return layer if isinstance(layer, nn.Linear) else None
