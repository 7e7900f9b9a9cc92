"""The processes of a run as torchrun starts them: ranks, and the exchange of values.

`torchrun` sets the number of processes in the environment. Without it there is one process, and
`torch.distributed` is not imported.

    torchrun --standalone --nproc-per-node 2 -m llm_scratch pretrain --data tokens.bin
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch

from llm_scratch.training.failures import LostProcessError, is_lost, told, who_is_lost
from llm_scratch.training.network import interfaces

TIMEOUT = 120.0  # seconds
# Seconds for gloo's threads to release the tensors of the last collective. PyTorch's caches keep
# the group and its threads alive, and a thread that releases one while Python ends aborts the
# process.
LETTING_GO = 0.1
NO_ADDRESS = "Unable to find address for: "  # in gloo's message, before the interface's name


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, as seen from one of them.

    Args:
        rank: the number of this process, from 0.
        count: the number of processes.
        local_rank: the number of this process on its machine.
        local_count: the number of processes on this machine.
        timeout: seconds after which a process stops waiting for another.
        phase: the phases of the work in progress, innermost last, for error messages.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    timeout: float = TIMEOUT
    phase: list[str] = field(default_factory=lambda: ["start"], compare=False)

    @property
    def place(self) -> str:
        """The current phase, in words."""
        return f"at {self.phase[-1]}"

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Return a context in which errors name this phase."""
        if self.count == 1:  # its errors need no place, and many runs share the object
            yield
            return
        self.phase.append(phase)
        yield
        self.phase.pop()  # not after an error: it ends the run, and its message needs the phase

    @property
    def first(self) -> bool:
        """Whether this process writes files and log lines for all."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Return each number's sum over all processes, the same in every process."""
        if self.count == 1:
            return [float(number) for number in numbers]
        import torch.distributed as dist

        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)  # a CPU tensor, so gloo does this even where GPUs are used
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the plain values that the processes pass, by rank."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that all processes have the same facts.

        Args:
            facts: plain values by name.

        Raises:
            ValueError: in all processes, naming the ranks that differ and both values.
        """
        all_facts = self.gather(dict(facts))
        for name in facts:
            values = [each.get(name) for each in all_facts]
            usual = max(values, key=values.count)
            odd = [rank for rank, value in enumerate(values) if value != usual]
            if odd:
                which = ", ".join(map(str, odd))
                raise ValueError(
                    f"rank {which} of {self.count} differs in {name}: {values[odd[0]]!r}, the "
                    f"others {usual!r}; start all with the same command, data and versions"
                )

    def in_turn(self, part: Sequence[Any]) -> Sequence[Any]:
        """Return this process's share of a sequence: every `count`-th item."""
        return part[self.rank :: self.count]


ONE = Ranks()
"""A single process."""


def number_of_processes() -> int:
    """Return the number of processes that torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str = "auto", timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Join the processes that torchrun has started, for as long as the context lasts.

    Args:
        device: "cuda" and "auto" take the GPU with this process's local rank, if there are GPUs.
        timeout: seconds after which a process stops waiting for another.

    Raises:
        ValueError: if the others can't be reached, or there are fewer GPUs than processes.
        LostProcessError: naming the processes that stopped answering.
    """
    if number_of_processes() == 1:
        yield ONE
        return
    import torch.distributed as dist

    if not timeout > 0:
        raise ValueError(f"{timeout=} must be above 0 seconds")
    ranks = Ranks(
        int(os.environ["RANK"]),
        int(os.environ["WORLD_SIZE"]),
        int(os.environ.get("LOCAL_RANK", "0")),
        int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        timeout,
    )
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpus:
        _take_gpu(ranks)
    elif os.environ.get("OMP_NUM_THREADS") == "1":  # as torchrun sets it
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.local_count))
    backend, wait = "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timedelta(seconds=timeout)
    try:
        store = _own_keys(next(dist.rendezvous("env://", timeout=wait))[0])
        shared = dist.PrefixStore("group", store)
        dist.init_process_group(
            backend, timeout=wait, store=shared, rank=ranks.rank, world_size=ranks.count
        )
    except (dist.DistError, RuntimeError, ValueError) as err:
        raise ValueError(_unreachable(ranks, str(err))) from err
    try:
        yield ranks
    except Exception as err:
        if is_lost(err):
            who = who_is_lost(err, store, ranks.rank, ranks.count, timeout)
            raise LostProcessError(f"{who}; {ranks.place}") from err
        err.add_note(ranks.place)
        told(err, store, ranks.rank)
        raise
    finally:
        dist.destroy_process_group()
        time.sleep(LETTING_GO)  # without the GIL, so that gloo's threads can have it


def _own_keys(store: Any) -> Any:
    """Return the store without entries of earlier starts, such as addresses of dead processes.

    torchrun restarts all processes with the same store. Its count of starts can tell them apart on
    one machine only: of several machines, each counts its own.
    """
    import torch.distributed as dist

    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"start {start}", store)


def _take_gpu(ranks: Ranks) -> None:
    """Make the GPU with this process's local rank its "cuda"."""
    if ranks.local_count > torch.cuda.device_count():
        raise ValueError(
            f"{ranks.local_count} processes on this machine and {torch.cuda.device_count()} GPUs; "
            f"start with --nproc-per-node {torch.cuda.device_count()}, or --device cpu"
        )
    torch.cuda.set_device(ranks.local_rank)


def _unreachable(ranks: Ranks, reason: str) -> str:
    """Return the error message, with a remedy, for processes that can't reach each other."""
    host, port = (os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    where = f"rank {ranks.rank} of {ranks.count} (at {host}:{port}) can't join the others"
    first = reason.splitlines()[0] if reason else "no reason given"
    if NO_ADDRESS in first:
        first = f"the interface {first.partition(NO_ADDRESS)[2]} has no address here"
        found = interfaces()
        names = [name for name, address in found.items() if address] or list(found)
        hint = f"choose GLOO_SOCKET_IFNAME among {', '.join(names)}"
    elif "EADDRINUSE" in reason or "already in use" in reason:
        hint = (
            "the port is taken: torchrun --standalone finds a free one, --master-port N names one"
        )
    else:
        hint = (
            "check --master-addr and --master-port, the firewall, and which interface leads there "
            "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
        )
    return f"{where}: {first[:200]}; {hint}"
