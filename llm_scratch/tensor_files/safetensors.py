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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_scratch.files import written_whole
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.safetensors_header import read_header
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
PIECE = 4 << 20  # bytes that are written at a time
MOST_DIMS = 32


def read_safetensors(path: Path, mapped: bool = True) -> TensorFile:
    """Read the tensors of a file, mapped or at once, and the strings in its header.

    Raises:
        WeightsError: if it is damaged.
    """
    size = path.stat().st_size
    header, metadata, start = read_header(path)
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
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    seen: Callable[[memoryview], object] | None = None,
) -> None:
    """Write tensors to a file atomically, one at a time.

    The header is padded, and tensors of odd sizes come last, so that the others begin at multiples
    of 64 bytes: results of products with them then do not depend on their place in memory.

    Args:
        path: the file.
        tensors: the tensors by name; a contiguous one on the CPU is never copied.
        metadata: strings for the header.
        seen: a function that is called with all bytes of the file in order, one piece at a time, in
            another thread, such as the `update` of a hash, which may be slower than the disk.
    """
    order, header = _laid_out(tensors, metadata)
    thread, seeing = ThreadPoolExecutor(1), list[Future[object]]()
    try:
        with written_whole(path) as file:
            for piece, is_copy in _contents(header, [tensors[name] for name in order]):
                if seen is not None:
                    seeing.append(thread.submit(seen, piece))
                file.write(piece)
                if seen is not None and is_copy:
                    seeing[-1].result()  # otherwise, copies pile up if the disk is faster
        for each in seeing:
            each.result()
    finally:
        thread.shutdown(cancel_futures=True)  # after an error, some are left


def _laid_out(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[list[str], bytes]:
    """Return the order of the tensors in a file, and the header before them."""
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
    return order, len(text).to_bytes(8, "little") + text


def _contents(header: bytes, tensors: Iterable[Tensor]) -> Iterator[tuple[memoryview, bool]]:
    """Yield the bytes of a file, one piece at a time, and whether a piece is a copy."""
    yield memoryview(header), False
    for tensor in tensors:
        is_copy = not (tensor.is_cpu and tensor.is_contiguous())
        for piece in pieces(tensor):
            yield piece, is_copy


def pieces(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, row after row, at most `PIECE` at a time."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    for piece in flat.split(PIECE):
        yield piece.cpu().numpy().data
