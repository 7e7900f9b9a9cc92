"""Allocator settings that keep freed memory for the next step (Linux with glibc).

By default, freed large tensors go back to the system. The next step then gets empty pages, each
at the cost of a page fault: up to a quarter of a step on a CPU. The settings apply to the whole
process, so a run sets them once, when it starts.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Option numbers from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**31 - 1
TOP_PAD = 64 << 20


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for reuse; return False where that is not possible.

    Call this before the first large tensors are made: memory mapped earlier is not affected. It
    costs some peak memory.
    """
    libc = _glibc()
    if libc is None:
        return False
    mallopt = libc.mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    wanted = ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, TOP_PAD))
    return all([mallopt(option, value) == 1 for option, value in wanted])


def give_back_freed_memory() -> bool:
    """Return freed memory to the system; return False where that is not possible.

    The process then holds only the memory it uses, which is what measurements need.
    """
    libc = _glibc()
    if libc is None:
        return False
    trim = libc.malloc_trim
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(0)
    return True


def _glibc() -> Any:
    """Return the C library if it is glibc; None otherwise, as options then mean other things."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  only glibc has it
        return libc
    except (OSError, AttributeError):
        return None
