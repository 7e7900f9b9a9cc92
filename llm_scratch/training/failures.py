"""Messages of a process that fails, and of the processes that waited for it in vain.

All processes share a small key-value store that outlives each of them. One that fails leaves its
reason there.
One that loses contact with the others looks there for a reason and leaves a sign of its own: the
lost process is the one that leaves neither.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

PATIENCE = 3.0  # seconds for the others to notice the same loss
# Parts of gloo's messages on lost connections; these errors have no type of their own.
SIGNS = (
    "connection closed by peer", "connection reset", "broken pipe", "timed out", "timeout",
    "connection refused", "socket closed", "gloo/transport", "connectfullmesh", "wait timeout",
)  # fmt: skip


class LostProcessError(ConnectionError):
    """Processes of a run that can no longer be reached: their ranks, and their reasons if known."""


def is_lost(error: BaseException) -> bool:
    """Return whether an error merely means that other processes can't be reached."""
    import torch.distributed as dist

    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS)
    )


def told(error: Exception, store: Any, rank: int) -> None:
    """Tell the other processes and torchrun why this process fails."""
    _leave(store, f"failed/{rank}", f"{type(error).__name__}: {_first_line(error)}")
    record(error)


def who_is_lost(error: Exception, store: Any, rank: int, count: int, timeout: float) -> str:
    """Return a message on the processes that do not answer, with their reasons if known.

    Args:
        error: the error that the lost connection raised.
        store: the store that all processes share.
        rank: the rank of this process.
        count: the number of processes.
        timeout: seconds that a process waits for another.
    """
    found: list[str] = []
    patience, reason = min(PATIENCE, timeout), f"({_first_line(error)[:200]})"

    def ask() -> None:
        found.append(_asked(store, rank, count, patience, reason))

    # The store's client waits forever if the store's host is lost.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience + PATIENCE)
    if found and found[0]:
        return found[0]
    host, port = (os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return f"the connection to {host}:{port}, where all processes meet, is lost {reason}"


def _asked(store: Any, rank: int, count: int, patience: float, reason: str) -> str:
    """Return what the store says about the other processes; "" if it does not answer."""
    others = [other for other in range(count) if other != rank]
    if not _leave(store, f"lost/{rank}", "here"):
        return ""
    deadline = time.monotonic() + patience
    while True:
        failed = {n: why for n in others if (why := _read(store, f"failed/{n}"))}
        missing = [n for n in others if n not in failed and not _read(store, f"lost/{n}")]
        if failed or not missing or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if failed:
        return "; ".join(f"rank {n} failed: {why}" for n, why in failed.items())
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        return f"rank {', '.join(map(str, missing))} of {count} {verb} not answer {reason}"
    return f"all processes are there, and can't reach each other {reason}"


def _leave(store: Any, key: str, text: str) -> bool:
    """Write a text to the store; return whether the store could be reached."""
    try:
        store.set(key, text)
    except RuntimeError:
        return False
    return True


def _read(store: Any, key: str) -> str:
    """Return the text under a key of the store; "" if there is none."""
    try:
        return store.get(key).decode("utf-8", "replace") if store.check([key]) else ""
    except RuntimeError:
        return ""


def record(error: Exception) -> None:
    """Let torchrun print an error's traceback at the end of its output.

    A `LostProcessError` is left out: it is never the root cause.
    """
    if "TORCHELASTIC_ERROR_FILE" in os.environ and not isinstance(error, LostProcessError):
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), repr(error))
