"""One file out of a zip archive, written whole or not at all."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path

from llm_scratch.download import DownloadError
from llm_scratch.files import written_whole

# What the zip module raises for files that are broken, encrypted, or packed in a way it can't read.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
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
    try:
        with zipfile.ZipFile(archive) as content, content.open(member) as source:
            data = source.read(most_bytes + 1)
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise _refused(archive, f"it does not give {member} ({reason.strip(chr(34))})") from error
    if len(data) > most_bytes:
        raise _refused(archive, f"its {member} is above {most_bytes:,} bytes")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
        raise _refused(archive, f"its {member} has another SHA-256 than {sha256}")
    with written_whole(target) as file:
        file.write(data)
    return target


def _refused(archive: Path, reason: str) -> DownloadError:
    return DownloadError(f"{archive} is not the archive that was wanted: {reason}; fetch it again")
