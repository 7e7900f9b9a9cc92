"""One file out of a zip archive, written whole or not at all."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

from llm_scratch.download import DownloadError, holds
from llm_scratch.files import CHUNK_BYTES, part_beside

# What the zip module raises for files that are broken, encrypted, or packed in a way it can't read.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


def unpack_member(
    archive: Path, member: str, target: Path, *, most_bytes: int, sha256: str | None = None
) -> Path:
    """Return `target` once it holds the one file `member` of a zip archive.

    No path of the archive is used, and no more than `most_bytes` are ever unpacked, whatever the
    archive says of its sizes. The bytes go to a temporary name beside the target and are renamed
    when they are complete.

    Raises:
        DownloadError: if it is no zip archive, has no such file, or the file is longer than
            `most_bytes`, broken, or another one than `sha256` says.
    """
    part = part_beside(target)
    try:
        _copy_member(archive, member, part, most_bytes)
        if not holds(part, sha256):
            raise _refused(archive, f"its {member} has another SHA-256 than {sha256}")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _copy_member(archive: Path, member: str, part: Path, most_bytes: int) -> None:
    try:
        with zipfile.ZipFile(archive) as content, content.open(member) as source:
            with open(part, "wb") as file:
                left = most_bytes
                while chunk := source.read(CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise _refused(archive, f"its {member} is above {most_bytes:,} bytes")
                    file.write(chunk)
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise _refused(archive, f"it does not give {member} ({reason.strip(chr(34))})") from error


def _refused(archive: Path, reason: str) -> DownloadError:
    return DownloadError(f"{archive} is not the archive that was wanted: {reason}; fetch it again")
