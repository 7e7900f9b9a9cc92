"""A folder in Hugging Face's layout: its configuration and its files of weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llm_scratch.files import read_json
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.config_json import MODEL_TYPES, READERS

LONGEST_INDEX = 16 << 20  # bytes: a hundred thousand tensors
# In the order of preference: those that cannot hold code come first.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# PEFT's adapters: their settings, and their tensors in the current and in the older form.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def find_weights(folder: Path) -> Path | None:
    """Find the file of weights in a folder, or the index of several; None if there is none.

    A GGUF file counts if it is the only one.
    """
    found = [folder / n for n in WEIGHT_FILES if (folder / n).is_file()]
    others = list(folder.glob("*.gguf"))
    return next(iter(found), others[0] if len(others) == 1 else None)


def missing_index(folder: Path) -> Path | None:
    """Return the index that is missing although its shards exist; None without shards."""
    for kind, index in (("safetensors", WEIGHT_FILES[1]), ("bin", WEIGHT_FILES[3])):
        if any(folder.glob(f"*-of-*.{kind}")):
            return folder / index
    return None


def read_config(path: Path, family: str, ignore_keys: Collection[str] = ()) -> dict[str, Any]:
    """Read the options of a model's configuration that a `config.json` states.

    OpenAI's `hparams.json` is read too. For a model with a head for classes, the options include
    the class names, as `class_names`.

    Args:
        path: the file.
        family: the family of the tensors next to it.
        ignore_keys: settings to ignore.

    Raises:
        WeightsError: if it is damaged, or belongs to an unsupported model.
    """
    values = read_json(path, error=WeightsError)
    stated = _stated_family(path, values, ignore_keys)
    if stated not in (None, family):
        kind = values["model_type"]
        raise WeightsError(
            path, f"is of a model_type={kind!r}, the tensors beside it are those of a {family}"
        )
    return READERS[family](path, values, ignore_keys)


def check_config(path: Path, ignore_keys: Collection[str] = ()) -> None:
    """Refuse a configuration that `read_config` would refuse, before there are weights.

    Raises:
        WeightsError: if it is damaged, or belongs to an unsupported model.
    """
    family = _stated_family(path, read_json(path, error=WeightsError), ignore_keys)
    if family is not None:  # otherwise the tensors decide
        with warnings.catch_warnings(action="ignore"):  # it is read again
            read_config(path, family, ignore_keys)


def _stated_family(
    path: Path, values: Mapping[str, Any], ignore_keys: Collection[str]
) -> str | None:
    """Return the family that a configuration states; None if it states none."""
    if "model_type" in ignore_keys or "model_type" not in values:
        return None
    kind = values["model_type"]
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        names = ", ".join(MODEL_TYPES)
        raise WeightsError(path, f"is of a model_type={str(kind)[:60]!r}; known are {names}")
    return MODEL_TYPES[kind]


def read_sharded(index: Path) -> dict[str, Stored]:
    """Read the tensors of a model from several files.

    Raises:
        FileNotFoundError: if one of the files is missing.
        WeightsError: if the index is damaged, or does not match the files.
    """
    names = read_index(index)
    found: dict[str, Stored] = {}
    for file in sorted(set(names.values())):
        path = index.with_name(file)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {index.name} names it")
        tensors = read_tensors(path).tensors
        expected = {name for name, its_file in names.items() if its_file == file}
        if tensors.keys() != expected:
            odd = sorted(tensors.keys() ^ expected)[:4]
            raise WeightsError(path, f"{index.name} does not match it: {', '.join(odd)}")
        found.update(tensors)
    return found


def read_index(index: Path) -> dict[str, str]:
    """Read from an index which file each tensor is in.

    Raises:
        WeightsError: if the index is damaged, or names files elsewhere.
    """
    names = read_json(index, most_bytes=LONGEST_INDEX, error=WeightsError).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise WeightsError(index, "damaged: it has no weight_map from tensors to files")
    for file in sorted(set(names.values())):
        # A name with folders could open a file anywhere on this machine.
        if not re.fullmatch(r"[\w.\-]+", file):
            raise WeightsError(index, f"{file[:60]!r} is not the name of a file beside it")
    return names
