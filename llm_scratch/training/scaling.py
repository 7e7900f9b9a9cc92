"""Speed and cost of training with more processes: one run, started with 1, 2, ... of them.

Each start is a program of its own (`torchrun ... -m llm_scratch pretrain ...`), whose speed is read
from its log.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llm_scratch.files import read_json, read_text

WARM_UP = 3  # steps in which memory is allocated, DDP sorts its buckets, optimizers set up state
GRACE = 30.0  # seconds for torchrun to end its processes


@dataclass(frozen=True)
class Speed:
    """The training speed of a number of processes.

    Args:
        processes: the number of processes.
        shard: the kind of division among them.
        threads: threads per process.
        device: the device that they computed on.
        its_per_s: micro batches per second in each process.
        tokens_per_s: training tokens per second over all processes.
        efficiency: tokens per second and processor, relative to the first start that worked; a
            processor is a GPU, or a thread on the CPU.
        minutes: the duration of the planned run.
        cost: the cost of the planned run.
        reason: why there is no speed; "" if there is one.
    """

    processes: int
    shard: str = "none"
    threads: int | None = None
    device: str = ""
    its_per_s: float | None = None
    tokens_per_s: float | None = None
    efficiency: float | None = None
    minutes: float | None = None
    cost: float | None = None
    reason: str = ""

    @property
    def processors(self) -> int:
        """The number of GPUs, or of CPU threads, over all processes."""
        return self.processes * (1 if self.device.startswith("cuda") else self.threads or 1)


@dataclass(frozen=True)
class Price:
    """The price of an hour of training.

    Args:
        an_hour: the price per hour.
        of_each: whether the price is per process (per GPU, for example) or for all together.
    """

    an_hour: float
    of_each: bool = False

    def of(self, processes: int, minutes: float) -> float:
        """Return the cost of a number of processes for a number of minutes."""
        return self.an_hour * minutes / 60 * (processes if self.of_each else 1)


@dataclass(frozen=True)
class ScaleRun:
    """The run to start with each number of processes.

    Args:
        data: the token file.
        options: options of `llm-scratch pretrain`, other than those set here.
        steps: the number of timed updates.
        shard: the kind of division among several processes; a single one holds everything.
        tokens: the tokens of the planned run whose time and cost are wanted.
        price: the price of an hour; None computes no cost.
        warm_up: updates before the timed ones.
    """

    data: str
    tokens: int
    options: Sequence[str] = ()
    steps: int = 20
    shard: str = "none"
    price: Price | None = None
    warm_up: int = WARM_UP
    environment: Mapping[str, str] = field(default_factory=dict)

    def words(self, processes: int, out: str | os.PathLike[str]) -> list[str]:
        """Return the command line of one start."""
        steps = str(self.warm_up + self.steps)
        quiet = ["--log-every", "0", "--sample-every", "0", "--eval-batches", "1"]
        return [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "llm_scratch"),
            *("pretrain", *self.options, "--data", self.data, "--out", str(out)),
            *("--shard", self.shard if processes > 1 else "none", "--steps", steps),
            *("--eval-every", steps, "--save-every", steps, *quiet),
        ]


def measure_start(run: ScaleRun, processes: int) -> Speed:
    """Train with a number of processes and return their speed, or why there is none."""
    shard = run.shard if processes > 1 else "none"
    with tempfile.TemporaryDirectory(prefix="llm-scratch-scale-") as folder:
        out = Path(folder) / "run"
        code, said = run_to_end(run.words(processes, out), run.environment)
        if code:
            return Speed(processes, shard, reason=reason_in(said, code))
        try:
            return replace(speed_of_run(out, run.warm_up), shard=shard)
        except (ValueError, OSError, KeyError) as err:
            return Speed(processes, shard, reason=f"its folder can't be read: {err}")


def run_to_end(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a program; return its exit status and its output. It never outlives the caller."""
    child = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **environment},
    )
    try:
        said, _ = child.communicate()
    finally:
        if child.poll() is None:  # interrupted: torchrun ends its processes on SIGTERM
            child.terminate()
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
    return child.returncode, said


