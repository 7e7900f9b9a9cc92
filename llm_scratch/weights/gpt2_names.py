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

NORM_NAMES = {"weight": "scale", "bias": "shift"}
QKV = ("W_query", "W_key", "W_value")

# Hugging Face's name of each parameter, and ours: first those outside of the blocks.
TOP = {
    "wte.weight": "tok_emb.weight",
    "wpe.weight": "pos_emb.weight",
    "ln_f.weight": "final_norm.scale",
    "ln_f.bias": "final_norm.shift",
    "lm_head.weight": "out_head.weight",
}
# In a block, one of theirs is one of ours, or three side by side.
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
# The matrices are stored (in, out), the other way round than a linear layer wants them: transposed
# always, never by looking at shapes, since the square one fits either way.
TRANSPOSED = {name for name in BLOCK if name[:3] != "ln_" and name.endswith(".weight")}


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
    match = re.fullmatch(r"model/(?:h(\d+)/)?([\w/]+?)(?:/([gwb]))?", name)
    if match is None:
        return name
    block, path, kind = match.groups()
    layer = path.replace("/", ".")
    return f"{f'h.{block}.' if block else ''}{layer}.{'bias' if kind == 'b' else 'weight'}"


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
    if name in TOP:
        return {TOP[name]: Part(stored)}
    if _is_mask(name, stored.shape):
        return {}
    match = re.fullmatch(r"h\.(0|[1-9]\d*)\.(.+)", name)
    if match is None or (ours := BLOCK.get(match[2])) is None:
        return None
    transpose = match[2] in TRANSPOSED
    return {
        f"trf_blocks.{match[1]}.{one}": Part(stored, transpose, third if len(ours) > 1 else None)
        for third, one in enumerate(ours)
    }


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
