"""Building of a model from an opened source: checked, then filled in the memory of one model."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.families import empty_model, parameter_shapes
from llm_scratch.model.heads import Head
from llm_scratch.model.initialization import SkipInitialization
from llm_scratch.model.linear import Linear
from llm_scratch.model.together import lay_together
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import reading_thirds
from llm_scratch.weights.gpt2_names import QKV
from llm_scratch.weights.parts import GPT2, Part, compare
from llm_scratch.weights.source import Source, config_of


def build_model(
    source: Source,
    config: Any | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tie_weights: bool | None = None,
    drop_rate: float = 0.0,
) -> Any:
    """Build the model in an opened source; everything is checked before any memory is allocated.

    Raises:
        WeightsError: if a tensor is missing, not used, or of another shape.
    """
    cfg = config_of(source, config)
    head = source.head
    if "drop_rate" in cfg and (drop_rate or not (config or source.metadata)):
        cfg = replace(cfg, drop_rate=drop_rate)
    parts = dict(source.parts)
    if not cfg.get("qkv_bias", True):
        _drop_zero_biases(parts, cfg.n_layers)
    tied = head is None and _is_tied(source, tie_weights)
    if head is not None and tie_weights:
        hint = f"its head has {head.size} classes and can't be the embedding; leave tie_weights out"
        raise WeightsError(source.path, hint)
    copied_head = not tied and "out_head.weight" not in parts and tie_weights is False
    expected = parameter_shapes(cfg, head)
    if tied or copied_head:
        expected.pop("out_head.weight")
    if tied:
        parts.pop("out_head.weight", None)
    shapes = {name: part.shape for name, part in parts.items()}
    if complaint := compare(expected, shapes, source.surplus):
        raise WeightsError(source.path, f"does not fit a model of these sizes: {complaint}")
    _check_floats(source.path, parts, dtype)
    if dtype is None and not source.metadata:  # this library's files keep each type
        dtype = _widest(source.path, parts)
    joined = {id(part.stored): part.stored for part in parts.values() if part.third is not None}
    with reading_thirds(joined.values()):
        model = _empty(replace(cfg, tie_weights=tied), head)
    for name in expected:
        _set(model, name, parts[name].tensor().to(device=device or "cpu", dtype=dtype))
    if copied_head:
        _set(model, "out_head.weight", model.tok_emb.weight.detach().clone())
    if tied:
        model.tie_weights()
    if source.family != GPT2:  # whose matrices stay mapped in the file
        lay_together(model)
    return model.eval()


def _empty(cfg: Any, head: Head | None) -> Any:
    model = empty_model(cfg)
    if head is not None:
        with SkipInitialization():
            model.out_head = Linear(cfg.emb_dim, head.size, bias=head.bias)
        model.class_names = head.names
    return model


def _set(model: Any, name: str, tensor: Tensor) -> None:
    layer, _, parameter = name.rpartition(".")
    setattr(model.get_submodule(layer), parameter, nn.Parameter(tensor))


def _check_floats(path: Path, parts: Mapping[str, Part], dtype: torch.dtype | None) -> None:
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"{dtype=} must be a floating type such as torch.bfloat16")
    wrong = [n for n, part in parts.items() if not part.stored.dtype.is_floating_point]
    if wrong:
        raise WeightsError(path, f"these are not floating-point numbers: {', '.join(wrong[:4])}")


def _widest(path: Path, parts: Mapping[str, Part]) -> torch.dtype:
    """Return a type that holds the numbers of all parameters; warn if their types differ."""
    types = {part.stored.dtype for part in parts.values()}
    widest = functools.reduce(torch.promote_types, types)
    if len(types) > 1:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
        warnings.warn(
            f"{path} holds numbers of the types {names}: all become {str(widest)[6:]}, which loses "
            "nothing; choose another type with dtype= (--dtype)",
            stacklevel=4,
        )
    return widest


def _drop_zero_biases(parts: dict[str, Part], n_layers: int) -> None:
    """Remove the biases of queries, keys and values if all are zero, which loses nothing."""
    names = [f"trf_blocks.{n}.att.{layer}.bias" for n in range(n_layers) for layer in QKV]
    found = [name for name in names if name in parts]
    if not any(torch.count_nonzero(parts[name].stored.tensor) for name in found):
        for name in found:
            del parts[name]


def _is_tied(source: Source, wanted: bool | None) -> bool:
    """Return whether head and embedding become one parameter.

    Raises:
        WeightsError: if they should, but the file's head differs from its embedding.
    """
    head, embedding = source.parts.get("out_head.weight"), source.parts["tok_emb.weight"]
    stated = source.known.get("tie_weights")
    if wanted is False:
        return False
    if head is None:
        return bool(wanted or stated is not False)
    if wanted is None and stated is False:
        return False
    same = head.shape == embedding.shape and _equal(head.stored.tensor, embedding.stored.tensor)
    if (wanted or stated) and not same:
        raise WeightsError(
            source.path,
            "its head differs from its embedding, so they can't be tied; tie_weights=False uses "
            "the file's head",
        )
    return same


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)
