"""Names in files of Hugging Face's and PEFT's, whichever family they are of, and ours."""

from __future__ import annotations

from pathlib import Path

import torch

from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights import gpt2_names, llama_names
from llm_scratch.weights.parts import Part


def parts_of(name: str, stored: Stored) -> dict[str, Part] | None:
    """Return what one of their tensors gives: our parameters by name; None where it is unknown."""
    if ours := llama_names.our_name(name):
        return {ours: Part(stored)}
    return gpt2_names.hugging_face_parts(gpt2_names.strip_prefixes(name), stored)


def layers_of(name: str) -> tuple[str, ...]:
    """Return our names of the layers that one of theirs is; none where it is none."""
    parts = parts_of(f"{name}.weight", Stored(torch.empty(0, 0), Path()))
    return tuple(part.removesuffix(".weight") for part in parts or ())
