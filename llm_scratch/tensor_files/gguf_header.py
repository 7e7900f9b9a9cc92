"""The header of a GGUF file: its keys, and the place of each tensor; every claim is checked.

The `gguf` package is not used: its reader takes seconds for a large vocabulary, and iterates over
as many entries as a file claims to have.

Source:
    The format's description in the repository ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_scratch.tensor_files.errors import WeightsError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LONGEST_HEADER = 64 << 20  # bytes; a vocabulary of 260,000 with its merges takes 16 MB
MOST_DIMS = 4
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
LARGEST_ALIGNMENT = 1 << 20

# The format's numbers for the types of values, and numpy's name for each.
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
BOOL, STRING, ARRAY = 7, 8, 9
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
SHORTEST_KEY = 8 + 4 + 1  # the length of its name, the type, the shortest value
SHORTEST_ENTRY = 8 + 4 + 4 + 8  # the length of a tensor's name, dimensions, type, offset


class Entry(NamedTuple):
    """One tensor in the header: its shape in PyTorch's order, its offset from the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class Header(NamedTuple):
    """The content of a file before its data, and the byte at which the data begin."""

    version: int
    keys: dict[str, Any]
    entries: list[Entry]
    alignment: int
    data_start: int


def is_gguf(start: bytes) -> bool:
    """Return whether a file that begins with these bytes, four or more, is a GGUF file."""
    return start[:4] == MAGIC


