"""Compressed files, read as if they were not: gzip, and Zstandard if its package is installed.

The extension says which: `.gz` or `.zst`. Files are decompressed as they are read, so neither the
disk nor the memory holds all of the content.
"""

from __future__ import annotations

import gzip
import importlib
import io
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]

GZIP, ZSTANDARD = ".gz", ".zst"
PIECE = 1 << 12  # bytes: a block of Zstandard may be 30,000 times as long when decompressed


class DamagedZstandardError(ValueError):
    """A file that Zstandard cannot decompress."""


# The errors of reading a file that is damaged or cut short.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, DamagedZstandardError)


def is_compressed(path: PathLike) -> bool:
    """Return whether a file's extension, in upper or lower case, is that of a compressed file."""
    return Path(path).suffix.lower() in (GZIP, ZSTANDARD)


def plain_suffix(path: PathLike) -> str:
    """Return the extension of a file's content, in lower case: ".jsonl" for a.jsonl.gz as well."""
    path = Path(path)
    return (path.with_suffix("") if is_compressed(path) else path).suffix.lower()


def check_readable(path: PathLike) -> None:
    """Check that the package that decompresses a file is installed.

    Raises:
        ValueError: naming the package that is missing.
    """
    if Path(path).suffix.lower() == ZSTANDARD:
        _zstandard(path)


def open_bytes(path: PathLike) -> io.BufferedIOBase:
    """Open a file to read its bytes, decompressed if it is compressed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the package that decompresses it is missing.
    """
    ending = Path(path).suffix.lower()
    if ending == GZIP:
        return gzip.open(path, "rb")
    if ending == ZSTANDARD:
        return io.BufferedReader(_ZstandardFile(path, _zstandard(path)))
    return open(path, "rb")


def _zstandard(path: PathLike) -> Any:
    """Return the module that decompresses Zstandard: Python's own, or the package."""
    for name in ("compression.zstd", "zstandard"):
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ValueError(
        f"{os.fspath(path)} is compressed with Zstandard; pip install zstandard makes it readable, "
        "or decompress it with zstd -d"
    )


class _ZstandardFile(io.RawIOBase):
    """The decompressed bytes of a file with one frame or several.

    The package's own reader ends without an error where a file ends in the middle of a frame.
    """

    def __init__(self, path: PathLike, module: Any) -> None:
        self._module = module
        self._file = open(path, "rb")  # noqa: SIM115  open as long as this is
        self._frame: Any = None
        self._packed = self._unpacked = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            packed = self._packed or self._file.read(PIECE)
            if not packed and self._frame is not None:
                raise EOFError("it ends within a frame")
            if not packed:
                return 0
            self._unpack(packed)
        count = min(len(buffer), len(self._unpacked))
        buffer[:count], self._unpacked = self._unpacked[:count], self._unpacked[count:]
        return count

    def _unpack(self, packed: bytes) -> None:
        if self._frame is None:
            decompressor = self._module.ZstdDecompressor()
            self._frame = getattr(decompressor, "decompressobj", lambda: decompressor)()
        try:
            self._unpacked = self._frame.decompress(packed)
        except self._module.ZstdError as err:
            raise DamagedZstandardError(f"it is not Zstandard: {err}") from err
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
