"""Files of tensors: safetensors, and PyTorch's own (`.pth`, `.pt`, `.bin`); read, and written.

Every length and offset that comes from a file is checked before it is used.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llm_scratch.weights.errors import WeightsError
from llm_scratch.weights.stored import Stored

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 16 << 20  # about 150,000 tensors
LONGEST_JSON = 1 << 20
MOST_DIMS = 32


class TensorFile(NamedTuple):
    """The tensors of a file by name, and the texts that came with them."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]


def read_tensors(path: Path, mapped: bool = True) -> TensorFile:
    """The tensors of a file, by its first bytes.

    Args:
        path: the file.
        mapped: leave the numbers in the file until they are used; False reads safetensors now.

    Raises:
        FileNotFoundError: if there is no file.
        WeightsError: if it is damaged, holds code, or is no file of tensors.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    # What a file is called must not decide whether code in it could run.
    if start[:4] == b"PK\x03\x04":
        return TensorFile(_read_pickle(path, mmap=True), {})
    if start[8:9] == b"{":
        return _read_safetensors(path, mapped)
    if start[:1] == b"\x80":
        return TensorFile(_read_pickle(path, mmap=False), {})
    kind = "empty" if not start else "neither safetensors nor a file of torch.save"
    raise WeightsError(path, f"{kind}, or cut off; download or save it again")


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that holds an object.

    Raises:
        FileNotFoundError: if there is no file.
        WeightsError: if it is damaged.
    """
    with open(path, "rb") as file:
        data = file.read(LONGEST_JSON + 1)
    if len(data) > LONGEST_JSON:
        raise WeightsError(path, f"more than {LONGEST_JSON} bytes: no configuration")
    return _parse_json(path, data)


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise WeightsError(path, f"damaged: {_first_line(err)}; download it again") from err
    if not isinstance(value, dict):
        raise WeightsError(path, "damaged: its JSON is no object; download it again")
    return value


def _read_safetensors(path: Path, mapped: bool) -> TensorFile:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LONGEST_HEADER):
            raise WeightsError(
                path, f"claims a header of {length} bytes in a file of {size}: cut off or damaged"
            )
        header = _parse_json(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightsError(path, "damaged: its metadata are no texts; download it again")
    start = 8 + length
    places = {name: _place(path, name, entry) for name, entry in header.items()}
    _check_no_holes(path, places, size - start)
    if mapped and places:
        # Mode "c": pages are shared with the file until somebody writes to them.
        whole: np.ndarray = np.memmap(path, dtype=np.uint8, mode="c")
    else:
        whole = np.fromfile(path, dtype=np.uint8)
    tensors = {}
    for name, (dtype, shape, begin, end) in places.items():
        tensors[name] = stored(whole, path, start + begin, start + end, dtype, shape)
    return TensorFile(tensors, metadata)


def stored(
    whole: np.ndarray, path: Path, begin: int, end: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> Stored:
    """One tensor out of a file's mapped bytes."""
    if begin == end:
        return Stored(torch.empty(shape, dtype=dtype), path)
    data = torch.from_numpy(whole[begin:end])
    if data.data_ptr() % dtype.itemsize:  # some writers do not align: kernels may insist on it
        data = data.clone()
    return Stored(data.view(dtype).view(shape), path, begin)


def _place(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """Type, shape, first and last byte of a tensor, from its entry in the header."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError) as err:
        raise WeightsError(path, f"damaged: the entry of {name[:60]!r} is incomplete") from err
    if not all(type(n) is int and 0 <= n < 1 << 59 for n in numbers) or len(shape) > MOST_DIMS:
        raise WeightsError(path, f"damaged: the entry of {name[:60]!r} holds wrong numbers")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise WeightsError(path, f"{name[:60]!r} is of type {dtype!r}; known are {known}")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != size or math.prod(max(n, 1) for n in shape) >= 1 << 59:
        raise WeightsError(
            path, f"damaged: {name[:60]!r} of shape {tuple(shape)} has {end - begin} bytes"
        )
    return DTYPES[dtype], tuple(shape), begin, end


def _check_no_holes(path: Path, places: Mapping[str, tuple[Any, ...]], size: int) -> None:
    end = 0
    for _, _, begin, its_end in sorted(places.values(), key=lambda place: place[2:]):
        if begin != end:
            raise WeightsError(path, f"damaged: tensors overlap or leave a hole at byte {end}")
        end = its_end
    if end != size:
        raise WeightsError(
            path, f"its header speaks of {end} bytes, the file holds {size}: cut off or damaged"
        )


def _read_pickle(path: Path, mmap: bool) -> dict[str, Stored]:
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
        raise WeightsError(path, f"damaged or cut off: {_first_line(err)}") from err
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
    if tensor.numel() * tensor.element_size() > storage or storage > size:
        raise WeightsError(
            path, f"{name[:60]!r} claims {tensor.numel()} numbers, more than the file holds"
        )


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors to a file, one at a time, beside the target; renamed when it is complete."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entry = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**entry, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                file.write(octets(tensors[name]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def octets(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row after row."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _first_line(err: BaseException) -> str:
    text = str(err).strip() or type(err).__name__
    return text.splitlines()[0][:200]
