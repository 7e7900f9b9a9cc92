"""What a process holds at each stage of a step, under the names of what is counted.

- allocated: bytes of live tensors on a GPU
- active: these, and freed ones that another stream may still use
- reserved: what PyTorch's allocator has taken of the GPU, used or not
- driver: what the system has given for an Apple GPU
- resident: pages of main memory that the process has; on a CPU there is no other number

Each has a `..._peak` beside it, the most so far: where it rises, that stage has the peak.
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
ENTRIES = 100_000  # of the allocator's record: the newest of these calls are kept
STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")


def memory_now(device: torch.device) -> dict[str, int]:
    """Return the bytes that this process has for its work on a device, by what is counted."""
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
    """Return the bytes of main memory that this process has; 0 where the system does not say."""
    if STATUS.is_file():
        return process_size("VmRSS")
    if sys.platform == "win32":
        return 0
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True)
    return int(found.stdout or 0) * 1024


def resident_peak() -> int:
    """Return the most that `resident` was so far; 0 where the system does not say."""
    if STATUS.is_file():  # getrusage begins with what the parent had
        return process_size("VmHWM")
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_size(name: str) -> int:
    """Return a size that Linux states of this process, "VmRSS" say; 0 where it is not there."""
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith(f"{name}:")]
    return 1024 * sum(sizes)


def forget_peaks(device: torch.device) -> None:
    """Let peaks start again, as far as the system can: on a CPU that is Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif REFERENCES.exists():
        REFERENCES.write_text("5", encoding="utf-8")  # VmHWM becomes VmRSS


class MemoryLog:
    """The numbers of this process at the stages of a step.

    Args:
        device: where the step computes.

    Raises:
        ValueError: if this system does not say what a process holds.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._micro_batch = device, 0
        self._marks: list[dict[str, Any]] = []
        if not any(memory_now(device).values()) and device.type != "cuda":
            raise ValueError("this system does not say how much memory a process has; leave "
                             "--log-memory (log_memory=True) out")  # fmt: skip

    def mark(self, stage: str) -> None:
        """Note the numbers; of accumulated micro batches those of the first and the last stay."""
        if stage == STAGES[0]:
            self._micro_batch += 1
            self._marks = [mark for mark in self._marks if mark["micro_batch"] == 1]
        numbers = memory_now(self._device)
        self._marks.append({"stage": stage, "micro_batch": self._micro_batch, **numbers})

    def take(self) -> list[dict[str, Any]]:
        """Return the marks of a step, and begin the next one."""
        marks, self._marks, self._micro_batch = self._marks, [], 0
        return marks


@contextmanager
def recorded_allocations(
    path: str | os.PathLike[str] | None, device: torch.device, rank: int = 0, count: int = 1
) -> Iterator[None]:
    """Return a context whose allocations on a GPU are written to a file, however it ends.

    PyTorch's page of memory snapshots draws such a file.

    Args:
        path: the file; of several processes each writes its own, with its rank in the name. None
            records nothing.
        device: the GPU.
        rank: which process this is.
        count: how many there are.

    Raises:
        ValueError: if the device is not a CUDA GPU, or the folder of the file is not there.
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
