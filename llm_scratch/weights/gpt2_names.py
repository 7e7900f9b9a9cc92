"""The mapping of a file's tensors to the parameters of this library's GPT, for every layout.

OpenAI's variable names differ from Hugging Face's only in spelling, so one mapping serves both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.wrappers import WRAPPERS
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.parts import BOOK, HUGGING_FACE, OPENAI, Part

NORM_NAMES = {"weight": "scale", "bias": "shift"}
QKV = ("W_query", "W_key", "W_value")

# Hugging Face's name for each parameter, and this library's: first those outside the blocks.
TOP = {
    "wte.weight": "tok_emb.weight",
    "wpe.weight": "pos_emb.weight",
    "ln_f.weight": "final_norm.scale",
    "ln_f.bias": "final_norm.shift",
    "lm_head.weight": "out_head.weight",
}
# The head of a model for classes.
CLASSES = "score.weight"
# In a block, one tensor of Hugging Face's is one parameter, or three joined.
BLOCK = {
    "ln_1.weight": ("norm1.scale",),
    "ln_1.bias": ("norm1.shift",),
    "attn.c_attn.weight": tuple(f"att.{name}.weight" for name in QKV),
    "attn.c_attn.bias": tuple(f"att.{name}.bias" for name in QKV),
    "attn.c_proj.weight": ("att.out_proj.weight",),
    "attn.c_proj.bias": ("att.out_proj.bias",),
    "ln_2.weight": ("norm2.scale",),
    "ln_2.bias": ("norm2.shift",),
    "mlp.c_fc.weight": ("ff.layers.0.weight",),
    "mlp.c_fc.bias": ("ff.layers.0.bias",),
    "mlp.c_proj.weight": ("ff.layers.2.weight",),
    "mlp.c_proj.bias": ("ff.layers.2.bias",),
}
# The matrices are stored (in, out), unlike a linear layer's. They are always transposed, whatever
# their shapes, since a square one fits either way.
TRANSPOSED = {name for name in BLOCK if name[:3] != "ln_" and name.endswith(".weight")}


def layout_of(names: Iterable[str]) -> str | None:
    """Return the layout of a file's names, or None."""
    names = {strip_prefixes(name) for name in names}
    if {"tok_emb.weight", "tok_emb.linear.weight"} & names:
        return BOOK
    if {"wte.weight", "h.0.attn.c_attn.weight"} & names:
        return HUGGING_FACE
    return OPENAI if any(name.startswith("model/w") for name in names) else None


def outer_prefix(names: Iterable[str]) -> str:
    """Return the prefix that a program such as Lightning adds to all names ("model."), or ""."""
    for name in names:
        if match := re.fullmatch(
            r"(.*?)(?:(?:transformer\.)?wte|tok_emb)(?:\.linear)?\.weight", name
        ):
            return match[1] if strip_prefixes(match[1]) else ""
    return ""


def is_linear(tensors: Mapping[str, Stored]) -> bool:
    """Return whether matrices are (out, in), as in nanoGPT; the shape (3C, C) shows it."""
    joined = tensors.get("h.0.attn.c_attn.weight")
    return joined is not None and len(joined.shape) == 2 and joined.shape[0] == 3 * joined.shape[1]


def strip_prefixes(name: str) -> str:
    """Return a name without the prefixes of compiling, data parallel or Hugging Face's head."""
    while name.startswith((*WRAPPERS, "transformer.")):
        name = name.partition(".")[2]
    return name


def openai_as_hugging_face(name: str) -> str:
    """Return Hugging Face's name for one of OpenAI's variables; other names are unchanged."""
    match = re.fullmatch(r"model/(?:h(\d+)/)?([\w/]+?)(?:/([gwb]))?", name)
    if match is None:
        return name
    block, path, kind = match.groups()
    layer = path.replace("/", ".")
    return f"{f'h.{block}.' if block else ''}{layer}.{'bias' if kind == 'b' else 'weight'}"


def from_hugging_face(
    tensors: Mapping[str, Stored], *, linear: bool = False
) -> tuple[dict[str, Part], list[str]]:
    """Return every parameter in the file, by this library's name, and the unknown names."""
    parts: dict[str, Part] = {}
    surplus = []
    for name, stored in tensors.items():
        found = hugging_face_parts(name, stored, linear=linear)
        if found is None or found.keys() & parts.keys():
            surplus.append(name)
        else:
            parts.update(found)
    return parts, surplus


def hugging_face_parts(
    name: str, stored: Stored, *, linear: bool = False
) -> dict[str, Part] | None:
    """Return the parameters in one tensor: three, one or none (a mask); None if it is unknown.

    Args:
        name: its name in Hugging Face's spelling, without prefixes.
        stored: the tensor.
        linear: whether matrices are stored (out, in), as in nanoGPT.
    """
    if name in TOP or name == CLASSES:
        return {TOP.get(name, "out_head.weight"): Part(stored)}
    if _is_mask(name, stored.shape):
        return {}
    match = re.fullmatch(r"h\.(0|[1-9]\d*)\.(.+)", name)
    if match is None or (ours := BLOCK.get(match[2])) is None:
        return None
    names = [f"trf_blocks.{match[1]}.{one}" for one in ours]
    if linear and len(ours) > 1 and stored.shape and stored.shape[0] % 3 == 0:
        rows = stored.tensor.chunk(3)  # (3C, C) -> three of (C, C)
        return {n: Part(Stored(r, stored.path)) for n, r in zip(names, rows, strict=True)}
    transpose = match[2] in TRANSPOSED and not linear
    return {
        one: Part(stored, transpose, third if len(ours) > 1 else None)
        for third, one in enumerate(names)
    }


def _is_mask(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is the mask, or its fill value, that old files have per block."""
    if re.fullmatch(r"h\.\d+\.attn\.bias", name):
        return len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return re.fullmatch(r"h\.\d+\.attn\.masked_bias", name) is not None and shape in ((), (1,))


def to_hugging_face(tensors: dict[str, Tensor], cfg: GPTConfig) -> dict[str, Tensor]:
    """Return the tensors of a GPT by Hugging Face's names, matrices as (in, out)."""
    found = {
        theirs if theirs == "lm_head.weight" else f"transformer.{theirs}": tensors[ours]
        for theirs, ours in TOP.items()
        if ours in tensors
    }
    for block in range(cfg.n_layers):
        prefix = f"trf_blocks.{block}."
        no_bias = tensors[f"{prefix}att.W_query.weight"].new_zeros(cfg.emb_dim)
        for theirs, ours in BLOCK.items():
            parts = [tensors.get(f"{prefix}{name}", no_bias) for name in ours]
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]  # three of (C, C) -> (3C, C)
            found[f"transformer.h.{block}.{theirs}"] = whole.t() if theirs in TRANSPOSED else whole
    return found
