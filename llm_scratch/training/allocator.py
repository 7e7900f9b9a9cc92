"""Memory that is freed and wanted again at every step, kept in between (Linux with glibc).

Large tensors that are freed go back to the system, which hands out empty pages when the next
step asks again, and each page costs a page fault: up to a quarter of a step on a CPU. These are
settings of the whole process, so a run sets them when it starts, and only there.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Numbers of the options in glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST = 2**31 - 1
TOP_PAD = 64 << 20


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next use; False where that is not possible.

    It has to come before the first large tensors to have its full effect; what was mapped before
    stays as it is. It costs some peak memory.
    """
    libc = _glibc()
    if libc is None:
        return False
    mallopt = libc.mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    wanted = ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, TOP_PAD))
    return all([mallopt(option, value) == 1 for option, value in wanted])


def give_back_freed_memory() -> bool:
    """Give what the process has freed back to the system; False where that is not possible.

    What it then has is what it uses, as measurements of its memory want it.
    """
    libc = _glibc()
    if libc is None:
        return False
    trim = libc.malloc_trim
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(0)
    return True


def _glibc() -> Any:
    """Return the C library where it is glibc; None elsewhere, where options have other meanings."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  only glibc has it
        return libc
    except (OSError, AttributeError):
        return None
