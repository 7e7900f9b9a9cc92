"""The choice of files in a repository on the Hugging Face hub that are needed to open a model."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from llm_scratch.weights.hub_names import PREFIX, WEIGHTS, HubName
from llm_scratch.weights.huggingface_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    WEIGHT_FILES,
)
from llm_scratch.weights.tokenizer_files import TEXT_FILES

OWN_TOKENIZER = re.compile(r"tokenizer-[0-9a-f]{8}\.json")
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
BESIDE = (
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
    "chat_template.jinja",
    "tokenizer_config.json",
    "tokenizer.json",
)
NOT_READ = (".h5", ".msgpack", ".onnx", ".ot", ".npz", ".tflite", ".nemo")
MOST_NAMES = 40  # in a message


@dataclass(frozen=True)
class Needed:
    """The files needed to open a model, by their paths in the repository.

    Args:
        beside: configuration, tokenizer and template.
        weights: the file of weights, or the index of several.
    """

    beside: tuple[str, ...]
    weights: str


def needed_files(name: HubName, listed: Collection[str]) -> Needed:
    """Choose the files needed to open a model.

    Of several forms of the weights, the choice is the one that `find_weights` prefers in a folder.

    Args:
        name: the name of the model.
        listed: the paths of the repository's files.

    Raises:
        FileNotFoundError: if there are no weights that this library reads, or no such file.
        ValueError: if several files would do, or the named one is only a part.
    """
    if name.file is not None:
        return _needed_by_file(name, name.file, listed)
    kinds = ADAPTER_WEIGHTS if ADAPTER_CONFIG in listed else WEIGHT_FILES
    for weights in kinds:
        if weights in listed:
            return Needed(_beside(listed), weights)
    ggufs = sorted(path for path in listed if path.lower().endswith(".gguf"))
    if len(ggufs) == 1:
        return _needed_by_file(name, ggufs[0], listed)
    if ggufs:
        raise ValueError(_choice(name, ggufs))
    others = sorted(path for path in listed if path.lower().endswith(WEIGHTS + NOT_READ))
    hint = f"; {PREFIX}{name.repository}/FILE opens one that ends with {', '.join(WEIGHTS)}"
    raise FileNotFoundError(
        f"{name} holds none of {', '.join(kinds)}, nor a GGUF file; other weights: "
        f"{_joined(others) or 'none'}{hint if any(o.endswith(WEIGHTS) for o in others) else ''}"
    )


def _needed_by_file(name: HubName, file: str, listed: Collection[str]) -> Needed:
    """Return the files that one file of weights needs; a GGUF file needs no others."""
    if not file.lower().endswith(WEIGHTS):
        raise ValueError(f"{name}: {file} is not a file of weights ({', '.join(WEIGHTS)})")
    if file not in listed:
        others = sorted(path for path in listed if path.lower().endswith(WEIGHTS))
        raise FileNotFoundError(
            f"{name} does not exist; files of weights there: {_joined(others) or 'none'}"
        )
    if SPLIT.search(file.lower()):
        raise ValueError(
            f"{name}: {file} is one of several parts, which are not supported; join them with "
            "llama-gguf-split --merge"
        )
    folder = file[: file.rfind("/") + 1]
    return Needed(() if file.lower().endswith(".gguf") else _beside(listed, folder), file)


def _beside(listed: Collection[str], folder: str = "") -> tuple[str, ...]:
    """Return configurations, template and the files of one tokenizer in a folder."""
    names = {path.removeprefix(folder) for path in listed if path.startswith(folder)}
    wanted = [*BESIDE, *sorted(filter(OWN_TOKENIZER.fullmatch, names))]
    if "tokenizer.json" not in names:
        wanted += next((pair for pair in TEXT_FILES if names.issuperset(pair)), ())
    return tuple(folder + file for file in wanted if file in names)


def _choice(name: HubName, ggufs: list[str]) -> str:
    """Return a message that lists the GGUF files and says how to choose one."""
    whole = [path for path in ggufs if not SPLIT.search(path.lower())]
    if not whole:
        return (
            f"{name} holds GGUF files in parts, which are not supported; join them with "
            "llama-gguf-split --merge"
        )
    one = HubName(name.repository, whole[0], name.revision)
    return f"{name} holds several GGUF files; name one, such as {one}: {_joined(whole)}"


def _joined(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
