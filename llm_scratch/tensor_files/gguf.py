"""GGUF files, llama.cpp's format: keys that describe a model, and its tensors by name.

Plain numbers stay mapped in the file. Quantised numbers are computed on demand by the `gguf`
package, a few at a time, so that a model needs little more memory than its own numbers.

Source:
    The format's description in the repository ggml-org/ggml, docs/gguf.md; the sizes of the blocks
    of quantised numbers in ggml's ggml-common.h.
"""

from __future__ import annotations

import importlib.util
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_scratch.files import PathLike
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.gguf_header import Entry, Header, read_header
from llm_scratch.tensor_files.stored import Octets, Stored, fill, fresh_memory

# The format's numbers for the types of tensors: first those that PyTorch also has.
PLAIN = {
    0: ("F32", torch.float32),
    1: ("F16", torch.float16),
    24: ("I8", torch.int8),
    25: ("I16", torch.int16),
    26: ("I32", torch.int32),
    27: ("I64", torch.int64),
    28: ("F64", torch.float64),
    30: ("BF16", torch.bfloat16),
}
# Then the quantised ones: the numbers per block, and the bytes per block.
QUANTISED = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
}
# And the existing types that are not supported here.
OTHERS = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}
CHUNK_NUMBERS = 1 << 16  # computed at once, so that intermediate results stay in the cache


class GGUFFile(NamedTuple):
    """A GGUF file.

    Args:
        keys: the file's description of its model and tokenizer: numbers, booleans, strings, and
            lists of one of these.
        tensors: the tensors by the file's names, in the shapes that PyTorch would give them.
        types: the type of each tensor in the file, such as "F32" or "Q4_1".
        version: the version of the format, 2 or 3.
    """

    keys: dict[str, Any]
    tensors: dict[str, Stored]
    types: dict[str, str]
    version: int


@dataclass
class Quantised:
    """Numbers in blocks, each of integers of a few bits with a scale.

    Args:
        path: the file they are in.
        offset: the byte at which they begin.
        shape: the tensor's shape; a row is a whole number of blocks.
        kind: the format's number for their type.
        dtype: the type they are unpacked to.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    kind: int
    dtype: torch.dtype = torch.float32

    def unpack(self) -> Tensor:
        """Compute the tensor, in memory of its own.

        Raises:
            WeightsError: if the `gguf` package is missing, or the file has become shorter.
        """
        kind, block, block_bytes = QUANTISED[self.kind]
        check_package(self.path, f"its {kind} numbers need")
        n_blocks = math.prod(self.shape) // block
        numbers = fresh_memory(4 * block * n_blocks).view(np.float32)
        step = CHUNK_NUMBERS // block
        buffer = np.empty(min(step, n_blocks) * block_bytes, dtype=np.uint8)
        # Not read through the map, whose pages would also count as memory of the process.
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for start in range(0, n_blocks, step):
                data = buffer[: (n_blocks - start) * block_bytes]
                fill(data, file, self.path)
                stop = (start + step) * block
                numbers[start * block : stop] = _dequantised(data, self.kind)
        return torch.from_numpy(numbers).view(self.shape)


def check_package(path: Path, what: str) -> None:
    """Refuse an operation that needs the `gguf` package if it is missing.

    Raises:
        WeightsError: with the command that installs it.
    """
    if importlib.util.find_spec("gguf") is None:
        hint = "the gguf package, which is not installed: pip install gguf"
        raise WeightsError(path, f"{what} {hint}")


def _dequantised(data: Octets, kind: int) -> NDArray[np.float32]:
    """Compute the numbers of a few blocks: (bytes,) -> (numbers,)."""
    import gguf

    with np.errstate(all="ignore"):  # a scale may be infinite in a damaged file
        numbers: NDArray[np.float32] = gguf.dequantize(data[None], gguf.GGMLQuantizationType(kind))
    return numbers[0]


def read_gguf(path: PathLike) -> GGUFFile:
    """Read the keys of a GGUF file and find its tensors; all is checked, but no tensor is read.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is damaged, big-endian, of another version, or has tensors of an
            unsupported type.
    """
    path = Path(path)
    with open(path, "rb") as file:
        if path.stat().st_size < 4:
            raise WeightsError(path, "is empty or cut off, not a GGUF file; download it again")
        # Pages are shared with the file until they are written to.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    header = read_header(path, data)
    sizes = {entry.name: _size(path, entry) for entry in header.entries}
    _check_places(path, header, sizes, len(data))
    octets = np.frombuffer(data, dtype=np.uint8)
    tensors = {e.name: _stored(path, e, header.data_start, octets, sizes) for e in header.entries}
    types = {entry.name: _type_name(entry.kind) for entry in header.entries}
    return GGUFFile(header.keys, tensors, types, header.version)


def _type_name(kind: int) -> str:
    known = PLAIN.get(kind) or QUANTISED.get(kind)
    return known[0] if known else OTHERS.get(kind, f"number {kind}")


def _size(path: Path, entry: Entry) -> int:
    """Return the number of bytes of a tensor in the file, after checking its shape and type."""
    name = entry.name[:60]
    if math.prod(max(size, 1) for size in entry.shape) >= 1 << 59:
        hint = f"damaged: {name!r} can't have the shape {entry.shape}; download it again"
        raise WeightsError(path, hint)
    count = math.prod(entry.shape)
    if entry.kind in PLAIN:
        return count * PLAIN[entry.kind][1].itemsize
    if entry.kind not in QUANTISED:
        known = ", ".join(map(_type_name, (*PLAIN, *QUANTISED)))
        raise WeightsError(
            path,
            f"{name!r} is of type {_type_name(entry.kind)}, which is not supported ({known} are); "
            "use a file of the model in one of these, as llama-quantize writes them",
        )
    kind, block, block_bytes = QUANTISED[entry.kind]
    if not entry.shape or entry.shape[-1] % block:
        raise WeightsError(
            path,
            f"damaged: {name!r} of shape {entry.shape} is of type {kind}, whose rows are multiples "
            f"of {block}; download it again",
        )
    return count // block * block_bytes


def _check_places(path: Path, header: Header, sizes: dict[str, int], file_size: int) -> None:
    """Refuse tensors that overlap, leave a gap, or do not end where the file does."""
    end = header.data_start
    padded = _rounded(end, header.alignment)
    for entry in sorted(header.entries, key=lambda entry: (entry.offset, sizes[entry.name])):
        if header.data_start + entry.offset != padded:
            raise WeightsError(
                path,
                f"damaged: {entry.name[:60]!r} begins at byte {header.data_start + entry.offset} "
                f"instead of {padded}: tensors overlap or leave a gap; download it again",
            )
        end = padded + sizes[entry.name]
        padded = _rounded(end, header.alignment)
    if not end <= file_size <= padded:
        raise WeightsError(
            path,
            f"its header claims {end} bytes, the file holds {file_size}: cut off or damaged; "
            "download it again",
        )


def _rounded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _stored(
    path: Path, entry: Entry, data_start: int, octets: Octets, sizes: dict[str, int]
) -> Stored:
    """Return one tensor: a view of the mapped file, or packed numbers."""
    start = data_start + entry.offset
    if entry.kind in QUANTISED:
        return Stored(Quantised(path, start, entry.shape, entry.kind), path)
    dtype = PLAIN[entry.kind][1]
    data = torch.from_numpy(octets[start : start + sizes[entry.name]])
    if data.data_ptr() % dtype.itemsize:  # kernels may need more alignment than the file has
        data = data.clone()
    return Stored(data.view(dtype).view(entry.shape), path, start)
