"""Fetch one file once: mirrors in order, checked by SHA-256, written whole or not at all."""

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
KEPT_BYTES = 1 << 20  # less is not worth going on from
STALE_SECONDS = 24 * 3600
MOST_ROUNDS = 20
PAUSE_SECONDS = 0.5
# A server must send this much in this time, or it counts as silent.
STALL_BYTES, STALL_SECONDS = 1 << 10, 30.0


class DownloadError(OSError):
    """No address gave the file; the message names each one, why, and where to put it by hand."""


def cache_folder() -> Path:
    """Return the folder that fetched files are kept in; it need not exist yet.

    The environment variable `LLM_SCRATCH_CACHE` names it; without it, it is the platform's cache
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
    """Return the folder for what this user has typed; it need not exist yet.

    It is the platform's folder for the state of programs.
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
    """Return `destination` once it holds the whole file, from the first address that gives it.

    A file that is there with the right SHA-256 and size (without either: any file) costs no
    request. The bytes go to a temporary name beside the target and are renamed when they are
    complete, so that half a file never counts. A transfer that breaks off goes on where it
    stopped; with `sha256` also at the next address, or in the next call. Proxies and certificates
    are those of the platform (`HTTPS_PROXY`, `SSL_CERT_FILE`).

    Args:
        url: One address, or several that are tried in order.
        destination: The file to write; its folder is made when missing.
        backup_url: One more address, tried last.
        sha256: What the content must hash to, in hexadecimal.
        size: How many bytes it must have.
        timeout: Seconds that a server may take to answer, or stay silent in between.

    Raises:
        DownloadError: if no address gives the file.
        OSError: if the folder can't be written to, or the disk is full.
    """
    addresses = [url] if isinstance(url, str) else list(url)
    addresses += [backup_url] if backup_url else []
    if not addresses:
        raise ValueError("url is an empty list; give at least one address")
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
            f"could not fetch {target.name}: {reasons}; "
            f"a copy from elsewhere can be put there by hand: {target}"
        )


def holds(path: Path, sha256: str | None, size: int | None = None) -> bool:
    """Return whether `path` is a file with this SHA-256 and size; None takes any."""
    if not path.is_file() or size not in (None, path.stat().st_size):
        return False
    return sha256 is None or file_sha256(path) == sha256.lower()


class _Wanted(NamedTuple):
    """What the file must be, how long a server may take, and whose bytes we have (ETag by URL)."""

    sha256: str | None
    size: int | None
    timeout: float
    etags: dict[str, str]


class _MirrorError(Exception):
    """This address did not give the file: go on to the next one.

    Args:
        reason: In a few words, for the message.
        passing: Whether the same address may well give it the next time.
    """

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


@contextmanager
def _kept_for_later(part: Path, target: Path, wanted: _Wanted) -> Iterator[None]:
    """Take up what an earlier call left of this file, and leave what this one gets.

    Only with a checksum: nothing else tells whether two parts belong together. The file that is
    left has a name of its own, and whoever renames it first has it to himself: two processes
    never write to one file.
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
    """Remove what killed processes left of this file more than a day ago."""
    for old in target.parent.glob(f"{glob.escape(target.name)}.*.part"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE_SECONDS:
                old.unlink()


def _from_any(addresses: Sequence[str], part: Path, wanted: _Wanted) -> dict[str, str]:
    """Fetch to `part` from the first address that gives the file; else why each did not.

    The addresses are gone through again as long as that brings more bytes, and once more where
    the failure may pass.
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
    """Write what the address sends to `part`, behind what is there; or raise `_MirrorError`."""
    with open(part, "ab") as file:  # before any request: the folder may be closed to us
        same = wanted.sha256 is not None or address in wanted.etags
        have = file.tell() if same else 0
        with _open(address, have, wanted) as response:
            start = _start_of(response)
            if start not in (0, have):
                raise _MirrorError("sent another part of the file than was asked for")
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
        if have:  # the part that was there may be what is wrong
            _fetch(address, part, wanted)
            return
        raise _MirrorError(complaint)


def _complaint(part: Path, wanted: _Wanted) -> str:
    """Say what is wrong with a complete file; empty when nothing is."""
    size = part.stat().st_size
    if wanted.size not in (None, size):
        return f"sent another file: {size:,} bytes, not {wanted.size:,}"
    if wanted.sha256 is not None and (digest := file_sha256(part)) != wanted.sha256:
        return f"sent another file: SHA-256 {digest[:12]}..., not {wanted.sha256[:12]}..."
    return ""


def _note_etag(address: str, response: Any, etags: dict[str, str]) -> None:
    """Remember which edition of the file our bytes are from, where the server names it."""
    etags.clear()
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):  # a weak one (W/) does not promise the same bytes
        etags[address] = etag


def _start_of(response: Any) -> int:
    """Return the position in the file at which the response begins, -1 where that is unclear."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _open(address: str, have: int, wanted: _Wanted) -> Any:
    """Return the response to a request for everything behind the first `have` bytes."""
    headers = {"User-Agent": "llm-scratch"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if wanted.sha256 is None:  # another edition comes whole then
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
    """Ends a connection whose headers are not complete in time.

    A socket's own timeout starts anew with every byte: a server that sends one a second would
    keep us for hours.
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
    """Return what opens addresses as `urlopen` does, with connections that the watch can end."""

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
                    raise _MirrorError("no more than a trickle of bytes", passing=True)
                at_last_look, last_look = received, time.monotonic()
    return received


def _read(response: Any) -> bytes:
    """Read a piece; only what the network does wrong is the mirror's fault, a full disk is not."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(_reason(error), passing=True) from error


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong, with the way out where it is the same for everybody."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {cause.verify_message}; SSL_CERT_FILE names other ones"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def _progress_bar(total: int | None, name: str) -> Any:
    """Return a bar, which shows when somebody watches standard error."""
    from tqdm import tqdm

    look: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False}
    return tqdm(total=total, desc=name, disable=None if sys.stderr else True, **look)


def _absolute_or_none(variable: str) -> Path | None:
    """Return the folder in an environment variable; a relative one does not count."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None
