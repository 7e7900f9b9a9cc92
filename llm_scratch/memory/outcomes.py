"""The outcomes of measuring a point, and the signs that memory ran out."""

from __future__ import annotations

OK = "ok"
OOM = "oom"  # memory ran out
FAILED = "failed"  # such a step can't be taken, or every start crashed
CRASHED = "crashed"  # one start, for a reason that the next one need not meet
RAN_OUT = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc",
           "unable to allocate", "can't start new thread")  # fmt: skip


def ran_out(error: BaseException | str) -> bool:
    """Return whether an error, or the output of a process, means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's
        return True
    return any(words in str(error).lower() for words in RAN_OUT)
