"""Measurements of a point in processes of its own, and their results merged."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_scratch.files import read_json, write_json
from llm_scratch.memory.outcomes import CRASHED, FAILED, OK, OOM, ran_out
from llm_scratch.memory.point import Point
from llm_scratch.memory.sweep_table import COUNTED
from llm_scratch.training.scaling import reason_in, run_to_end

PROGRAM = "llm_scratch.memory.measuring"
EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
TIMEOUT = 120.0


@dataclass(frozen=True)
class Starts:
    """The settings with which points are measured.

    Args:
        retries: how often a start is repeated that crashed for a reason other than memory.
        timeout: seconds that a process waits for the others.
        environment: variables for the processes, besides those of this one.
    """

    retries: int = 3
    timeout: float = TIMEOUT
    environment: Mapping[str, str] | None = None

    def measure(self, point: Point) -> dict[str, Any]:
        """Measure a point in new processes; return the results of a row.

        "state" is "ok", "oom" if memory ran out, or "failed"; the latter two have a "reason".
        """
        starts, found = 1, self._start(point)
        while found["state"] == CRASHED and starts <= self.retries:
            starts, found = starts + 1, self._start(point)
        state = FAILED if found["state"] == CRASHED else found["state"]
        return found | {"state": state, "starts": starts}

    def facts(self, device: str) -> dict[str, Any]:
        """Return the facts of the place in which new processes run (`place.facts_of`).

        Raises:
            ValueError: if there is no such device, or the processes can't be started.
        """
        with tempfile.TemporaryDirectory(prefix="llm-scratch-memory-") as name:
            folder = Path(name)
            write_json(folder / "point.json", {"process": os.getpid(), "device": device})
            code, said = run_to_end(_words(folder, 1), dict(self.environment or {}))
            if code:
                raise ValueError(reason_in(said, code).removeprefix("ValueError: "))
            return read_json(folder / "facts.json")

    def _start(self, point: Point) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="llm-scratch-memory-") as name:
            folder, ranks = Path(name), point.step.ranks
            asked = {"process": os.getpid(), "timeout": self.timeout, "row": point.as_row()}
            write_json(folder / "point.json", asked)
            killed = _killed_for_memory()
            environment = EXPANDABLE if point.allocator == "expandable" else {}
            code, said = run_to_end(
                _words(folder, ranks), {**(self.environment or {}), **environment}
            )
            found = [
                read_json(path) if (path := folder / f"rank-{rank}.json").exists() else None
                for rank in range(ranks)
            ]
        return outcome(point, found, code, said, _killed_for_memory() > killed)


def _words(folder: Path, ranks: int) -> list[str]:
    """Return the command that measures the point in a folder."""
    words = [sys.executable]
    if ranks > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*words, "-m", PROGRAM, str(folder)]


def outcome(
    point: Point,
    found: Sequence[Mapping[str, Any] | None],
    code: int,
    said: str,
    killed_for_memory: bool = False,
) -> dict[str, Any]:
    """Return the outcome of a start: results, "oom", "failed", or "crashed", which merits a retry.

    Args:
        point: the measured point.
        found: the results of each process, by rank; None if a process left none.
        code: the exit status.
        said: the output of the processes.
        killed_for_memory: whether the system killed a process meanwhile for lack of memory.
    """
    for state in (OOM, FAILED):
        for rank, each in enumerate(found):
            if each is not None and each["state"] == state:
                return {"state": state, "reason": _of_rank(rank, len(found)) + each["reason"]}
    whole = [each for each in found if each is not None]
    if len(whole) == len(found) and not code:
        return merged(point, whole)
    reason = reason_in(said, code)
    missing = [str(rank) for rank, each in enumerate(found) if each is None]
    if len(found) > 1 and missing:
        reason = f"nothing came from rank {', '.join(missing)} of {len(found)}: {reason}"
    is_out = ran_out(said) or (killed_for_memory and (code == -9 or "SIGKILL" in said))
    return {"state": OOM if is_out else CRASHED, "reason": reason}


def merged(point: Point, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the results of all processes into those of one row: least, mean and most of memory."""
    seconds = statistics.fmean(each["seconds"] for each in found)
    step = point.step
    samples = step.rows * step.accumulation * step.ranks / seconds
    results = {
        "state": OK,
        "seconds_per_step": f"{seconds:.6g}",
        "samples_per_s": f"{samples:.6g}",
        "tokens_per_s": f"{samples * step.tokens_a_row:.6g}",
        "epoch_seconds": f"{point.epoch_rows / samples:.6g}" if point.epoch_rows else None,
        "parameters": found[0]["parameters"],
        "threads": found[0]["threads"],
    }
    for name in COUNTED:
        numbers = [each["numbers"][name] for each in found if name in each["numbers"]]
        if numbers:
            results[f"{name}_min"], results[f"{name}_max"] = min(numbers), max(numbers)
            results[f"{name}_mean"] = round(statistics.fmean(numbers))
    main = main_number(found[0]["numbers"])
    most = max(found, key=lambda each: each["numbers"][main])
    results["most_on_rank"] = most["rank"]
    for name, key in (("num_alloc_retries", "retries"), ("num_ooms", "ooms")):
        if found[0][key] is not None:
            results[name] = sum(each[key] for each in found)
    return results


def main_number(numbers: Mapping[str, Any]) -> str:
    """Return the name of the number to compare with estimates: allocated, or resident on a CPU."""
    return "allocated" if "allocated" in numbers else "resident"


def _of_rank(rank: int, count: int) -> str:
    return f"rank {rank} of {count}: " if count > 1 else ""


def _killed_for_memory() -> int:
    """Return how many processes Linux has killed for memory so far; 0 if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
