"""A check of a run's processes: their facts, their differences, and the speed of exchanges.

torchrun --standalone --nproc-per-node 2 -m llm_scratch distributed check
"""

from __future__ import annotations

import os
import platform
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from llm_scratch.training.distributed import Ranks
from llm_scratch.training.network import interface_of, is_loopback, own_address, way_to

COLUMNS = ("rank", "host", "local", "device", "threads", "backend", "torch", "python", "address",
           "interface")  # fmt: skip
# These should be the same everywhere: otherwise results differ, or the slowest sets the pace.
COMPARED = ("torch", "python", "llm_scratch", "device", "threads", "backend", "system")
SIZES = (4_000, 1_000_000, 25_000_000, 100_000_000)  # bytes; DDP sends about 25 MB at a time

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """The time that the processes took to exchange a tensor.

    Args:
        operation: "all-reduce" or "broadcast".
        size: the size of the tensor in bytes.
        seconds: the median over the rounds of the slowest process's time.
    """

    operation: str
    size: int
    seconds: float

    @property
    def speed(self) -> float:
        """The size of the tensor divided by the time, in MB/s."""
        return self.size / 1e6 / self.seconds


def facts_of(ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """Return the facts about this process: a value for each of `COLUMNS`, and more."""
    import torch.distributed as dist

    address = way_to(os.environ.get("MASTER_ADDR", "localhost"))
    return {
        "rank": ranks.rank,
        "host": socket.gethostname(),
        "local": ranks.local_rank,
        "device": _name_of(device),
        "threads": torch.get_num_threads(),
        "backend": _backend_of(device) if dist.is_initialized() else "none",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "address": address or "unknown",
        "interface": interface_of(address) or "unknown",
        "own address": own_address() or "unknown",
        "llm_scratch": library_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count() or 1,
        "processes here": ranks.local_count,
    }


def _name_of(device: torch.device) -> str:
    """Return the name of a device's kind, the same for all devices of that kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _backend_of(device: torch.device) -> str:
    """Return the backend that moves tensors of a device: gloo or nccl."""
    import torch.distributed as dist

    config = dist.get_backend_config()  # such as "cpu:gloo,cuda:nccl"
    return dict(part.split(":") for part in str(config).split(",")).get(device.type, str(config))


def library_version() -> str:
    """Return the installed version of this library."""
    try:
        return version("llm-scratch")
    except PackageNotFoundError:
        return "not installed"


def differences(facts: Sequence[Facts]) -> list[str]:
    """Return a line for each fact that differs between ranks, with the ranks of each value."""
    lines = []
    for name in COMPARED:
        having: dict[Any, list[int]] = {}
        for each in facts:
            having.setdefault(each[name], []).append(each["rank"])
        if len(having) > 1:
            groups = sorted(having.items(), key=lambda item: -len(item[1]))
            lines.append(f"{name}: " + "; ".join(f"{v} on {_ranks(r)}" for v, r in groups))
    return lines


def _ranks(numbers: Sequence[int]) -> str:
    """Return numbers as words: "rank 2", "ranks 0 to 3", "ranks 0, 2"."""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"ranks {numbers[0]} to {numbers[-1]}"
    return f"ranks {', '.join(map(str, numbers))}"


def hazards(facts: Sequence[Facts]) -> list[str]:
    """Return a line for each problem that will cost time or make a host unreachable."""
    lines = []
    hosts: dict[str, list[Facts]] = {}
    for each in facts:
        hosts.setdefault(each["host"], []).append(each)
    for host, here in hosts.items():
        threads, processors = sum(each["threads"] for each in here), here[0]["processors"]
        if threads > processors and here[0]["device"] == "cpu":
            each_has = max(1, processors // len(here))
            lines.append(
                f"{host}: {threads} threads of {len(here)} processes on {processors} processors; "
                f"start with OMP_NUM_THREADS={each_has}"
            )
        if len(hosts) > 1 and is_loopback(here[0]["own address"]):
            name = here[0]["interface"]
            shown = "NAME, its interface to the others" if name == "unknown" else name
            lines.append(
                f"{host}: its name stands for {here[0]['own address']}, where no other machine can "
                f"reach it; set GLOO_SOCKET_IFNAME={shown}, or mend its hosts file"
            )
    return lines


def time_exchanges(
    ranks: Ranks, device: torch.device, sizes: Sequence[int] = SIZES, rounds: int = 5
) -> list[Timing]:
    """Measure all-reduce and broadcast of float32 tensors; all processes call this.

    Args:
        ranks: the processes.
        device: the device of the tensors.
        sizes: their sizes in bytes.
        rounds: the number of measurements of each, after one to warm up.

    Raises:
        ValueError: if a size is below 4 bytes or there are no rounds.
        RuntimeError: if a sum or a broadcast value came out wrong.
    """
    import torch.distributed as dist

    if rounds < 1 or min(sizes, default=4) < 4:
        raise ValueError(f"{rounds=} must be 1 or more, and sizes={list(sizes)} of 4 bytes or more")
    first = float(ranks.count)  # the value that the first process broadcasts
    timings = []
    for size in sizes:
        tensor = torch.empty(size // 4, device=device)
        total = ranks.count * (ranks.count + 1) / 2

        def reduce(tensor: torch.Tensor = tensor) -> None:
            dist.all_reduce(tensor)

        def send(tensor: torch.Tensor = tensor) -> None:
            dist.broadcast(tensor, src=0)

        for name, run, own, expected in (
            ("all-reduce", reduce, ranks.rank + 1.0, total),
            ("broadcast", send, first if ranks.first else 0.0, first),
        ):
            seconds = _median_of_rounds(ranks, tensor, run, own, rounds)
            if not bool((tensor == expected).all()):
                raise RuntimeError(
                    f"rank {ranks.rank}: {name} of {size} bytes gave {tensor.unique().tolist()}, "
                    f"not {expected}; the backend does not work here"
                )
            timings.append(Timing(name, size, seconds))
    return timings


def _median_of_rounds(
    ranks: Ranks, tensor: torch.Tensor, run: Callable[[], None], own: float, rounds: int
) -> float:
    """Return the median over rounds of the slowest process's time."""
    seconds = []
    for _ in range(rounds + 1):
        tensor.fill_(own)
        _finish(tensor)
        ranks.wait()
        start = time.perf_counter()
        run()
        _finish(tensor)
        seconds.append(time.perf_counter() - start)
    slowest = map(max, zip(*ranks.gather(seconds[1:]), strict=True))
    return statistics.median(slowest)


def _finish(tensor: torch.Tensor) -> None:
    """Wait until the tensor's device has finished its work."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)


def table(facts: Sequence[Facts], columns: Sequence[str] = COLUMNS) -> str:
    """Return facts as a table with aligned columns, one line per rank."""
    rows = [columns, *([str(each[name]) for name in columns] for each in facts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def timing_table(timings: Sequence[Timing]) -> str:
    """Return timings as a table, one line per size."""
    lines = [f"{'tensor':>10}  {'all-reduce':>24}  {'broadcast':>24}"]
    for size in dict.fromkeys(timing.size for timing in timings):
        cells = {t.operation: t for t in timings if t.size == size}
        shown = [
            f"{cells[name].seconds * 1e3:10.3f} ms {cells[name].speed:8,.0f} MB/s"
            for name in ("all-reduce", "broadcast")
        ]
        lines.append(f"{size / 1e6:>7.3f} MB  {shown[0]:>24}  {shown[1]:>24}")
    return "\n".join(lines)
