"""`llm-scratch memory measure`, `sweep` and `plot`: the measured memory of training steps."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.memory_step import add_step, step_of
from llm_scratch.cli.options import add_command, add_option, matching, save_picture
from llm_scratch.cli.processes import in_processes
from llm_scratch.memory.models import model_config
from llm_scratch.memory.point import ALLOCATORS, Point, bytes_of
from llm_scratch.memory.sweep_table import COUNTED, row_of

if TYPE_CHECKING:
    from pathlib import Path

    from llm_scratch.memory.sweep import Walk
    from llm_scratch.memory.sweep_files import Curve
    from llm_scratch.plotting.memory import MemoryCurve

USAGE = "MODEL [--length N] [--batch N] [options]"
SWEEP = "memory sweep gpt2 --length 64:1024:64 --batch 1 --out gpt2.csv"


def add_measuring(commands: Any) -> None:
    """Add these commands to the group `memory`."""
    about = "take some training steps, and measure their memory and time"
    example = "memory measure gpt2 --batch 2 --length 256"
    parser = add_command(commands, "measure", about, example, run_measure, USAGE)
    add_step(parser)
    add_measured(parser)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_option(parser, "--timeout X", "seconds that a process waits for the others", 120.0)
    add_sweep(commands)
    about = "draw sweeps, ours and the series', with the law fitted to them"
    example = "memory plot gpt2.csv --out gpt2.png"
    parser = add_command(commands, "plot", about, example, run_plot)
    parser.add_argument("files", nargs="+", metavar="FILE", help="files of sweeps")
    parser.add_argument("--estimate", action="store_true", help="draw the estimates beside them")
    add_option(parser, "--number NAME", "allocated, active, resident or reserved",
               usual="the first of these that was measured")  # fmt: skip
    add_option(parser, "--out FILE", "the picture", "memory.png")


def add_measured(parser: Any) -> None:
    """Add the options of a measurement."""
    group = parser.add_argument_group("how it is measured")
    add_option(group, "--steps N", "steps to time, after some to warm up", Point.steps)
    group.add_argument("--limit", metavar="SIZE", type=size,
                       help="memory that a process may use, such as 6GiB (on Linux beyond what it "
                            "holds before the model, or on CUDA); "
                            "default: all there is")  # fmt: skip
    group.add_argument("--allocator", choices=ALLOCATORS, default="default",
                       help="on CUDA: expandable lets segments of GPU memory grow in place; "
                            "default: default")  # fmt: skip
    group.add_argument("--tune-allocator", action=argparse.BooleanOptionalAction, default=False,
                       help="keep freed memory for the next step, as runs do (Linux, on a CPU); "
                            "default: off")  # fmt: skip
    group.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                       help="compile the model; default: off")  # fmt: skip
    add_option(group, "--epoch-rows N", "rows of an epoch whose time is estimated", usual="none")
    add_option(group, "--seed N", "determines weights and ids", Point.seed)


def add_sweep(commands: Any) -> None:
    """Add `sweep`."""
    about = "measure many such steps, each in a process of its own, into a file"
    parser = add_command(commands, "sweep", about, SWEEP, run_sweep,
                         "MODEL --out FILE [--length LIST] [options]")  # fmt: skip
    add_step(parser, lists=True)
    add_measured(parser)
    group = parser.add_argument_group("the sweep")
    group.add_argument("--out", required=True, metavar="FILE",
                       help="the CSV; if an earlier start of the same sweep began it, the sweep "
                            "resumes")  # fmt: skip
    until = group.add_mutually_exclusive_group()
    until.add_argument("--until-oom", action="store_true",
                       help="stop at the first point that runs out of memory")  # fmt: skip
    until.add_argument("--largest", action="store_true",
                       help="search for the largest point that fits, by bisection")  # fmt: skip
    group.add_argument("--vary", action="append", default=[], metavar="NAME=LIST",
                       help="sweep with each of these values of an option, such as "
                            "checkpoint-blocks=0,1; with several, each combination; "
                            "default: none")  # fmt: skip
    add_option(group, "--processes N", "processes per point", 1)
    add_option(group, "--repeats N", "starts per point", 1)
    add_option(group, "--retries N", "restarts of a point that crashed", 3)
    add_option(group, "--timeout X", "seconds that a process waits for the others", 120.0)


def size(text: str) -> int:
    """Return the bytes of a size, for argparse."""
    try:
        return bytes_of(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from None


def point_of(args: argparse.Namespace, **step: Any) -> Point:
    """Return the point that the options describe."""
    names = ("model", "steps", "limit", "allocator", "tune_allocator", "compile", "epoch_rows",
             "seed")  # fmt: skip
    return Point(step_of(args, **step), **{name: vars(args)[name] for name in names})


def run_measure(args: argparse.Namespace) -> int:
    """Print the memory and time of a step; return 1 if memory runs out."""
    from llm_scratch.memory.starts import EXPANDABLE

    if args.allocator == "expandable":  # before PyTorch asks for it
        os.environ.update(EXPANDABLE)
    return measure_joined(args)


@in_processes
def measure_joined(args: argparse.Namespace) -> int:
    """Measure, as one process or as one of several."""
    from llm_scratch.memory.measuring import measure_here
    from llm_scratch.memory.outcomes import OOM
    from llm_scratch.memory.starts import merged
    from llm_scratch.model.device import pick_device

    point = point_of(args, ranks=args.ranks.count, device=pick_device(args.device).type)
    found = measure_here(point, args.ranks)
    if found["state"] == OOM:
        print(f"llm-scratch: out of memory: {found['reason']}", file=sys.stderr, flush=True)
        if args.json:
            print(json.dumps({"state": OOM, "reason": found["reason"]}), flush=True)
        if args.ranks.count > 1:  # torchrun ends the others, which wait for this one
            os._exit(1)
        return 1
    results = merged(point, args.ranks.gather(found))
    if args.json:
        print(json.dumps({**row_of(results), **point.as_row()}, indent=1))
    else:
        _print_results(point, results)
    return 0


def _print_results(point: Point, results: Mapping[str, Any]) -> None:
    """Print the results of a point, one per line."""
    step = point.step
    print(f"model            {point.model}, {results['parameters']:,} parameters")
    print(f"step             {step.ranks} x {step.accumulation} x {step.rows} rows of "
          f"{step.tokens_a_row} tokens, {step.compute_type} on {step.device}")  # fmt: skip
    for name in COUNTED:
        if f"{name}_max" in results:
            least, mean, most = (results[f"{name}_{of}"] / 2**20 for of in ("min", "mean", "max"))
            ranks = f" (mean {mean:,.1f}, least {least:,.1f})" if step.ranks > 1 else ""
            above = " above what was there before the model" if name == "resident" else ""
            print(f"{name:16} {most:,.1f} MiB{ranks}{above}")
    print(f"seconds per step {results['seconds_per_step']}")
    print(f"samples/s        {results['samples_per_s']}")
    print(f"tokens/s         {results['tokens_per_s']}")
    if results["epoch_seconds"]:
        print(f"epoch            {results['epoch_seconds']} s for {point.epoch_rows:,} rows")
    if results.get("num_alloc_retries"):
        print(f"retries          {results['num_alloc_retries']} of the allocator: near the limit")


def run_sweep(args: argparse.Namespace) -> int:
    """Measure points into a file; return 1 if all of them failed."""
    from llm_scratch.memory.outcomes import FAILED
    from llm_scratch.memory.starts import Starts
    from llm_scratch.memory.sweep import Sweep

    starts = Starts(args.retries, args.timeout)
    if args.device == "auto":  # refuse a wrong plan before the first start
        walks_of(args, "cuda" if args.allocator == "expandable" else "cpu")
    facts = starts.facts(args.device)
    until: Any = "oom" if args.until_oom else "largest" if args.largest else "end"
    sweep = Sweep(args.out, walks_of(args, facts["device"]), facts, starts.measure, until=until,
                  repeats=args.repeats, log=partial(print, flush=True))  # fmt: skip
    rows = sweep.run()
    print(f"Table: {args.out}, {len(rows)} rows")
    return int(all(row["state"] == FAILED for row in rows))


def walks_of(args: argparse.Namespace, device: str) -> list[Walk]:
    """Return the walks of a sweep: along batches where there are several, else along lengths."""
    from llm_scratch.memory.sweep import Walk, range_of

    context = model_config(args.model).context_length
    lengths = range_of(args.length or str(context), "length").up_to(context)
    batches = range_of(args.batch, "batch")
    walks = []
    for given in combinations(args):
        for length in range(lengths.size or 0) if batches.size != 1 else [0]:
            given.length, given.batch = lengths[length], batches[0]
            start = point_of(given, ranks=args.processes, device=device)
            if batches.size == 1:
                walks.append(Walk(start, "length", lengths))
            else:
                walks.append(Walk(start, "batch", batches))
    return walks


def combinations(args: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """Yield the options of a sweep with each combination of the values of `--vary`.

    Raises:
        ValueError: if it names no option of a step, or a value that the option refuses.
    """
    varied = []
    for words in args.vary:
        name, _, values = words.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if not name or not values:
            raise ValueError(f"--vary {words!r} must be like checkpoint-blocks=0,1")
        if name in ("length", "batch"):
            raise ValueError(f"--vary {words!r}: --{name} takes a list itself")
        varied.append([(name.replace("-", "_"), value_of(name, v)) for v in values.split(",")])
    for options in product(*varied):
        yield argparse.Namespace(**{**vars(args), **dict(options)})


def value_of(name: str, text: str) -> Any:
    """Return the value of a step's option from its text; yes or no for a flag."""
    parser = _Raising(add_help=False, allow_abbrev=False)
    add_step(parser)
    add_measured(parser)
    try:
        return vars(parser.parse_args(["MODEL", f"--{name}={text}"]))[name.replace("-", "_")]
    except ValueError as err:
        if text in ("yes", "no") and "ignored explicit argument" in str(err):
            return text == "yes"
        raise ValueError(f"--vary {name}={text}: {err}") from None


