"""Files of `torch.save` (`.pth`, `.pt`, `.bin`): tensors and plain values, never code."""

from __future__ import annotations

import pickletools
import re
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
from llm_scratch.tensor_files.stored import Stored, TensorFile

# The keys under which training programs save a model's state dict: the book's and others',
# Lightning's, nanoGPT's, DeepSpeed's.
PLACES = ("model_state_dict", "state_dict", "model", "module")
MOST_PLACES = 3  # nested keys; a dict may hold itself
MAGIC = 0x1950A86A20F9469CFC6C  # begins files that torch.save wrote before PyTorch 1.6


def read_pickle(path: Path) -> TensorFile:
    """Read the tensors in a file of `torch.save`; only plain values are unpickled."""
    size = path.stat().st_size
    loaded = load_plain(path, mmap=True)
    found = _state_dict(path, loaded)
    for name, tensor in found.items():
        _check_tensor(path, name, tensor, size)
    settings = loaded.get("model_args") if isinstance(loaded, Mapping) else None
    tensors = {name: Stored(tensor, path) for name, tensor in found.items()}
    return TensorFile(tensors, {}, dict(settings) if isinstance(settings, Mapping) else None)


def load_plain(path: Path, *, mmap: bool = False) -> Any:
    """Load the tensors and plain values in a file of `torch.save`, verifying its checksums.

    Args:
        path: the file.
        mmap: whether tensors stay in the file until they are used, if its format allows.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is damaged, or holds anything else, which is never run.
    """
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        if zipped:
            _check_zip(path)
        else:
            _check_old_pickle(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipped)
    except WeightsError:
        raise
    except UnpicklingError as err:
        named = re.search(r"GLOBAL ([\w.]+)", str(err))
        what = f" ({named[1][:80]})" if named else ""
        raise WeightsError(
            path,
            f"refused: it holds code or objects other than tensors and plain values{what}, or is "
            "damaged; it was not run; torch.save the state_dict alone, with the program that wrote "
            "it",
        ) from err
    except Exception as err:  # a foreign format: whatever breaks its parser, the file is bad
        raise WeightsError(path, f"damaged or cut off: {first_line(err)}") from err


def _check_zip(path: Path) -> None:
    """Refuse an archive that claims more than it holds, or whose checksums do not match.

    The checksums take a fifth of a second for 500 MB.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("its records are compressed, which torch.save never does")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise ValueError("its records claim more bytes than the file has")
        # All are 0 after torch.serialization.set_crc32_options(False).
        if any(record.CRC for record in records) and (wrong := archive.testzip()):
            hint = f"damaged: the checksum of {wrong[:60]!r} in it does not match"
            raise WeightsError(path, f"{hint}; use another copy")


def _check_old_pickle(path: Path) -> None:
    """Refuse a file from before PyTorch 1.6 that claims sizes beyond its own."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        for number in range(4):  # a magic number, a version, facts about the machine, the object
            arguments = [argument for _, argument, _ in pickletools.genops(file)]
            if number == 0 and MAGIC not in arguments:
                raise WeightsError(
                    path,
                    "is a pickle that torch.save did not write, not a file of weights, and was not "
                    "run; save a state_dict with torch.save",
                )
            for argument in arguments:
                if number == 3 and isinstance(argument, int) and abs(argument) > size:
                    raise ValueError(f"claims {argument} numbers in {size} bytes")


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    """Return the state dict in a saved object: the object itself, or part of a checkpoint."""
    for _ in range(MOST_PLACES):
        found = isinstance(loaded, Mapping)
        places = [name for name in PLACES if found and isinstance(loaded.get(name), Mapping)]
        if not places:
            break
        if len(places) > 1:
            raise WeightsError(
                path, f"holds models under {' and '.join(places)}; save the one that is meant"
            )
        loaded = loaded[places[0]]
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
