"""The header of a token file, 128 bytes: the size of each section, and two checksums.

The ids, the starts of the documents, and the tokenizer follow, with padding only before the starts,
to a multiple of eight bytes. Numbers are little-endian. A file of version 2 is a part of a corpus,
with JSON about its origin at its end: see `part_files`.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC = b"LLM-TOK\n"
VERSION = 1
PART_VERSION = 2
HEADER_BYTES = 128
# Magic, version, bytes per id, five counts, fingerprint, SHA-256 of the rest, bytes of JSON.
_LAYOUT = struct.Struct("<8sII5Q32s32sI")
_CHECKSUM = struct.Struct("<I")
_HIGHEST_VOCABULARY = 1 << 32
GPT2_IDS = 50257
NUMPY_MAGIC = b"\x93NUMPY"
LLM_C_MAGIC = (20240520).to_bytes(4, "little")
ID_MAGICS = (NUMPY_MAGIC, LLM_C_MAGIC)
TEXT_BYTES = bytes([*b"\t\n\f\r", *range(32, 256)])
REMEDY = "copy it again, or write it again with llm-scratch prepare"


class TokenFileError(ValueError):
    """A token file that is damaged, incomplete, or not a token file at all."""


class Header(NamedTuple):
    """The content of a token file's header."""

    vocab_size: int
    num_tokens: int
    num_documents: int
    num_bytes: int  # of text, in UTF-8
    tokenizer_bytes: int
    fingerprint: bytes
    sha256: bytes  # of everything after the header
    facts_bytes: int = 0  # of JSON, in a part of a corpus

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds the vocabulary."""
        return id_type(self.vocab_size)

    @property
    def documents_at(self) -> int:
        """The position of the documents' starts in the file."""
        end = HEADER_BYTES + self.num_tokens * self.dtype.itemsize
        return end + padding(end)

    @property
    def tokenizer_at(self) -> int:
        """The position of the tokenizer in the file."""
        return self.documents_at + 8 * self.num_documents

    @property
    def facts_at(self) -> int:
        """The position of a part's JSON in the file."""
        return self.tokenizer_at + self.tokenizer_bytes

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return self.facts_at + self.facts_bytes

    @property
    def is_part(self) -> bool:
        """Whether the file is a part of a corpus."""
        return self.facts_bytes > 0

    def pack(self) -> bytes:
        """Return the header as written to the file: 128 bytes."""
        version = PART_VERSION if self.is_part else VERSION
        content = _LAYOUT.pack(MAGIC, version, self.dtype.itemsize, *self)
        return content + _CHECKSUM.pack(zlib.crc32(content))


def id_type(vocab_size: int) -> np.dtype:
    """Return the type of the ids in a file: 16 bits up to 65,536 ids, else 32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def padding(position: int) -> int:
    """Return the number of bytes to the next multiple of eight."""
    return -position % 8


def read_header(path: Path, *, part: bool = False) -> Header:
    """Read the header of a token file and check it against its checksum and the file's length.

    Args:
        path: the file.
        part: whether a part of a corpus is expected instead of a complete token file.

    Raises:
        TokenFileError: if it is not a token file, incomplete, or not of the kind given by `part`.
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no token file at {path}: llm-scratch prepare TEXT --out {path} makes one"
        )
    with open(path, "rb") as file:
        start, length = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    if start[: len(MAGIC)] != MAGIC:
        bare = looks_bare(start, length)
        words = " --bare-ids --tokenizer gpt2 --out tokens.bin" if bare else ""
        kind = "the bare ids that it seems to hold" if bare else "a text"
        in_place = ", --dtype uint16 --tokenizer gpt2 opens them in place" if bare else ""
        raise TokenFileError(
            f"{path} is not a token file; llm-scratch prepare {path}{words} makes one of "
            f"{kind}{in_place}"
        )
    if len(start) < HEADER_BYTES:
        raise TokenFileError(f"{path} ends within its header; {REMEDY}")
    header = _checked(path, start, length)
    if header.is_part and not part:
        raise TokenFileError(f"{path} is one part of a corpus; open the folder, {path.parent}")
    if part and not header.is_part:
        raise TokenFileError(f"{path} is a token file, not a part of a corpus; move it away")
    return header


def _checked(path: Path, start: bytes, length: int) -> Header:
    content = start[: _LAYOUT.size]
    _, version, id_bytes, *fields = _LAYOUT.unpack(content)
    if version not in (VERSION, PART_VERSION):
        raise TokenFileError(
            f"{path} has version {version} of the format, this library reads {VERSION} and "
            f"{PART_VERSION}; update the library, or write the file again with llm-scratch prepare"
        )
    if _CHECKSUM.unpack(start[_LAYOUT.size :])[0] != zlib.crc32(content):
        raise TokenFileError(f"{path} has a damaged header; {REMEDY}")
    header = Header(*fields)
    # Numbers with a matching checksum may still be wrong.
    sound = 1 <= header.vocab_size <= _HIGHEST_VOCABULARY and id_bytes == header.dtype.itemsize
    sound = sound and header.is_part == (version == PART_VERSION)
    least = 0 if header.is_part else 1  # a part may have no text, or lie within a document
    if (
        not sound
        or not least <= header.num_documents <= header.num_tokens
        or (header.num_bytes < least)
    ):
        raise TokenFileError(
            f"{path} claims {header.num_documents} documents with {header.num_tokens} tokens of "
            f"{id_bytes} bytes out of {header.vocab_size}, of {header.num_bytes} bytes of text, "
            f"which can't be; {REMEDY}"
        )
    if length != header.file_bytes:
        raise TokenFileError(
            f"{path} has {length} bytes, its header says {header.file_bytes}; {REMEDY}"
        )
    return header


def looks_bare(start: bytes, length: int) -> bool:
    """Return whether a file may hold bare ids: by its header, or if they fit GPT-2's vocabulary.

    Args:
        start: the file's first bytes.
        length: the file's size in bytes.
    """
    if start.startswith(ID_MAGICS):
        return True
    if length % 2 or not start.translate(None, TEXT_BYTES):  # no control characters: a text
        return False
    ids = np.frombuffer(start[: len(start) // 2 * 2], dtype="<u2")
    is_utf16 = not (ids >> 8).any() or not (ids & 255).any()  # of Latin letters
    return not is_utf16 and int(ids.max()) < GPT2_IDS


def is_token_file(path: Path) -> bool:
    """Return whether a file begins like a token file."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC
