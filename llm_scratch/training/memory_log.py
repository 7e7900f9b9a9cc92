"""The memory that a process holds at each stage of a step, in bytes, under fixed names.

- allocated: live tensors on a GPU
- active: live tensors, and freed ones that another stream may still use
- reserved: GPU memory that PyTorch's allocator has taken, used or not
- driver: memory that the system has given for an Apple GPU
- resident: main memory of the process; the only number on a CPU

Except on an Apple GPU, each also has a `..._peak`, the maximum so far: the last stage at which it
rises has the peak.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

STAGES = ("before forward", "after forward", "before backward", "after backward",
          "before step", "after step")  # fmt: skip
ENTRIES = 100_000  # the number of allocator calls on record, the newest ones
STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")


def memory_now(device: torch.device) -> dict[str, int]:
    """Return the bytes that this process holds for its work on a device, by name."""
    if device.type == "cuda":
        stats = torch.cuda.memory_stats(device)  # empty before the first tensor
        return {
            f"{name}{'_peak' * (moment == 'peak')}": int(stats.get(f"{name}_bytes.all.{moment}", 0))
            for name in ("allocated", "active", "reserved")
            for moment in ("current", "peak")
        }
    if device.type == "mps":
        return {"allocated": torch.mps.current_allocated_memory(),
                "driver": torch.mps.driver_allocated_memory()}  # fmt: skip
    return {"resident": resident(), "resident_peak": resident_peak()}


def resident() -> int:
    """Return the bytes of main memory that this process holds; 0 where they are not known."""
    if STATUS.is_file():
        return process_size("VmRSS")
    if sys.platform == "win32":
        return 0
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True)
    return int(found.stdout or 0) * 1024


def resident_peak() -> int:
    """Return the peak of `resident` so far, in bytes; 0 where it is not known."""
    if STATUS.is_file():  # getrusage would start from the parent's peak
        return process_size("VmHWM")
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_size(name: str) -> int:
    """Return a size, such as "VmRSS", that Linux reports for this process in bytes; else 0."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith(f"{name}:")]
    return 1024 * sum(sizes)


def forget_peaks(device: torch.device) -> None:
    """Reset the peaks where the system allows it: for CUDA, and for main memory on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif REFERENCES.exists():
        REFERENCES.write_text("5", encoding="utf-8")  # sets VmHWM to VmRSS


class MemoryLog:
    """The memory of this process at the stages of a step.

    Args:
        device: the device that the step computes on.

    Raises:
        ValueError: if this system does not report the memory of a process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._micro_batch = device, 0
        self._marks: list[dict[str, Any]] = []
        if not any(memory_now(device).values()) and device.type != "cuda":
            raise ValueError("this system does not say how much memory a process has; leave "
                             "--log-memory (log_memory=True) out")  # fmt: skip

    def mark(self, stage: str) -> None:
        """Record the memory at a stage; of accumulated micro batches, keep the first and last."""
        if stage == STAGES[0]:
            self._micro_batch += 1
            self._marks = [mark for mark in self._marks if mark["micro_batch"] == 1]
        numbers = memory_now(self._device)
        self._marks.append({"stage": stage, "micro_batch": self._micro_batch, **numbers})

    def take(self) -> list[dict[str, Any]]:
        """Return the marks of the step and start the next one."""
        marks, self._marks, self._micro_batch = self._marks, [], 0
        return marks


@contextmanager
def recorded_allocations(
    path: str | os.PathLike[str] | None, device: torch.device, rank: int = 0, count: int = 1
) -> Iterator[None]:
    """Return a context that records GPU allocations and writes them to a file, even on errors.

    PyTorch's memory viewer (pytorch.org/memory_viz) displays such a file.

    Args:
        path: the file; each of several processes writes its own, with its rank in the name. None
            records nothing.
        device: the GPU.
        rank: the rank of this process.
        count: the number of processes.

    Raises:
        ValueError: if the device is not a CUDA GPU, or the folder of the file does not exist.
    """
    if path is None:
        yield
        return
    path = Path(path)
    if device.type != "cuda":
        raise ValueError(
            f"--memory-snapshot (memory_snapshot=) records CUDA's allocator, and this run is on "
            f"{device}; --log-memory (log_memory=True) works there"
        )
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}, where the memory snapshot is to be, is not a folder")
    if count > 1:
        path = path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
    torch.cuda.memory._record_memory_history(max_entries=ENTRIES, device=device)
    try:
        yield
    finally:
        torch.cuda.memory._dump_snapshot(str(path))
        torch.cuda.memory._record_memory_history(enabled=None)
