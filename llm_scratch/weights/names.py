"""The mapping from names in Hugging Face's and PEFT's files to this library's, for all families."""

from __future__ import annotations

from pathlib import Path

import torch

from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights import gpt2_names, llama_names
from llm_scratch.weights.parts import Part


def parts_of(name: str, stored: Stored) -> dict[str, Part] | None:
    """Return the parameters in a file's tensor, by this library's names; None if it is unknown."""
    if ours := llama_names.our_name(name):
        return {ours: Part(stored)}
    return gpt2_names.hugging_face_parts(gpt2_names.strip_prefixes(name), stored)


def layers_of(name: str) -> tuple[str, ...]:
    """Return this library's names for the layers in a file's layer; empty if it is unknown."""
    parts = parts_of(f"{name}.weight", Stored(torch.empty(0, 0), Path()))
    return tuple(part.removesuffix(".weight") for part in parts or ())
