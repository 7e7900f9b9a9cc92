"""TensorFlow's checkpoints, read without TensorFlow.

A checkpoint consists of an index, which is a sorted table from names to places, and one or more
files of raw numbers ("shards"). The index is small and read immediately; the numbers are mapped
into memory.

Source:
    tensorflow/core/protobuf/tensor_bundle.proto; google/leveldb, doc/table_format.md.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_scratch.tensor_files.crc32c import crc32c, unmask
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import MOST_THREADS
from llm_scratch.tensor_files.table_file import DamagedError, read_table, read_varint

# TensorFlow's numbers for the types of tensors. numpy has no bfloat16: its bits are read as uint16.
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
STRING = 7
MOST_DIMS = 32


@dataclass(frozen=True)
class BundleEntry:
    """The place of one tensor: `dtype` by name, `size` in bytes, `checksum` of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int | None


class TensorBundle:
    """A TensorFlow checkpoint: names, shapes and types immediately, numbers on demand.

    `skipped` names the entries that cannot be read as arrays (strings, sliced tensors), with the
    reasons.

    Args:
        path: the checkpoint's prefix ("model.ckpt"), its `.index` file, or its folder.

    Raises:
        FileNotFoundError: if a file of the checkpoint is missing.
        WeightsError: if the index is damaged, or does not fit the files of numbers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = find_index(Path(path))
        self.skipped: dict[str, str] = {}
        self._entries: dict[str, BundleEntry] = {}
        self._n_shards = 0
        try:
            self._read_index()
        except DamagedError as err:
            raise WeightsError(self.path, f"damaged index: {err}; download it again") from err
        shards = {entry.shard for entry in self._entries.values()}
        self._maps = {shard: self._map_shard(shard) for shard in shards}

    def names(self) -> list[str]:
        """Return the names of all tensors that can be read, sorted."""
        return list(self._entries)

    def entry(self, name: str) -> BundleEntry:
        """Return the shape, type and place of one tensor.

        Raises:
            KeyError: if there is no such tensor.
        """
        try:
            return self._entries[name]
        except KeyError:
            reason = self.skipped.get(name, f"the first of its names are {self.names()[:5]}")
            raise KeyError(f"{self.path} has no tensor {name!r} to read: {reason}") from None

    def read(self, name: str, *, verify: bool = False) -> NDArray[Any]:
        """Return one tensor as an array mapped from its file; writing to it changes only memory.

        bfloat16 is returned as its bits, in uint16.

        Args:
            name: one of `names()`.
            verify: whether to verify its checksum, which reads every byte.

        Raises:
            KeyError: if there is no such tensor.
            WeightsError: if its checksum does not match.
        """
        entry = self.entry(name)
        data = self._maps[entry.shard][entry.offset : entry.offset + entry.size]
        # Not read through the map: pages mapped and later copied would both count as memory.
        if verify and entry.checksum is not None and self._checksum(entry) != entry.checksum:
            hint = f"the checksum of {name!r} does not match; download it again"
            raise WeightsError(self.shard_path(entry.shard), hint)
        return data.view(_numpy_dtype(entry.dtype)).reshape(entry.shape)

    def _checksum(self, entry: BundleEntry) -> int:
        path = self.shard_path(entry.shard)
        return crc32c(np.fromfile(path, np.uint8, entry.size, offset=entry.offset))

    def verify(self) -> None:
        """Verify the checksum of every tensor: about 2 seconds for 500 MB on two cores.

        Raises:
            WeightsError: at the first that does not match.
        """
        with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(partial(self.read, verify=True), self.names()):
                pass

    def shard_path(self, shard: int) -> Path:
        """Return the path of one file of numbers."""
        prefix = self.path.name.removesuffix(".index")
        return self.path.with_name(f"{prefix}.data-{shard:05d}-of-{self._n_shards:05d}")

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _read_index(self) -> None:
        table = read_table(self.path)
        if not table or table[0][0] != b"":
            raise DamagedError("it has no header")
        header = _numbers(table[0][1])
        if header.get(2, 0) != 0:
            raise WeightsError(self.path, "written on a big-endian machine, which is not supported")
        self._n_shards = header.get(1, 0)
        for key, value in table[1:]:
            try:
                name = key.decode("utf-8")
            except UnicodeDecodeError:
                raise DamagedError(f"the name {key[:40]!r} is not UTF-8") from None
            entry = self._read_entry(name, value)
            if entry is not None:
                self._entries[name] = entry

    def _read_entry(self, name: str, data: bytes) -> BundleEntry | None:
        shapes = [_shape(record) for record in _records(data, 2)]
        numbers, sliced = _numbers(data), any(field == 7 for field, _ in _fields(data))
        shape = shapes[-1] if shapes else ()
        dtype, shard, offset, size = (numbers.get(field, 0) for field in (1, 3, 4, 5))
        if dtype == STRING or dtype not in DTYPES or sliced:
            kind = "strings" if dtype == STRING else "kept in slices" if sliced else f"type {dtype}"
            self.skipped[name] = kind
            return None
        expected = math.prod(shape) * _numpy_dtype(DTYPES[dtype]).itemsize
        if size != expected:
            raise DamagedError(f"{name!r} of shape {shape} has {size} bytes, not {expected}")
        if shard >= self._n_shards:
            raise DamagedError(f"{name!r} is in shard {shard} of {self._n_shards}")
        checksum = unmask(numbers[6]) if 6 in numbers else None
        return BundleEntry(name, DTYPES[dtype], shape, shard, offset, size, checksum)

    def _map_shard(self, shard: int) -> NDArray[np.uint8]:
        path = self.shard_path(shard)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: it holds the numbers of {self.path.name}")
        size = path.stat().st_size
        needed = max(e.offset + e.size for e in self._entries.values() if e.shard == shard)
        if needed > size:
            hint = f"{size} bytes, but {self.path.name} needs {needed}: cut off; download it again"
            raise WeightsError(path, hint)
        # Mode "c": pages are shared with the file until they are written to.
        return np.memmap(path, dtype=np.uint8, mode="c") if size else np.empty(0, np.uint8)


def find_index(path: Path) -> Path:
    """Return the `.index` file of a checkpoint given by its folder, prefix, or any of its files.

    In a folder, it is the one that the file `checkpoint` names, or the only one.

    Raises:
        FileNotFoundError: if there is none.
        WeightsError: if a folder holds several and does not name one.
    """
    if path.is_dir():
        return _index_of_folder(path)
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    index = path.with_name(f"{prefix}.index")
    if not index.is_file():
        raise FileNotFoundError(
            f"{index} does not exist; name a TensorFlow checkpoint by its folder, or by its "
            "path without .index"
        )
    return index


def _index_of_folder(folder: Path) -> Path:
    found = sorted(folder.glob("*.index"))
    state = folder / "checkpoint"
    if state.is_file() and state.stat().st_size < 1 << 20:
        text = state.read_text(encoding="utf-8", errors="replace")
        latest = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', text, flags=re.MULTILINE)
        # TensorFlow may record the absolute path of another machine, so only the last part counts.
        name = re.split(r"[/\\]", latest.group(1))[-1] if latest else ""
        if folder / f"{name}.index" in found:
            return folder / f"{name}.index"
    if len(found) == 1:
        return found[0]
    if not found:
        raise FileNotFoundError(f"{folder} has no TensorFlow checkpoint (a file NAME.index)")
    raise WeightsError(folder, f"holds {len(found)} checkpoints; name one: {found[-1]}")


def _numpy_dtype(name: str) -> np.dtype[Any]:
    little = "uint16" if name == "bfloat16" else name
    return np.dtype(little).newbyteorder("<")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and value of each field of a protocol buffer."""
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = read_varint(data, position)
            yield field, value
            continue
        if wire == 2:
            size, position = read_varint(data, position)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or position + size > len(data):
            raise DamagedError("a record is cut off")
        chunk = data[position : position + size]
        position += size
        yield field, chunk if wire == 2 else int.from_bytes(chunk, "little")


def _numbers(data: bytes) -> dict[int, int]:
    """Return the fields that are numbers."""
    return {field: value for field, value in _fields(data) if isinstance(value, int)}


def _records(data: bytes, number: int) -> list[bytes]:
    """Return the records and strings in the fields of one number."""
    return [value for field, value in _fields(data) if field == number and type(value) is bytes]


def _shape(data: bytes) -> tuple[int, ...]:
    """Return the sizes in a shape record, which has one record per dimension with one number."""
    sizes = [_numbers(record).get(1, 0) for record in _records(data, 2)]
    n_numbers = math.prod(max(size, 1) for size in sizes[: MOST_DIMS + 1])
    if len(sizes) > MOST_DIMS or n_numbers >= 1 << 59:  # numpy's limits, at eight bytes per number
        raise DamagedError(f"a tensor of {n_numbers} numbers, {len(sizes)} dimensions, can't be")
    return tuple(sizes)
