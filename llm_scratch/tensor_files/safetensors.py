"""Safetensors files, read and written.

The `safetensors` package is not used. This reader returns tensors that stay mapped in the file,
with their place in it, so that parts of a matrix can be read without taking memory twice. This
writer takes one tensor at a time and aligns each to a multiple of 64 bytes. Every length and offset
from a file is checked before it is used. The format has no checksums: a flipped bit in the numbers
is detected only in this library's own files, which have checksums in the header.

Source:
    The format's description in the repository huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_scratch.files import parse_json, written_whole
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import ALIGNMENT, Stored, TensorFile, fill, fresh_memory

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
MOST_DIMS = 32


def read_safetensors(path: Path, mapped: bool = True) -> TensorFile:
    """Read the tensors of a file, mapped or at once, and the strings in its header.

    Raises:
        WeightsError: if it is damaged.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LONGEST_HEADER):
            raise WeightsError(
                path, f"claims a header of {length} bytes in a file of {size}: cut off or damaged"
            )
        header = parse_json(path, file.read(length), error=WeightsError)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightsError(path, "damaged: its metadata are not texts; download it again")
    start = 8 + length
    places = {name: _place(path, name, entry) for name, entry in header.items()}
    _check_no_holes(path, places, size - start)
    if mapped and places:
        # Mode "c": pages are shared with the file until they are written to.
        whole: np.ndarray = np.memmap(path, dtype=np.uint8, mode="c")
    else:
        whole = fresh_memory(size)
        with open(path, "rb") as file:
            fill(whole, file, path)
    tensors = {}
    for name, (dtype, shape, begin, end) in places.items():
        data = torch.from_numpy(whole[start + begin : start + end])
        if data.data_ptr() % dtype.itemsize:  # some writers do not align, but kernels may need it
            data = data.clone()
        tensors[name] = Stored(data.view(dtype).view(shape), path, start + begin)
    return TensorFile(tensors, metadata)


def _place(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """Return type, shape, first and last byte of a tensor, from its entry in the header."""
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
            raise WeightsError(path, f"damaged: tensors overlap or leave a gap at byte {end}")
        end = its_end
    if end != size:
        raise WeightsError(
            path, f"its header claims {end} bytes, the file holds {size}: cut off or damaged"
        )


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors to a file atomically, one at a time.

    The header is padded, and tensors of odd sizes come last, so that the others begin at multiples
    of 64 bytes: results of products with them then do not depend on their place in memory.
    """
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    order = sorted(
        tensors, key=lambda n: (sizes[n] % ALIGNMENT != 0, -tensors[n].element_size(), n)
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + sizes[name]
        entry = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**entry, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with written_whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(octets(tensors[name]))


def octets(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, row after row."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