def reason_in(said: str, code: int) -> str:
    """Return the line that explains a failed start, from the output of torchrun and the ranks."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line.removeprefix("llm-scratch: ") for line in lines if line.startswith("llm-scratch: ")]
    if own:
        return own[-1]
    plain = [line.partition("]:")[2].strip() or line for line in lines]
    errors = [line for line in plain if line.partition(":")[0].endswith(("Error", "Exception"))]
    errors = [line for line in errors if not line.startswith("torch.distributed.elastic")]
    if errors:
        return errors[-1][:300]
    signals = [line for line in lines if "Signal" in line]
    return (signals or lines or [f"exit status {code}, without a word"])[-1][:300]


def speed_of_run(out: Path, warm_up: int) -> Speed:
    """Return the speed of the run in a folder.

    Raises:
        ValueError: if the run has too few steps.
    """
    from llm_scratch.training.config import StepPlan, TrainConfig
    from llm_scratch.training.run_folder import read_metrics

    settings = read_json(out / "config.json")
    place = json.loads(read_text(out / "environment.json"))[-1]  # of the only start
    config = TrainConfig(**settings["train"])
    length = config.length or settings["model"]["context_length"]
    plan = StepPlan.of(config, length, place["processes"])
    steps_per_s, tokens_per_s = steady_speed(read_metrics(out), warm_up)
    return Speed(
        processes=place["processes"],
        threads=place["threads"],
        device=place["device"],
        its_per_s=steps_per_s * plan.accumulation,
        tokens_per_s=tokens_per_s,
    )


def steady_speed(lines: Sequence[Mapping[str, Any]], warm_up: int) -> tuple[float, float]:
    """Return steps and tokens per second of a log, from the end of warm-up to the last step.

    The time of evaluations and checkpoints is left out. Only the steps and tokens after the
    warm-up count: n steps after it are n steps, not n + 1.

    Raises:
        ValueError: if no step follows the warm-up.
    """
    steps = [line for line in lines if "seconds" in line]
    timed = steps[warm_up:]
    if not timed:
        raise ValueError(f"{len(steps)} steps, {warm_up} of them to warm up; give more steps")
    before = steps[warm_up - 1]["tokens"] if warm_up else 0
    seconds = sum(line["seconds"] for line in timed)
    return len(timed) / seconds, (timed[-1]["tokens"] - before) / seconds


def with_outlook(speed: Speed, base: Speed | None, tokens: int, price: Price | None) -> Speed:
    """Return a speed completed by its efficiency, and the time and cost of a run of `tokens`.

    Args:
        speed: the measured speed.
        base: the speed to compare it with, usually of one process; None is `speed` itself.
        tokens: the tokens of the planned run.
        price: the price of an hour; None computes no cost.
    """
    if not speed.tokens_per_s:
        return speed
    base = base or speed
    each, base_each = (s.tokens_per_s / s.processors for s in (speed, base) if s.tokens_per_s)
    minutes = tokens / speed.tokens_per_s / 60
    cost = None if price is None else price.of(speed.processes, minutes)
    return replace(speed, efficiency=each / base_each, minutes=minutes, cost=cost)


def processes_of(text: str) -> list[int]:
    """Return the sorted numbers of processes in a text such as "1:4", "1,2,4,8" or "4".

    Raises:
        ValueError: if the text has another form, or a number is below 1.
    """
    try:
        first, colon, last = text.partition(":")
        found = list(range(int(first), int(last) + 1)) if colon else list(map(int, text.split(",")))
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"processes {text!r} must be like 1:4 (1 to 4) or 1,2,4, from 1 on")
    return sorted(set(found))


HEADS = {
    "processes": ("processes", "{}"),
    "threads": ("threads each", "{}"),
    "its_per_s": ("it/s each", "{:.3g}"),
    "tokens_per_s": ("tokens/s in all", "{:,.0f}"),
    "efficiency": ("efficiency", "{:.0%}"),
    "minutes": ("minutes", "{:,.1f}"),
    "cost": ("cost", "{:,.2f}"),
}


def heading(with_cost: bool) -> str:
    """Return the first line of the table."""
    heads = [head for name, (head, _) in HEADS.items() if with_cost or name != "cost"]
    return "  ".join(f"{head:>{max(len(head), 8)}}" for head in heads)


def as_row(speed: Speed, with_cost: bool) -> str:
    """Return a line of the table: the numbers, or the reason why there are none."""
    if speed.reason:
        return f"{speed.processes:>9}  failed: {speed.reason}"
    cells = []
    for name, (head, form) in HEADS.items():
        if name != "cost" or with_cost:
            value = getattr(speed, name)
            shown = "" if value is None else form.format(value)
            cells.append(f"{shown:>{max(len(head), 8)}}")
    return "  ".join(cells)


def write_table(path: str | os.PathLike[str], speeds: Sequence[Speed]) -> None:
    """Write speeds as CSV, one line per number of processes, including failed ones."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Speed)], lineterminator="\n")
        writer.writeheader()
        for speed in speeds:
            row = asdict(speed)
            writer.writerow({name: "" if value is None else value for name, value in row.items()})