def read_header(path: Path, data: mmap.mmap) -> Header:
    """Read the header of a mapped file.

    Raises:
        WeightsError: if it is damaged, of another version, or big-endian.
    """
    cursor = _Cursor(path, data)
    version = _read_version(cursor)
    n_entries, n_keys = cursor.number(U64), cursor.number(U64)
    _check_counts(cursor, n_entries, n_keys)
    keys: dict[str, Any] = {}
    for _ in range(n_keys):
        name = cursor.text("the name of a key")
        if name in keys:
            raise cursor.damaged(f"the key {name[:60]!r} is there twice")
        keys[name] = _read_value(cursor, name)
    entries: dict[str, Entry] = {}
    for _ in range(n_entries):
        entry = _read_entry(cursor)
        if entry.name in entries:
            raise cursor.damaged(f"the tensor {entry.name[:60]!r} is there twice")
        entries[entry.name] = entry
    alignment = keys.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not _is_power_of_two(alignment):
        raise cursor.damaged(f"{ALIGNMENT_KEY} is {str(alignment)[:60]}, not a power of two")
    data_start = -(-cursor.position // alignment) * alignment if entries else cursor.position
    return Header(version, keys, list(entries.values()), alignment, data_start)


class _Cursor:
    """A position in the header; each step checks that the file is long enough."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = 0
        self.end = min(len(data), LONGEST_HEADER)

    def damaged(self, what: str) -> WeightsError:
        return WeightsError(self.path, f"damaged: {what}; download it again")

    def room(self, n_bytes: int, what: str) -> int:
        """Step over some bytes and return where they begin."""
        start = self.position
        if n_bytes > self.end - start:
            if self.end < len(self.data):
                hint = f"its header has more than {LONGEST_HEADER:,} bytes, too many for a model"
                raise WeightsError(self.path, f"{hint}; download it again")
            raise WeightsError(
                self.path,
                f"cut off or damaged: at byte {start}, {what} should have {n_bytes} bytes, and "
                f"{self.end - start} are left; download it again",
            )
        self.position += n_bytes
        return start

    def number(self, form: struct.Struct, what: str = "a number of the header") -> int:
        value: int = form.unpack_from(self.data, self.room(form.size, what))[0]
        return value

    def text(self, what: str) -> str:
        start = self.room(self.number(U64), what)
        try:
            return str(self.data[start : self.position], "utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"at byte {start}, {what} is not UTF-8") from None

    def texts(self, count: int, what: str) -> list[str]:
        """Read many strings, such as a vocabulary's: a third of a microsecond each."""
        position, end, data, length_at = self.position, self.end, self.data, U64.unpack_from
        found: list[str] = []
        if 8 * count > end - position:
            self.room(8 * count, what)
        try:
            for _ in range(count):
                start = position + 8
                position = start + length_at(data, position)[0]
                if position > end:
                    break
                found.append(str(data[start:position], "utf-8"))
        except struct.error:  # no room for a length
            position = end + 1
        except UnicodeDecodeError:
            raise self.damaged(f"at byte {start}, {what} is not UTF-8") from None
        self.room(position - self.position, what)
        return found


def _read_version(cursor: _Cursor) -> int:
    magic = cursor.data[: cursor.room(4, "the mark of the format") + 4]
    if not is_gguf(magic):
        raise WeightsError(
            cursor.path, "is not a GGUF file, which begins with the letters GGUF; name another file"
        )
    version = cursor.number(U32)
    if version & 0xFFFF == 0:
        raise WeightsError(
            cursor.path,
            "is big-endian, and only little-endian files are read; convert it with "
            f"gguf-convert-endian {cursor.path.name} little (pip install gguf)",
        )
    if version not in VERSIONS:
        raise WeightsError(
            cursor.path,
            f"is GGUF of version {version}, and only versions 2 and 3 are read; convert the model "
            "again with llama.cpp's convert_hf_to_gguf.py, or download a newer file of it",
        )
    return version


def _check_counts(cursor: _Cursor, n_entries: int, n_keys: int) -> None:
    """Refuse a header that claims more than the file has room for."""
    left = cursor.end - cursor.position
    if n_keys * SHORTEST_KEY + n_entries * SHORTEST_ENTRY > left:
        raise WeightsError(
            cursor.path,
            f"claims {n_keys} keys and {n_entries} tensors in a file of {len(cursor.data)} bytes: "
            "cut off or damaged; download it again",
        )


def _read_value(cursor: _Cursor, name: str) -> Any:
    what = f"the value of {name[:60]!r}"
    kind = cursor.number(U32)
    if kind == ARRAY:
        return _read_array(cursor, what)
    if kind == STRING:
        return cursor.text(what)
    return _read_numbers(cursor, kind, 1, what)[0]


def _read_array(cursor: _Cursor, what: str) -> list[Any]:
    kind, count = cursor.number(U32), cursor.number(U64)
    if kind == ARRAY:
        raise cursor.damaged(f"{what} is an array of arrays, which no known key has")
    if kind == STRING:
        return cursor.texts(count, what)
    return _read_numbers(cursor, kind, count, what)


def _read_numbers(cursor: _Cursor, kind: int, count: int, what: str) -> list[Any]:
    if kind not in NUMBERS:
        raise cursor.damaged(f"{what} is of type {kind}, and types 0 to 12 are known")
    dtype = np.dtype(NUMBERS[kind])
    start = cursor.room(count * dtype.itemsize, what)
    values = np.frombuffer(cursor.data, dtype, count, start)
    if kind != BOOL:
        return values.tolist()
    if count and values.max() > 1:
        raise cursor.damaged(f"{what} is {values.max()}, neither true nor false")
    return values.astype(bool).tolist()


def _read_entry(cursor: _Cursor) -> Entry:
    name = cursor.text("the name of a tensor")
    n_dims = cursor.number(U32)
    if n_dims > MOST_DIMS:
        raise cursor.damaged(f"{name[:60]!r} has {n_dims} dimensions, and {MOST_DIMS} are allowed")
    sizes = [cursor.number(U64, f"the shape of {name[:60]!r}") for _ in range(n_dims)]
    # The format lists the dimension with adjacent numbers first.
    return Entry(name, tuple(reversed(sizes)), cursor.number(U32), cursor.number(U64))


def _is_power_of_two(number: int) -> bool:
    return 0 < number <= LARGEST_ALIGNMENT and number & (number - 1) == 0
