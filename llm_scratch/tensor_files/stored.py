"""A tensor in a file: mapped, inspected at no cost, and read only when needed."""

from __future__ import annotations

import io
import math
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_scratch.tensor_files.errors import WeightsError

CHUNK_BYTES = 1 << 20  # fits in a processor's cache
LARGE_PAGE = 1 << 21
ALIGNMENT = 64  # a cache line, to which PyTorch also aligns its tensors
MOST_THREADS = 4  # more do not read faster
Octets = NDArray[np.uint8]


class Packed(Protocol):
    """Numbers that must be computed from a file's bytes, such as quantised ones."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def unpack(self) -> Tensor:
        """Compute the tensor, in memory of its own."""
        ...


@dataclass
class Stored:
    """One tensor of a file.

    Args:
        numbers: the tensor, usually mapped, so that its memory is the file until it is written to;
            or packed numbers, which are not kept in unpacked form.
        path: the file with its bytes.
        offset: the byte at which they begin, row after row; None if it may only be read through
            `tensor`.
        thirds: the thirds of its last axis, set by `reading_thirds`.
    """

    numbers: Tensor | Packed
    path: Path
    offset: int | None = None
    thirds: tuple[Tensor, ...] | None = None

    @property
    def tensor(self) -> Tensor:
        """The tensor; packed numbers are computed at every access, so access it once."""
        return self.numbers if isinstance(self.numbers, Tensor) else self.numbers.unpack()

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.numbers.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's type; for packed numbers, the type they are unpacked to."""
        return self.numbers.dtype

    @property
    def nbytes(self) -> int:
        """The tensor's size in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """The number of bytes in one row along the last axis."""
        return self.shape[-1] * self.dtype.itemsize

    def rows(self) -> Iterator[tuple[int, Octets]]:
        """Yield the bytes of all rows, a few rows at a time, with the number of the first row."""
        n_rows = self.nbytes // self.row_bytes
        step = max(1, CHUNK_BYTES // self.row_bytes)
        if self.offset is None:
            data = self.tensor.contiguous().view(-1).view(torch.uint8).numpy()
            yield 0, data.reshape(n_rows, self.row_bytes)
            return
        buffer = np.empty((min(step, n_rows), self.row_bytes), dtype=np.uint8)
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            for start in range(0, n_rows, step):
                chunk = buffer[: n_rows - start]
                fill(chunk.reshape(-1), file, self.path)
                yield start, chunk


class TensorFile(NamedTuple):
    """The tensors of a file by name, the strings in its header, and nanoGPT's `model_args`."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]
    settings: dict[str, Any] | None = None


@contextmanager
def reading_thirds(tensors: Iterable[Stored]) -> Iterator[None]:
    """Read the three thirds of each tensor's last axis into `thirds`, in the background.

    Each third is dense, with storage of its own. They are read from the file rather than through
    the map, since mapped *and* copied pages would both count as memory of the process.
    """
    tensors = list(tensors)
    room = fresh_memory(sum(_rounded(stored.nbytes) for stored in tensors))
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        running, start = [], 0
        for stored in tensors:
            running.append(pool.submit(_set_thirds, stored, room[start : start + stored.nbytes]))
            start += _rounded(stored.nbytes)
        yield
        for each in running:
            each.result()


def thirds_of(stored: Stored) -> tuple[Tensor, ...]:
    """Return the three thirds of a tensor's last axis, reading them unless that was done before."""
    if stored.thirds is None:
        _set_thirds(stored, fresh_memory(stored.nbytes))
    return stored.thirds or ()


def _set_thirds(stored: Stored, room: Octets) -> None:
    width = stored.row_bytes // 3
    blocks = room.reshape(3, -1, width)
    for start, rows in stored.rows():
        for third, block in enumerate(blocks):
            block[start : start + len(rows)] = rows[:, third * width : (third + 1) * width]
    shape = (*stored.shape[:-1], stored.shape[-1] // 3)
    stored.thirds = tuple(
        torch.from_numpy(block.reshape(-1)).view(stored.dtype).view(shape) for block in blocks
    )


def _rounded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def fresh_memory(n_bytes: int) -> Octets:
    """Allocate memory that will be overwritten in full, aligned to a multiple of 64 bytes.

    If the system has large pages, the allocation takes a fifth of the time.
    """
    if n_bytes >= LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # switched off: small pages will do
            memory.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(memory, dtype=np.uint8)
    return torch.empty(n_bytes, dtype=torch.uint8).numpy()


def fill(data: Octets, file: io.BufferedReader, path: Path) -> None:
    """Fill `data` with bytes from an open file.

    Raises:
        WeightsError: if the file is too short.
    """
    if file.readinto(data.data) < len(data):
        raise WeightsError(path, "became shorter while it was read")


def owned(tensor: Tensor) -> Tensor:
    """Return the tensor itself if it is dense and alone in its storage, else a copy that is.

    The fused optimizers step through the memory of a parameter, its gradient and its averages in
    parallel, and give wrong results if their layouts differ.
    """
    if tensor.untyped_storage().nbytes() == tensor.nbytes and is_dense(tensor):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def is_dense(tensor: Tensor) -> bool:
    """Return whether the numbers fill their memory without gaps, in any order of axes."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).is_contiguous()
