"""Files of `torch.save` (`.pth`, `.pt`, `.bin`): tensors and plain values, never code."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from llm_scratch.files import first_line
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.safetensors import NAMES
from llm_scratch.tensor_files.stored import Stored


def read_pickle(path: Path, mmap: bool) -> dict[str, Stored]:
    """The tensors in a file of `torch.save`; nothing that is not a plain value gets unpickled."""
    size = path.stat().st_size
    try:
        if mmap:
            _check_zip(path, size)
        else:
            _check_old_pickle(path, size)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError as err:
        raise WeightsError(
            path,
            "refused: it holds code or objects other than tensors and plain values, or is damaged;"
            " save a state_dict() and load that",
        ) from err
    except Exception as err:  # a foreign format: whatever its parser trips over, the file is bad
        raise WeightsError(path, f"damaged or cut off: {first_line(err)}") from err
    found = _state_dict(path, loaded)
    for name, tensor in found.items():
        _check_tensor(path, name, tensor, size)
    return {name: Stored(tensor, path) for name, tensor in found.items()}


def _check_zip(path: Path, size: int) -> None:
    """Refuse an archive whose records are packed, or claim more than the file holds."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("its records are packed, which torch.save never does")
    if sum(record.file_size for record in records) > size:
        raise ValueError("its records claim more bytes than the file has")


def _check_old_pickle(path: Path, size: int) -> None:
    """Refuse a file from before PyTorch 1.6 that claims sizes beyond its own."""
    with open(path, "rb") as file:
        for number in range(4):  # a magic number, a version, facts on the machine, the object
            for _, argument, _ in pickletools.genops(file):
                if number == 3 and isinstance(argument, int) and abs(argument) > size:
                    raise ValueError(f"speaks of {argument} numbers in {size} bytes")


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The state dict in what was saved: itself, or the part of a training checkpoint."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model_state_dict"), Mapping):
        loaded = loaded["model_state_dict"]
    if not isinstance(loaded, Mapping):
        raise WeightsError(
            path, f"holds a {type(loaded).__name__}, not a state dict; save model.state_dict()"
        )
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise WeightsError(path, f"{str(name)[:60]!r} is a {kind}; a state dict holds tensors")
    return dict(loaded)


def _check_tensor(path: Path, name: str, tensor: Tensor, size: int) -> None:
    dtype_known = tensor.dtype in NAMES and tensor.layout is torch.strided
    if not dtype_known or tensor.device.type != "cpu" or tensor.is_quantized:
        raise WeightsError(path, f"{name[:60]!r} is of type {tensor.dtype}, {tensor.layout}")
    storage = tensor.untyped_storage().nbytes()
    if tensor.nbytes > storage or storage > size:
        raise WeightsError(
            path, f"{name[:60]!r} claims {tensor.numel()} numbers, more than the file holds"
        )
