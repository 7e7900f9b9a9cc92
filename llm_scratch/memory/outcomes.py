"""What becomes of a point that is measured, and how running out of memory is told."""

from __future__ import annotations

OK = "ok"
OOM = "oom"  # memory ran out
FAILED = "failed"  # such a step can't be taken, or every start crashed
CRASHED = "crashed"  # one start, for no reason that the next one must have
RAN_OUT = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc",
           "unable to allocate", "can't start new thread")  # fmt: skip


def ran_out(error: BaseException | str) -> bool:
    """Return whether an error, or what a process said, means that there was no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's
        return True
    return any(words in str(error).lower() for words in RAN_OUT)
