"""Downloads of single files: from mirrors in order, checked by SHA-256, written atomically."""

from __future__ import annotations

import glob
import http.client
import os
import re
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from llm_scratch.files import file_sha256, part_beside

CHUNK_BYTES = 1 << 18
KEPT_BYTES = 1 << 20  # a smaller part is not worth resuming
STALE_SECONDS = 24 * 3600
MOST_ROUNDS = 20
PAUSE_SECONDS = 0.5
# A server that sends less than this in this time counts as silent.
STALL_BYTES, STALL_SECONDS = 1 << 10, 30.0


class DownloadError(OSError):
    """A failure of all addresses; the message gives the reasons, and where to put a copy."""


def cache_folder() -> Path:
    """Return the folder for downloaded files, which need not exist yet.

    The environment variable `LLM_SCRATCH_CACHE` names it; the default is the platform's cache
    folder for this user.
    """
    chosen = os.environ.get("LLM_SCRATCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = _absolute_or_none("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return base / "llm-scratch" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llm-scratch"
    return (_absolute_or_none("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-scratch"


def state_folder() -> Path:
    """Return the folder for the user's input history, which need not exist yet.

    It is in the platform's folder for the state of programs.
    """
    if sys.platform == "win32":
        return (
            _absolute_or_none("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        ) / "llm-scratch"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "llm-scratch"
    home = _absolute_or_none("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return home / "llm-scratch"


def download_file(
    url: str | Sequence[str],
    destination: str | Path,
    backup_url: str | None = None,
    *,
    sha256: str | None = None,
    size: int | None = None,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file to `destination` from the first address that has it, and return the path.

    An existing file with the right SHA-256 and size (without either: any file) needs no request.
    The bytes go to a temporary file next to the target, which is renamed when complete, so that a
    partial file never counts. An interrupted transfer resumes where it stopped; with `sha256`, also
    from the next address or in the next call. Proxies and certificates are those of the platform
    (`HTTPS_PROXY`, `SSL_CERT_FILE`).

    Args:
        url: One address, or several to try in order.
        destination: The file to write; a missing folder is created.
        backup_url: One more address, tried last.
        sha256: The required hash of the content, in hexadecimal.
        size: The required number of bytes.
        timeout: Seconds that a server may take to answer, or pause in between.

    Raises:
        DownloadError: if no address provides the file.
        OSError: if the folder is not writable, or the disk is full.
    """
    addresses = [url] if isinstance(url, str) else list(url)
    addresses += [backup_url] if backup_url else []
    if not addresses:
        raise ValueError("url is an empty list; pass at least one address")
    target = Path(destination)
    if holds(target, sha256, size):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = _Wanted(sha256.lower() if sha256 else None, size, timeout, {})
    part = part_beside(target)
    with _kept_for_later(part, target, wanted):
        failures = _from_any(addresses, part, wanted)
        if not failures:
            os.replace(part, target)
            return target
        reasons = "; ".join(f"{address} ({reason})" for address, reason in failures.items())
        raise DownloadError(
            f"could not fetch {target.name}: {reasons}; put a copy from elsewhere at {target}"
        )


def holds(path: Path, sha256: str | None, size: int | None = None) -> bool:
    """Return whether `path` is a file with this SHA-256 and size; None allows any."""
    if not path.is_file() or size not in (None, path.stat().st_size):
        return False
    return sha256 is None or file_sha256(path) == sha256.lower()


class _Wanted(NamedTuple):
    """The required file, a server's time limit, and the source of our bytes (ETag by URL)."""

    sha256: str | None
    size: int | None
    timeout: float
    etags: dict[str, str]


class _MirrorError(Exception):
    """A failure of one address, after which the next one is tried.

    Args:
        reason: The reason in a few words, for the message.
        passing: Whether the same address may well succeed the next time.
    """

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


@contextmanager
def _kept_for_later(part: Path, target: Path, wanted: _Wanted) -> Iterator[None]:
    """Resume the partial file of an earlier call, and keep this call's partial file for the next.

    This needs a checksum: nothing else shows whether two parts belong together. The kept file has a
    name of its own, and the process that renames it first owns it: two processes never write to
    the same file.
    """
    rest = target.with_name(f"{target.name}.resume")
    if wanted.sha256 is not None:
        with suppress(OSError):
            os.rename(rest, part)
    _remove_stale(target)
    try:
        yield
    except (DownloadError, KeyboardInterrupt):
        if wanted.sha256 is not None and part.is_file() and part.stat().st_size >= KEPT_BYTES:
            os.replace(part, rest)
        raise
    finally:
        part.unlink(missing_ok=True)


def _remove_stale(target: Path) -> None:
    """Remove partial files that killed processes left more than a day ago."""
    for old in target.parent.glob(f"{glob.escape(target.name)}.*.part"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE_SECONDS:
                old.unlink()


def _from_any(addresses: Sequence[str], part: Path, wanted: _Wanted) -> dict[str, str]:
    """Fetch to `part` from the first address that works; else return the reason for each address.

    The addresses are tried again as long as that yields more bytes, and once more if the failure
    may be temporary.
    """
    failures: dict[str, str] = {}
    most = _size_of(part)
    for round_number in range(MOST_ROUNDS):
        passing = False
        for address in addresses:
            try:
                _fetch(address, part, wanted)
                return {}
            except _MirrorError as error:
                failures[address] = str(error)
                passing = passing or error.passing
        progress, most = _size_of(part) > most, max(most, _size_of(part))
        if not (progress or (passing and round_number == 0)):
            break
        time.sleep(0 if progress else PAUSE_SECONDS)
    return failures


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch(address: str, part: Path, wanted: _Wanted) -> None:
    """Append what the address sends to `part`, or raise `_MirrorError`."""
    with open(part, "ab") as file:  # before any request: the folder may not be writable
        same = wanted.sha256 is not None or address in wanted.etags
        have = file.tell() if same else 0
        with _open(address, have, wanted) as response:
            start = _start_of(response)
            if start not in (0, have):
                raise _MirrorError("sent another part of the file than requested")
            have = start
            file.truncate(have)
            _note_etag(address, response, wanted.etags)
            announced = response.headers.get("Content-Length", "")
            left = int(announced) if announced.isdigit() else None
            name = part.name.rsplit(".", 2)[0]
            received = _copy(response, file, left, name)
    if left is not None and received != left:
        sent = f"sent {have + received:,} of {have + left:,} bytes"
        raise _MirrorError(sent, passing=have + received > 0)
    if complaint := _complaint(part, wanted):
        os.truncate(part, 0)
        if have:  # the earlier part may be at fault
            _fetch(address, part, wanted)
            return
        raise _MirrorError(complaint)


def _complaint(part: Path, wanted: _Wanted) -> str:
    """Return what is wrong with a complete file, "" if nothing is."""
    size = part.stat().st_size
    if wanted.size not in (None, size):
        return f"sent another file: {size:,} bytes, not {wanted.size:,}"
    if wanted.sha256 is not None and (digest := file_sha256(part)) != wanted.sha256:
        return f"sent another file: SHA-256 {digest[:12]}..., not {wanted.sha256[:12]}..."
    return ""


def _note_etag(address: str, response: Any, etags: dict[str, str]) -> None:
    """Remember which version of the file our bytes are from, if the server names it."""
    etags.clear()
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):  # a weak one (W/) does not promise the same bytes
        etags[address] = etag


def _start_of(response: Any) -> int:
    """Return the position in the file at which the response begins, -1 if it is unknown."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _open(address: str, have: int, wanted: _Wanted) -> Any:
    """Return the response to a request for everything after the first `have` bytes."""
    headers = {"User-Agent": "llm-scratch"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if wanted.sha256 is None:  # another version is then sent whole
            headers["If-Range"] = wanted.etags[address]
    request = urllib.request.Request(address, headers=headers)
    watch = _Watch(wanted.timeout)
    try:
        with watch:
            return _opener(watch).open(request, timeout=wanted.timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return _open(address, 0, wanted)
        raise _MirrorError(_reason(error), passing=error.code >= 500) from error
    except (OSError, http.client.HTTPException) as error:
        reason = "no answer in time" if watch.cut_off else _reason(error)
        raise _MirrorError(reason, passing=True) from error


class _Watch:
    """A timer that ends a connection whose headers are not complete in time.

    A socket's own timeout restarts with every byte: a server that sends one byte per second could
    keep us waiting for hours.
    """

    def __init__(self, seconds: float) -> None:
        self.cut_off = False
        self.connection: http.client.HTTPConnection | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def _cut(self) -> None:
        self.cut_off = True
        if self.connection is not None and self.connection.sock is not None:
            with suppress(OSError):
                self.connection.sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """Return an opener that works as `urlopen` does, with connections that the watch can end."""

    def made(kind: Any, *args: Any, **options: Any) -> Any:
        watch.connection = kind(*args, **options)
        return watch.connection

    class HTTP(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(partial(made, http.client.HTTPConnection), req)

    class HTTPS(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(partial(made, http.client.HTTPSConnection), req)

    return urllib.request.build_opener(HTTP, HTTPS)


def _copy(response: Any, file: Any, total: int | None, name: str) -> int:
    """Copy the response into the file; return the number of bytes."""
    received, at_last_look, last_look = 0, 0, time.monotonic()
    with _progress_bar(total, name) as bar:
        while chunk := _read(response):
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
            if time.monotonic() - last_look > STALL_SECONDS:
                if received - at_last_look < STALL_BYTES:
                    raise _MirrorError("sent only a trickle of bytes", passing=True)
                at_last_look, last_look = received, time.monotonic()
    return received


def _read(response: Any) -> bytes:
    """Read a piece; network errors are the mirror's fault, a full disk is not."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(_reason(error), passing=True) from error


def _reason(error: Exception) -> str:
    """Describe an error in a few words, with the way out if it is the same for all users."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {cause.verify_message}; set SSL_CERT_FILE to trust others"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def _progress_bar(total: int | None, name: str) -> Any:
    """Return a progress bar, which shows only if standard error is a terminal."""
    from tqdm import tqdm

    look: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False}
    return tqdm(total=total, desc=name, disable=None if sys.stderr else True, **look)


def _absolute_or_none(variable: str) -> Path | None:
    """Return the folder in an environment variable, None if it is missing or relative."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None
