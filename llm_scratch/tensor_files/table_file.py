"""The sorted table of keys and values that holds TensorFlow's index (LevelDB's layout)."""

from __future__ import annotations

from pathlib import Path

from llm_scratch.tensor_files.crc32c import crc32c, unmask
from llm_scratch.tensor_files.errors import WeightsError

FOOTER_SIZE = 48
TRAILER_SIZE = 5  # one byte for the compression, four for the checksum
MAGIC = 0xDB4775248B80FB57
PLAIN, SNAPPY = 0, 1
LONGEST_KEY = 1024  # shared prefixes make keys cheap in the file: a hostile file could claim GBs


class DamagedError(Exception):
    """A fault inside the table; the caller adds the path."""


def read_table(path: Path) -> list[tuple[bytes, bytes]]:
    """Read all keys with their values, in order; every checksum, length and offset is checked.

    Raises:
        WeightsError: if the file is not such a table.
        DamagedError: if it is damaged.
        FileNotFoundError: if there is no such file.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - FOOTER_SIZE))
        footer = file.read(FOOTER_SIZE)
        if len(footer) < FOOTER_SIZE or int.from_bytes(footer[-8:], "little") != MAGIC:
            raise WeightsError(
                path, "not the index of a TensorFlow checkpoint, or cut off; download it again"
            )
        file.seek(0)
        content = file.read()
    footer = content[-FOOTER_SIZE:]
    meta_handle, position = _read_handle(footer, 0)
    index_handle, position = _read_handle(footer, position)
    if any(footer[position:-8]):
        raise DamagedError("its footer was altered")
    _read_block(content, meta_handle)  # empty in checkpoints, but its checksum is verified
    entries: list[tuple[bytes, bytes]] = []
    end = 0
    for _, handle in _entries_of_block(_read_block(content, index_handle)):
        (offset, size), _ = _read_handle(handle, 0)
        if offset < end:  # a block named twice costs the reader more than the writer
            raise DamagedError("its blocks overlap")
        end = offset + size
        entries += _entries_of_block(_read_block(content, (offset, size)))
    for (before, _), (after, _) in zip(entries, entries[1:], strict=False):
        if before >= after:
            raise DamagedError("its names are not in order")
    return entries


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits per byte, low bits first; return it and the next position."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte == 0 and shift:
            break  # no writer adds a byte without information
        if byte < 0x80:
            return value, position
    raise DamagedError("a number without an end, or longer than it needs to be")


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def _read_block(content: bytes, handle: tuple[int, int]) -> bytes:
    """Return a block's bytes, checked against its checksum and decompressed."""
    offset, size = handle
    end = offset + size
    if end + TRAILER_SIZE > len(content) - FOOTER_SIZE:
        raise DamagedError(f"a block ends at byte {end}, beyond the end of the file")
    stored = int.from_bytes(content[end + 1 : end + TRAILER_SIZE], "little")
    if crc32c(content[offset : end + 1]) != unmask(stored):
        raise DamagedError(f"the checksum of the block at byte {offset} does not match")
    block, compression = content[offset:end], content[end]
    if compression == SNAPPY:
        return unsnappy(block)
    if compression != PLAIN:
        raise DamagedError(f"compression {compression} is unknown (0 plain, 1 snappy)")
    return block


def _entries_of_block(block: bytes) -> list[tuple[bytes, bytes]]:
    """Return the keys and values of one block; a key shares a prefix with the one before it."""
    n_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (n_restarts + 1)
    if len(block) < 4 or end < 0:
        raise DamagedError("a block is too short for its table of restarts")
    entries = []
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        value_size, position = read_varint(block, position)
        if shared > len(key) or position + unshared + value_size > end:
            raise DamagedError("an entry reaches beyond its block")
        if shared + unshared > LONGEST_KEY:
            raise DamagedError(f"a name has more than {LONGEST_KEY} bytes")
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        entries.append((key, block[position : position + value_size]))
        position += value_size
    return entries


def unsnappy(data: bytes) -> bytes:
    """Return the decompressed form of bytes that snappy compressed.

    Source:
        google/snappy, format_description.txt.
    """
    size, position = read_varint(data, 0)
    if size > 22 * len(data):  # three bytes give at most 64: a larger claim is false
        raise DamagedError(f"{len(data)} packed bytes claim to hold {size}")
    out = bytearray()
    while position < len(data) and len(out) <= size:
        tag = data[position]
        kind, high = tag & 3, tag >> 2
        n_bytes = (max(0, high - 59), 1, 2, 4)[kind]  # of the number after the tag
        number = int.from_bytes(_cut(data, position + 1, n_bytes), "little")
        position += 1 + n_bytes
        if kind == 0:
            length = (number if n_bytes else high) + 1
            out += _cut(data, position, length)
            position += length
            continue
        length, distance = high + 1, number
        if kind == 1:
            length, distance = (high & 7) + 4, (tag >> 5) << 8 | number
        if not 0 < distance <= len(out):
            raise DamagedError("a packed copy reaches before the start")
        for _ in range(length):  # byte by byte: a copy may overlap itself
            out.append(out[-distance])
    if len(out) != size:
        raise DamagedError(f"packed bytes give {len(out)}, not the {size} they claim")
    return bytes(out)


def _cut(data: bytes, position: int, n_bytes: int) -> bytes:
    if position + n_bytes > len(data):
        raise DamagedError("packed bytes are cut off")
    return data[position : position + n_bytes]