class _Raising(argparse.ArgumentParser):
    """A parser whose errors are raised."""

    def error(self, message: str) -> Any:
        """Raise the message."""
        raise ValueError(message)


def run_plot(args: argparse.Namespace) -> int:
    """Print the law of each curve, and draw all curves."""
    from llm_scratch.memory.curves import main_number
    from llm_scratch.memory.sweep_files import read_sweep
    from llm_scratch.plotting.memory import plot_memory

    paths = [path for name in args.files for path in matching(name)]
    curves, axes, numbers = {}, set(), set()
    for path in paths:
        for curve in read_sweep(path):
            number = main_number(path, curve, args.number)
            label = ", ".join(filter(None, (_name_among(path, paths), curve.label)))
            curves[label] = _drawn(path, curve, number, label, args.estimate)
            axes.add(curve.axis)
            numbers.add(number)
    if len(axes - {""}) > 1:
        raise ValueError(
            "some of these are over lengths, others over batches; draw them separately"
        )
    number = " / ".join(sorted(numbers))
    save_picture(args.out, lambda: plot_memory(curves, axis=max(axes), number=number))
    return 0


def _name_among(path: Path, paths: Sequence[Path]) -> str:
    """Return the shortest end of a path that no other path has."""
    for length in range(1, len(path.parts)):
        name = path.parts[-length:]
        if sum(other.parts[-length:] == name for other in paths) == 1:
            return "/".join(name)
    return str(path)


def _drawn(path: Path, curve: Curve, number: str, label: str, estimate: bool) -> MemoryCurve:
    """Print the law of a curve, and return the curve to draw."""
    from llm_scratch.memory.curves import (
        estimated_points,
        law_of,
        law_points,
        law_text,
        measured_points,
    )
    from llm_scratch.plotting.memory import MemoryCurve

    law = law_of(curve, number)
    text = law_text(law, curve.axis)
    print(f"{label}: {number}: {text}")
    points = measured_points(curve, number)
    estimates = estimated_points(path, curve) if estimate else []
    if estimates:
        print(f"{label}: {_off_by(points, dict(estimates))}")
    return MemoryCurve(points, estimates, law_points(curve, law), text, curve.out)


def _off_by(points: Sequence[tuple[float, ...]], estimates: Mapping[float, float]) -> str:
    """Return a line on how far estimates are from the means that were measured."""
    off = sorted((estimates[x] / mean - 1 for x, _, mean, _ in points), key=abs)
    return f"estimates are off by {off[len(off) // 2]:+.1%} (median) and {off[-1]:+.1%} (most)"
