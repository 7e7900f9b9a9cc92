"""Files on disk, for the whole package: atomic writing, checksums, texts, JSON."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from llm_scratch.compressed import DAMAGED, open_bytes

PathLike = str | os.PathLike[str]

LONGEST_JSON = 1 << 20  # bytes: enough for configurations; callers of larger formats name more
PART = ".part"  # the suffix of files and folders that are not complete yet


class FileError(ValueError):
    """A file that is damaged, or does not hold what was asked for.

    Args:
        path: the file or folder at fault.
        hint: what is wrong with it, and the way out.
    """

    def __init__(self, path: PathLike, hint: str) -> None:
        super().__init__(f"{os.fspath(path)}: {hint}")
        self.path = os.fspath(path)
        self.hint = hint

    def __reduce__(self) -> tuple[type[FileError], tuple[str, str]]:
        return type(self), (self.path, self.hint)


def part_beside(path: Path) -> Path:
    """Return a unique name next to `path`, for a file or folder that is not complete yet."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")


@contextmanager
def written_whole(path: PathLike) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when all of it is on disk.

    The bytes go to a temporary file next to it, which is renamed last. A missing folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_beside(path)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: PathLike, text: str) -> None:
    r"""Write a text file in UTF-8, atomically; line ends stay as they are in `text`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write bytes to a file, atomically."""
    with written_whole(path) as file:
        file.write(data)


def write_json(path: PathLike, content: Any, *, indent: int = 1) -> None:
    """Write a JSON file that people can read, atomically."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: PathLike) -> str:
    """Return the text of a UTF-8 file with its line ends unchanged, without a byte order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is not UTF-8; the message names UTF-16 where that is what it is.
    """
    return decode_text(path, Path(path).read_bytes())


def decode_text(path: PathLike, data: bytes) -> str:
    """Decode a file's bytes as text; see `read_text`."""
    _refuse_utf16(path, data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise _not_utf8(path, data.split(b"\n")) from err


class Span(NamedTuple):
    """A part of a file that is not compressed.

    Args:
        path: the file.
        start: its first byte.
        stop: the byte after its last one.
    """

    path: Path
    start: int
    stop: int


@contextmanager
def open_text(path: PathLike | Span) -> Iterator[TextIO]:
    """Open a text file of any size, to be read in pieces by the rules of `read_text`.

    Only line feeds end its lines. A compressed file is decompressed as it is read.

    Args:
        path: the file, or a span of one that begins and ends between characters.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: on reaching a piece that is damaged or not UTF-8.
    """
    span, path = (path, path.path) if isinstance(path, Span) else (None, path)
    try:
        with closing(open_bytes(path)) as start:
            _refuse_utf16(path, start.read(4))
        with _text_of(path, span) as file:
            yield file
    except UnicodeDecodeError as err:
        with closing(open_bytes(path)) as lines:
            raise _not_utf8(path, lines) from err
    except DAMAGED as err:
        raise FileError(path, f"is damaged: {first_line(err)}; copy or download it again") from err


def _text_of(path: PathLike, span: Span | None) -> TextIO:
    if span is None:
        return io.TextIOWrapper(open_bytes(path), "utf-8-sig", newline="\n")  # type: ignore[type-var]
    encoding = "utf-8" if span.start else "utf-8-sig"
    return io.TextIOWrapper(io.BufferedReader(_SpanFile(span)), encoding, newline="\n")


class _SpanFile(io.RawIOBase):
    """The bytes of a span, as a file of their own."""

    def __init__(self, span: Span) -> None:
        self._file = open(span.path, "rb")  # noqa: SIM115  open as long as this is
        self._start, self._stop = span.start, span.stop
        self._file.seek(span.start)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), max(self._stop - self._file.tell(), 0)))
        buffer[: len(data)] = data
        return len(data)


def _refuse_utf16(path: PathLike, start: bytes) -> None:
    zeros = [byte == 0 for byte in start[:4]]  # every other byte, in a file without a mark
    marked = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    if marked or zeros in ([False, True] * 2, [True, False] * 2):
        raise FileError(path, "is UTF-16, not UTF-8; save it as UTF-8")


def _not_utf8(path: PathLike, lines: Iterable[bytes]) -> FileError:
    """Return an error that names the first byte of a file's lines that is not UTF-8."""
    for number, line in enumerate(lines, 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as err:
            byte = f"byte 0x{line[err.start]:02x} at position {err.start} of line {number}"
            return FileError(path, f"is not UTF-8: {byte}; save it as UTF-8")
    return FileError(path, "is not UTF-8, or changed while it was read; save it as UTF-8")


def lines_of(text: str) -> list[str]:
    r"""Split a text into lines, which end at "\n" (or "\r\n") and nowhere else.

    `str.splitlines` also splits at U+2028 and others, which can occur inside a line of JSON or of
    ordinary text.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_json(
    path: PathLike,
    *,
    most_bytes: int = LONGEST_JSON,
    error: type[FileError] = FileError,
) -> dict[str, Any]:
    """Read the object in a JSON file of bounded size.

    Args:
        path: the file.
        most_bytes: the size above which a file is refused before it is parsed.
        error: the class to raise, for callers with an error class of their own.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is too large or damaged, or does not hold an object.
    """
    return parse_json(path, read_bytes(path, most_bytes=most_bytes, error=error), error=error)


def read_bytes(
    path: PathLike, *, most_bytes: int = LONGEST_JSON, error: type[FileError] = FileError
) -> bytes:
    """Read the bytes of a file of bounded size; see `read_json`."""
    with open(path, "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise error(path, f"has more than {most_bytes:,} bytes, too many for such a file")
    return data


def parse_json(
    path: PathLike, data: bytes, *, error: type[FileError] = FileError
) -> dict[str, Any]:
    """Parse a file's bytes as a JSON object; see `read_json`."""
    value = parse_any_json(path, data, error=error)
    if not isinstance(value, dict):
        raise error(path, "is damaged: its JSON is not an object; download or save it again")
    return value


def parse_any_json(path: PathLike, data: bytes, *, error: type[FileError] = FileError) -> Any:
    """Parse a file's bytes as JSON of any type; see `read_json`."""
    try:
        return json.loads(decode_text(path, data))
    except FileError as err:
        raise error(path, err.hint) from err
    except (ValueError, RecursionError) as err:
        raise error(path, f"is damaged: {first_line(err)}; download or save it again") from err


def first_line(err: BaseException) -> str:
    """Return the first line of an error's message, or the error's type if there is none."""
    return (str(err).strip() or type(err).__name__).splitlines()[0][:200]


def lock(file: Any) -> None:
    """Lock an open file; the system gives the lock up when the process ends, however it ends.

    Raises:
        OSError: if another process has it locked.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
