"""State dicts under the book's names, in every form that its chapters and bonus material save.

They may have masks, one projection for queries, keys and values, one matrix per head, or LoRA
around the layers: all are converted to the names of this library's `GPTModel`.

Source:
    Book 5.4 (saving), 3.6 (heads), appendix E (LoRA).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.gpt2_names import NORM_NAMES, QKV
from llm_scratch.weights.parts import Part

MASK = re.compile(r"trf_blocks\.\d+\.att\.(heads\.\d+\.)?mask")
FAST_NAMES = re.compile(r"((?:trf_blocks\.\d+\.norm[12])|final_norm)\.(weight|bias)")
HEADS = re.compile(r"(trf_blocks\.\d+\.att)\.heads\.(\d+)\.(W_query|W_key|W_value)\.(weight|bias)")


def from_book(
    tensors: Mapping[str, Stored], path: Path, lora_alpha: float | None = None
) -> dict[str, Part]:
    """Return a file's tensors by the names in `GPTModel`; unknown names are kept.

    Raises:
        WeightsError: if it has LoRA matrices and `lora_alpha` is needed but not given, or if they
            do not fit their layer.
    """
    tensors = {name: stored for name, stored in tensors.items() if not MASK.fullmatch(name)}
    tensors = _merge_lora(tensors, path, lora_alpha)
    tensors = _join_heads(tensors, path)
    renamed: dict[str, Stored] = {}
    for name, stored in tensors.items():
        renamed.update(_split_fast(name, stored))
    return {name: Part(stored) for name, stored in renamed.items()}


def _merge_lora(tensors: dict[str, Stored], path: Path, alpha: float | None) -> dict[str, Stored]:
    """Merge each pair of LoRA matrices into its weight."""
    layers = [n.removesuffix(".linear.weight") for n in tensors if n.endswith(".linear.weight")]
    for layer in layers:
        weight = tensors.pop(f"{layer}.linear.weight")
        bias = tensors.pop(f"{layer}.linear.bias", None)
        A, B = (tensors.pop(f"{layer}.lora.{name}", None) for name in "AB")
        if A is None or B is None:
            raise WeightsError(path, f"{layer}.linear has no LoRA matrices A and B beside it")
        tensors[f"{layer}.weight"] = _with_lora(layer, weight, A, B, path, alpha)
        if bias is not None:
            tensors[f"{layer}.bias"] = bias
    return tensors


def _with_lora(
    layer: str, weight: Stored, A: Stored, B: Stored, path: Path, alpha: float | None
) -> Stored:
    fits = len(A.shape) == len(B.shape) == 2 and A.shape[1] == B.shape[0]
    if not fits or weight.shape != (B.shape[1], A.shape[0]):
        shapes = f"{weight.shape}, {A.shape}, {B.shape}"
        raise WeightsError(path, f"LoRA matrices of {layer} do not fit: {shapes}")
    if not torch.count_nonzero(B.tensor):  # the initial state: it adds nothing, whatever alpha is
        return weight
    rank = A.shape[1]
    if alpha is None:
        hint = f"holds LoRA matrices of rank {rank}, but not their alpha; give lora_alpha=..."
        raise WeightsError(path, f"{hint} (the book trains with 16)")
    merged = weight.tensor + (A.tensor @ B.tensor).t() * (alpha / rank)
    return Stored(merged, path)


def _join_heads(tensors: dict[str, Stored], path: Path) -> dict[str, Stored]:
    """Stack the matrices of single heads: H times (D, C) -> (C, C)."""
    heads: dict[str, dict[int, Stored]] = {}
    for name in list(tensors):
        if match := HEADS.fullmatch(name):
            attention, number, layer, kind = match.groups()
            joined_name = f"{attention}.{layer}.{kind}"
            heads.setdefault(joined_name, {})[int(number)] = tensors.pop(name)
    for target, parts in heads.items():
        if sorted(parts) != list(range(len(parts))) or len({p.shape for p in parts.values()}) > 1:
            raise WeightsError(path, f"the heads for {target} are not complete: {sorted(parts)}")
        joined = torch.cat([parts[number].tensor for number in range(len(parts))])
        tensors[target] = Stored(joined, path)
    return tensors


def _split_fast(name: str, stored: Stored) -> dict[str, Stored]:
    """Return names and thirds for tensors that the book's fast model joins or names differently."""
    if match := FAST_NAMES.fullmatch(name):
        return {f"{match[1]}.{NORM_NAMES[match[2]]}": stored}
    if match := re.fullmatch(r"(trf_blocks\.\d+\.att)\.proj\.(weight|bias)", name):
        return {f"{match[1]}.out_proj.{match[2]}": stored}
    match = re.fullmatch(r"(trf_blocks\.\d+\.att)\.qkv\.(weight|bias)", name)
    if match is None or stored.shape[0] % 3:
        return {name: stored}
    thirds = stored.tensor.chunk(3)  # rows: (3C, C) -> (C, C) three times
    return {
        f"{match[1]}.{layer}.{match[2]}": Stored(third, stored.path)
        for layer, third in zip(QKV, thirds, strict=True)
    }
