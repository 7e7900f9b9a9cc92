"""The metadata that this library writes into the header of its own files, and reads back.

PyTorch is imported only for checksums, so that a configuration can be read without it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_scratch.model.config import ConfigError
from llm_scratch.model.families import config_of_saved
from llm_scratch.model.heads import Head
from llm_scratch.tensor_files.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from llm_scratch.tensor_files.stored import TensorFile

METADATA_KEY = "llm_scratch"
CHECKSUM_KEY = "llm_scratch_crc32"  # the checksum of the text under the other key
VERSION = 1
ADAPTER = "LoRA"  # in place of a model's class: the file holds an adapter


def checksum(tensor: Tensor) -> int:
    """Compute the CRC-32 of a tensor: its type, its shape, and its bytes row after row."""
    from llm_scratch.tensor_files.safetensors import pieces

    crc = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for piece in pieces(tensor):
        crc = zlib.crc32(piece, crc)
    return crc


def write_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the strings for a file's header: the metadata, and a checksum of every tensor."""
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    text = json.dumps({"version": VERSION, **metadata, "crc32": sums})
    return {METADATA_KEY: text, CHECKSUM_KEY: str(zlib.crc32(text.encode("utf-8")))}


def is_ours(texts: Mapping[str, str]) -> bool:
    """Return whether this library wrote a file's header."""
    return METADATA_KEY in texts or CHECKSUM_KEY in texts


def read_metadata(path: Path, file: TensorFile) -> dict[str, Any]:
    """Read and check what `write_metadata` wrote; the result is empty for other programs' files.

    Raises:
        WeightsError: if it or a tensor is damaged, or from a later version of this library.
    """
    tensors, texts, _ = file
    if not is_ours(texts):
        return {}
    try:
        text = texts[METADATA_KEY]
        if texts.get(CHECKSUM_KEY) != str(zlib.crc32(text.encode("utf-8", "surrogatepass"))):
            raise ValueError("its checksum does not match")
        metadata = json.loads(text)
        version, sums = metadata["version"], metadata["crc32"]
        if version == VERSION:
            saved_config(metadata)
            saved_head(metadata)
        if not isinstance(sums, dict):
            raise TypeError("its checksums are of the wrong kind")
    except (ValueError, TypeError, KeyError, RecursionError, ConfigError) as err:
        raise WeightsError(path, f"its description of the model is damaged: {err}") from err
    if version != VERSION:
        hint = f"written by another version ({version!r}, this one reads {VERSION})"
        raise WeightsError(path, f"{hint}; update llm_scratch")
    if sums.keys() != tensors.keys():
        raise WeightsError(path, "damaged: its tensors are not those that were saved")
    wrong = [name for name, stored in tensors.items() if checksum(stored.tensor) != sums[name]]
    if wrong:
        hint = f"damaged: the checksum of {', '.join(wrong[:4])} does not match"
        raise WeightsError(path, f"{hint}; use another copy")
    return metadata


def saved_config(metadata: Mapping[str, Any]) -> Any:
    """Return the configuration of the model in a file, or of an adapter's base.

    Raises:
        ValueError: if this version does not know the model, or a value is out of range.
    """
    name = metadata["model"]
    if name == ADAPTER:
        name = metadata.get("base_model", "GPTModel")  # older adapters do not name it
    return config_of_saved(str(name), metadata["config"])


def saved_head(metadata: Mapping[str, Any]) -> Head | None:
    """Return the head that a file states; None for a language model's, or if none is stated.

    Raises:
        ValueError: if the description is damaged.
    """
    if isinstance(head := metadata.get("head"), dict):
        found = Head.from_dict(head)
        return None if found.kind == "tokens" else found
    n_out = metadata.get("n_out")  # the form of older versions
    if n_out is None:
        return None
    return Head.from_dict({"kind": "classes", "size": n_out, "bias": True})
