"""Which tensor of a file is which parameter of this library's GPT, in every layout there is.

The names of OpenAI's variables become Hugging Face's by spelling alone, so one mapping serves
both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from llm_scratch.model.wrappers import WRAPPERS
from llm_scratch.tensor_files.stored import Stored, owned, thirds_of

HUGGING_FACE, OPENAI, BOOK = "huggingface", "openai", "book"

# Hugging Face's name of each part of a block, and ours. The matrices are stored (in, out), the
# other way round than a linear layer wants them: transposed always, never by looking at shapes,
# since the square one fits either way.
NORMS = {"ln_1": "norm1", "ln_2": "norm2"}
MATRICES = {
    "attn.c_proj": "att.out_proj",
    "mlp.c_fc": "ff.layers.0",
    "mlp.c_proj": "ff.layers.2",
}
NORM_NAMES = {"weight": "scale", "bias": "shift"}
QKV = ("W_query", "W_key", "W_value")


@dataclass(frozen=True)
class Part:
    """One parameter, still in its file: the stored tensor, and which way round it is to be read.

    Args:
        stored: the tensor in the file.
        transpose: whether it is stored (in, out).
        third: which third of the last axis is meant, None for the whole.
    """

    stored: Stored
    transpose: bool = False
    third: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the parameter will have."""
        *rest, last = self.stored.shape
        shape = (*rest, last // 3 if self.third is not None and last % 3 == 0 else last)
        return shape[::-1] if self.transpose else shape

    def tensor(self) -> Tensor:
        """The parameter's numbers: dense, alone in their storage, mapped where that is possible."""
        if self.third is None:
            whole = self.stored.tensor
        else:
            whole = thirds_of(self.stored)[self.third]
        return owned(whole.t() if self.transpose else whole)


def layout_of(names: Iterable[str]) -> str | None:
    """The layout that a file's names are in, or None."""
    names = {strip_prefixes(name) for name in names}
    if {"tok_emb.weight", "tok_emb.linear.weight"} & names:
        return BOOK
    if {"wte.weight", "h.0.attn.c_attn.weight"} & names:
        return HUGGING_FACE
    return OPENAI if any(name.startswith("model/w") for name in names) else None


def strip_prefixes(name: str) -> str:
    """The name without what compiling, data parallel or Hugging Face's head put before it."""
    while name.startswith((*WRAPPERS, "transformer.")):
        name = name.partition(".")[2]
    return name


def openai_as_hugging_face(name: str) -> str:
    """Hugging Face's name of one of OpenAI's variables; other names stay as they are."""
    match = re.fullmatch(r"model/(?:h(\d+)/)?([\w/]+)", name)
    if match is None:
        return name
    block, path = match.groups()
    parts = path.split("/")
    if parts[-1] in ("g", "w", "b") and len(parts) > 1:
        parts[-1] = "bias" if parts[-1] == "b" else "weight"
    else:
        parts.append("weight")
    return ".".join([*(["h", block] if block else []), *parts])


def from_hugging_face(tensors: Mapping[str, Stored]) -> tuple[dict[str, Part], list[str]]:
    """Every parameter that the file gives, by our name, and the names that mean nothing."""
    parts: dict[str, Part] = {}
    surplus = []
    for name, stored in tensors.items():
        found = _hugging_face_parts(name, stored)
        if found is None:
            surplus.append(name)
        else:
            parts.update(found)
    return parts, surplus


def _hugging_face_parts(name: str, stored: Stored) -> dict[str, Part] | None:
    """What one tensor gives: three parameters, one, none (a mask), or None where it is unknown."""
    top = {"wte.weight": "tok_emb.weight", "wpe.weight": "pos_emb.weight"}
    top |= {"lm_head.weight": "out_head.weight"}
    if name in top:
        return {top[name]: Part(stored)}
    if _is_mask(name, stored.shape):
        return {}
    match = re.fullmatch(r"(?:h\.(0|[1-9]\d*)\.)?(.+)\.(weight|bias)", name)
    if match is None:
        return None
    block, layer, kind = match.groups()
    if block is None:
        known = layer == "ln_f"
        return {f"final_norm.{NORM_NAMES[kind]}": Part(stored)} if known else None
    prefix = f"trf_blocks.{block}."
    transpose = kind == "weight"
    if layer in NORMS:
        return {f"{prefix}{NORMS[layer]}.{NORM_NAMES[kind]}": Part(stored)}
    if layer in MATRICES:
        return {f"{prefix}{MATRICES[layer]}.{kind}": Part(stored, transpose)}
    if layer == "attn.c_attn":
        return {
            f"{prefix}att.{name}.{kind}": Part(stored, transpose, third)
            for third, name in enumerate(QKV)
        }
    return None


def _is_mask(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is the causal mask, or the number under it, that old files hold in each block."""
    if re.fullmatch(r"h\.\d+\.attn\.bias", name):
        return len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return re.fullmatch(r"h\.\d+\.attn\.masked_bias", name) is not None and shape in ((), (1,))


def compare(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    surplus: Iterable[str] = (),
) -> str:
    """What does not fit, in one line that names tensors; empty when all of it does."""
    missing = [name for name in expected if name not in found]
    extra = [*(name for name in found if name not in expected), *surplus]
    wrong = [
        f"{name} {found[name]} where {shape} is needed"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    kinds = (("missing", missing), ("not used", extra), ("of another shape", wrong))
    return "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(name[:100] for name in names[:6]) + more
