"""Extraction of one file from a zip archive, written atomically."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path

from llm_scratch.download import DownloadError
from llm_scratch.files import written_whole

# The zip module's errors for files that are damaged, encrypted, or compressed by an unknown method.
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
    """Extract the file `member` of a zip archive to `target`, and return the path.

    No path in the archive is used, and at most `most_bytes` are ever unpacked, whatever sizes the
    archive claims. The bytes go to a temporary file next to the target, which is renamed when it is
    complete.

    Raises:
        DownloadError: if `archive` is not a zip archive or has no such file, or the file is longer
            than `most_bytes`, damaged, or does not match `sha256`.
    """
    try:
        with zipfile.ZipFile(archive) as content, content.open(member) as source:
            data = source.read(most_bytes + 1)
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise _refused(archive, f"it does not yield {member} ({reason.strip(chr(34))})") from error
    if len(data) > most_bytes:
        raise _refused(archive, f"its {member} is above {most_bytes:,} bytes")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
        raise _refused(archive, f"its {member} has another SHA-256 than {sha256}")
    with written_whole(target) as file:
        file.write(data)
    return target


def _refused(archive: Path, reason: str) -> DownloadError:
    return DownloadError(f"{archive} is not the expected archive: {reason}; fetch it again")
