"""A folder in Hugging Face's layout: its configuration and its files of weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llm_scratch.files import read_json
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.stored import Stored

LONGEST_INDEX = 16 << 20  # bytes, of a hundred thousand tensors
# In the order in which they are looked for: those that can't hold code come first.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "context_length",
    "n_ctx": "context_length",
    "n_embd": "emb_dim",
    "n_layer": "n_layers",
    "n_head": "n_heads",
}
# Options that change what a model computes, with the values that this library's model has.
FIXED = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def find_weights(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of several; None where there is none."""
    return next((folder / n for n in WEIGHT_FILES if (folder / n).is_file()), None)


def read_config(path: Path) -> dict[str, Any]:
    """The options of `GPTConfig` that a `config.json` states, or OpenAI's `hparams.json`.

    Raises:
        WeightsError: if it is damaged, or of a model that computes something else than GPT-2.
    """
    values = read_json(path, error=WeightsError)
    for name, allowed in FIXED.items():
        if name in values and values[name] not in allowed:
            known = ", ".join(map(str, allowed))
            given = str(values[name])[:60]
            raise WeightsError(path, f"{name} is {given}; this model computes {known} only")
    names = {"n_vocab": "vocab_size", **SIZES}  # the first is OpenAI's
    found: dict[str, Any] = {ours: values[name] for name, ours in names.items() if name in values}
    if any(type(value) is not int or value < 1 for value in found.values()):
        raise WeightsError(path, f"its sizes are no positive numbers: {str(found)[:200]}")
    inner = values.get("n_inner")
    if inner is not None and inner != 4 * found.get("emb_dim", 0):
        raise WeightsError(path, f"n_inner is {str(inner)[:60]}; this model has 4 * n_embd")
    for name, ours in (("tie_word_embeddings", "tie_weights"), ("qkv_bias", "qkv_bias")):
        if isinstance(values.get(name), bool):
            found[ours] = values[name]
    return found


def read_sharded(index: Path) -> dict[str, Stored]:
    """The tensors of a model that is spread over several files.

    Raises:
        FileNotFoundError: if one of the files is missing.
        WeightsError: if the index is damaged, or does not agree with the files.
    """
    names = read_json(index, most_bytes=LONGEST_INDEX, error=WeightsError).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise WeightsError(index, "damaged: it has no weight_map from tensors to files")
    found: dict[str, Stored] = {}
    for file in sorted(set(names.values())):
        # A name with folders in it would open a file anywhere on this machine.
        if not re.fullmatch(r"[\w.\-]+", file):
            raise WeightsError(index, f"{file[:60]!r} is not the name of a file beside it")
        path = index.with_name(file)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {index.name} names it")
        tensors = read_tensors(path).tensors
        expected = {name for name, its_file in names.items() if its_file == file}
        if tensors.keys() != expected:
            odd = sorted(tensors.keys() ^ expected)[:4]
            raise WeightsError(path, f"{index.name} does not agree with it: {', '.join(odd)}")
        found.update(tensors)
    return found
