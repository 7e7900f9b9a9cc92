"""Parameters that are still in their files, by this library's names, and a check of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from llm_scratch.model.heads import Head
from llm_scratch.tensor_files.stored import Stored, owned, thirds_of
from llm_scratch.weights.folder_metadata import saved_head

HUGGING_FACE, OPENAI, BOOK, NANOGPT, GGUF = "huggingface", "openai", "book", "nanogpt", "gguf"
GPT2, LLAMA = "gpt2", "llama"  # the families' names in `model.families`


@dataclass(frozen=True)
class Part:
    """One parameter, still in its file: the stored tensor, and how to read it.

    Args:
        stored: the tensor in the file.
        transpose: whether it is stored (in, out).
        third: which third of the last axis to use, None for all of it.
        pairs_of: the number of heads whose rows are in pairs, as for RoPE in llama.cpp; 0 if they
            are not.
    """

    stored: Stored
    transpose: bool = False
    third: int | None = None
    pairs_of: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        *rest, last = self.stored.shape
        shape = (*rest, last // 3 if self.third is not None and last % 3 == 0 else last)
        return shape[::-1] if self.transpose else shape

    def tensor(self) -> Tensor:
        """Return the parameter's numbers: dense, alone in their storage, mapped if possible."""
        if self.third is None:
            whole = self.stored.tensor
        else:
            whole = thirds_of(self.stored)[self.third]
        if self.pairs_of:
            rows = whole.view(self.pairs_of, -1, 2, *whole.shape[1:])  # (H, D/2, 2, C), or no C
            whole = rows.transpose(1, 2).reshape(whole.shape)
        return owned(whole.t() if self.transpose else whole)


@dataclass
class Source:
    """A model's parameters, still in their files.

    Args:
        path: the opened file or folder.
        layout: one of "book", "huggingface", "openai", "nanogpt", "gguf".
        parts: every parameter, by this library's names.
        surplus: names of tensors that are not parameters of such a model.
        known: the options of the model that the files state.
        metadata: further metadata of one of this library's own files.
        classes: whether the file states that its head is one for classes.
        family: the model's family, by its name in `model.families`.
        gguf_keys: a GGUF file's keys, including those of its tokenizer.
    """

    path: Path
    layout: str
    parts: dict[str, Part]
    surplus: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    classes: bool = False
    family: str = GPT2
    gguf_keys: dict[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> Head | None:
        """The head if it is not a language model's: as stated, else recognised by its bias."""
        if self.metadata:
            return saved_head(self.metadata)
        head, bias = self.parts.get("out_head.weight"), self.parts.get("out_head.bias")
        if head is None or not head.shape or not (self.classes or bias is not None):
            return None
        names = self.known.get("class_names", ())
        n_classes = head.shape[0]
        return Head(
            "classes", n_classes, bias is not None, names if len(names) == n_classes else None
        )


def compare(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    surplus: Iterable[str] = (),
) -> str:
    """Describe what does not fit, in one line that names tensors; "" if everything fits."""
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
