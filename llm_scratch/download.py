"""Fetch one file once: mirrors in order, checked by SHA-256, written whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 18


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


def download_file(
    url: str | Sequence[str],
    destination: str | Path,
    backup_url: str | None = None,
    *,
    sha256: str | None = None,
    timeout: float = 30.0,
) -> Path:
    """Return `destination` once it holds the whole file, from the first address that gives it.

    A file that is there with the right SHA-256 (without `sha256`: any file) costs no request.
    The bytes go to a temporary name beside the target and are renamed when they are complete, so
    that half a file never counts. Proxies and certificates are those of the platform
    (`HTTPS_PROXY`, `SSL_CERT_FILE`).

    Args:
        url: One address, or several that are tried in order.
        destination: The file to write; its folder is made when missing.
        backup_url: One more address, tried last.
        sha256: What the content must hash to, in hexadecimal.
        timeout: Seconds that a server may stay silent.

    Raises:
        DownloadError: if no address gives the file.
        OSError: if the folder can't be written to.
    """
    addresses = [url] if isinstance(url, str) else list(url)
    addresses += [backup_url] if backup_url else []
    if not addresses:
        raise ValueError("url is an empty list; give at least one address")
    target = Path(destination)
    if holds(target, sha256):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    failures = []
    try:
        for address in addresses:
            try:
                _fetch(address, part, sha256, timeout)
            except _MirrorError as error:
                failures.append(f"{address} ({error})")
                continue
            os.replace(part, target)
            return target
    finally:
        part.unlink(missing_ok=True)
    raise DownloadError(
        f"could not fetch {target.name}: {'; '.join(failures)}; "
        f"a copy from elsewhere can be put there by hand: {target}"
    )


def holds(path: Path, sha256: str | None) -> bool:
    """Return whether `path` is a file with this SHA-256; None takes any file."""
    if not path.is_file():
        return False
    return sha256 is None or file_sha256(path) == sha256.lower()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class _MirrorError(Exception):
    """This address did not give the file: go on to the next one."""


def _fetch(address: str, part: Path, sha256: str | None, timeout: float) -> None:
    """Write what the address sends to `part` and check it, or raise `_MirrorError`."""
    request = urllib.request.Request(address, headers={"User-Agent": "llm-scratch"})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(_reason(error)) from error
    with response, open(part, "wb") as file:
        announced = response.headers.get("Content-Length", "")
        total = int(announced) if announced.isdigit() else None
        received, digest = _copy(response, file, total, Path(part).name.rsplit(".", 2)[0])
    if total is not None and received != total:
        raise _MirrorError(f"sent {received:,} of {total:,} bytes")
    if sha256 is not None and digest != sha256.lower():
        raise _MirrorError(f"sent another file: SHA-256 {digest[:12]}..., not {sha256[:12]}...")


def _copy(response: Any, file: Any, total: int | None, name: str) -> tuple[int, str]:
    """Copy the response into the file; return the number of bytes and their SHA-256."""
    digest = hashlib.sha256()
    received = 0
    bar = _progress_bar(total, name)
    try:
        while chunk := _read(response):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            if bar is not None:
                bar.update(len(chunk))
    finally:
        if bar is not None:
            bar.close()
    return received, digest.hexdigest()


def _read(response: Any) -> bytes:
    """Read a piece; only what the network does wrong is the mirror's fault, a full disk is not."""
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(_reason(error)) from error


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
    """Return a bar when somebody watches standard error, else None."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=name, leave=False)


def _absolute_or_none(variable: str) -> Path | None:
    """Return the folder in an environment variable; a relative one does not count."""
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None
