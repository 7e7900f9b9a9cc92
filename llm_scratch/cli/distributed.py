"""`llm-scratch distributed check` and `scale`: test several processes before a long run."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from llm_scratch.cli.options import add_command, add_group, add_option, save_picture
from llm_scratch.cli.pretrain import add_pretrain
from llm_scratch.training.division import SHARDS

START = "torchrun --standalone --nproc-per-node 2 -m llm_scratch distributed check"
OWN_OPTIONS = ("out", "resume", "print_config", "steps", "eval_every", "save_every")


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "check several processes, and measure the gain from more of them"
    commands = add_group(subparsers, "distributed", about, "distributed check")
    about = "show each process, how they differ, and how fast they exchange tensors"
    parser = add_command(commands, "check", about, "distributed check --rounds 3", run_check)
    parser.epilog = f"{parser.epilog}\nunder torchrun:\n  {START}"
    add_option(parser, "--sizes LIST", "megabytes of the tensors to send, such as 1,25,100",
               "0.004,1,25,100")  # fmt: skip
    add_option(parser, "--rounds N", "number of times to measure each", 5)
    add_option(parser, "--timeout X", "seconds that a process waits for the others", 120.0)
    add_scale(commands)


def add_scale(commands: Any) -> None:
    """Add `scale`."""
    parser = add_command(
        commands,
        "scale",
        "train for a few steps with one process, two, and so on, and compare them",
        "distributed scale --data tokens.bin --processes 1:4 -- --length 64",
        run_scale,
        usage="--data FILE [options] [-- OPTION ...]",
    )
    parser.add_argument("options", nargs="*", metavar="OPTION",
                        help="options of pretrain, after --: sizes, settings, device")  # fmt: skip
    parser.add_argument("--data", required=True, metavar="FILE",
                        help="the token file or folder of parts that llm-scratch prepare "
                             "made")  # fmt: skip
    add_option(
        parser, "--processes LIST", "numbers of processes: 1:4 for 1 to 4, or 1,2,4,8", "1:2"
    )
    add_option(parser, "--preset NAME", "sizes and settings to start from", "tiny")
    parser.add_argument("--shard", choices=SHARDS, default="none",
                        help="what is divided among processes; default: none")  # fmt: skip
    add_option(parser, "--steps N", "steps to time, after 3 to warm up", 20)
    group = parser.add_argument_group("the run whose time and cost are estimated")
    add_option(group, "--tokens N", "its tokens", usual="those of its epochs")
    add_option(group, "--epochs X", "passes over the training part of the file", 1.0)
    add_option(group, "--price X", "price per hour", usual="no cost is computed")
    group.add_argument("--price-of", choices=("machine", "process"), default="machine",
                       help="what that price covers: all processes together, or each; default: "
                            "machine")  # fmt: skip
    group = parser.add_argument_group("output")
    add_option(group, "--out FILE", "the table as CSV", usual="none")
    add_option(group, "--picture FILE", "the table as a picture", usual="none")


def run_check(args: argparse.Namespace) -> int:
    """Print the ranks, their differences, and how fast they exchange tensors."""
    from llm_scratch.model.device import pick_device
    from llm_scratch.training.distributed import joined, number_of_processes
    from llm_scratch.training.distributed_check import facts_of, time_exchanges

    sizes = _bytes_of(args.sizes)
    if number_of_processes() == 1:
        raise ValueError(
            "distributed check needs several processes started by torchrun, and there is one; "
            f"start it with {START} (on several machines: the torchrun line of the run itself)"
        )
    with joined("auto", args.timeout) as ranks:
        device = pick_device("auto")
        facts = ranks.gather(facts_of(ranks, device))
        timings = time_exchanges(ranks, device, sizes, args.rounds)
        return _report(facts, timings) if ranks.first else 0


def _report(facts: Any, timings: Any) -> int:
    """Print the report, once for all processes."""
    from llm_scratch.training.distributed_check import (
        differences,
        hazards,
        table,
        timing_table,
    )

    print(f"{table(facts)}\n\n{timing_table(timings)}\n")
    differing, dangers = differences(facts), hazards(facts)
    for line in differing:
        print(f"differs: {line}")
    for line in dangers:
        print(f"beware: {line}")
    if not differing:
        print(f"All {len(facts)} processes match.")
    return 0


def _bytes_of(sizes: str) -> list[int]:
    """Return the bytes of sizes in megabytes: "1,25" -> [1000000, 25000000]."""
    try:
        found = [round(float(size) * 1e6) for size in sizes.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 4:
        raise ValueError(f"--sizes {sizes!r} must be megabytes, such as 1,25,100")
    return found


def run_scale(args: argparse.Namespace) -> int:
    """Print a line for each number of processes; 1 if none of them trained."""
    from llm_scratch.training.scaling import (
        Price,
        ScaleRun,
        as_row,
        heading,
        measure_start,
        processes_of,
        with_outlook,
        write_table,
    )

    counts = processes_of(args.processes)
    asked = _check_options(args)
    if args.steps < 1 or args.epochs <= 0 or (args.price or 0) < 0:
        raise ValueError("--steps must be 1 or more, --epochs above 0, and --price 0 or more")
    price = None if args.price is None else Price(args.price, args.price_of == "process")
    tokens = args.tokens or _tokens_of(args, asked)
    options = ["--preset", args.preset, *args.options]
    run = ScaleRun(args.data, tokens, options, args.steps, args.shard, price)
    print(f"A run of {tokens:,} tokens; {args.steps} steps timed after {run.warm_up} to warm up")
    print(heading(price is not None), flush=True)
    speeds: list[Any] = []
    for count in counts:
        found = measure_start(run, count)
        base = next((speed for speed in speeds if not speed.reason), None)
        speeds.append(with_outlook(found, base, tokens, price))
        print(as_row(speeds[-1], price is not None), flush=True)
    print(_legend(speeds))
    if args.out is not None:
        write_table(args.out, speeds)
        print(f"Table: {args.out}")
    worked = any(not speed.reason for speed in speeds)
    if args.picture is not None and worked:
        from llm_scratch.plotting.scaling import plot_scaling

        save_picture(args.picture, lambda: plot_scaling(list(map(asdict, speeds))))
    return 0 if worked else 1


def _check_options(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options of pretrain, and refuse those that this command decides."""
    parser = argparse.ArgumentParser()
    add_pretrain(parser.add_subparsers())
    asked = parser.parse_args(["pretrain", *args.options])
    plain = parser.parse_args(["pretrain"])
    for name in (*OWN_OPTIONS, "data", "shard", "preset"):
        if getattr(asked, name, None) != getattr(plain, name, None):
            option = f"--{name.replace('_', '-')}"
            hint = "give it before --" if name in vars(args) and name != "out" else "leave it out"
            raise ValueError(f"{option} comes after --, but distributed scale sets it; {hint}")
    return asked


def _tokens_of(args: argparse.Namespace, asked: argparse.Namespace) -> int:
    """Return the number of tokens in the epochs of `--epochs`."""
    from llm_scratch.text.token_file import TokenFile

    data = TokenFile(args.data, tokenizer=asked.tokenizer, dtype=asked.dtype)
    return round(args.epochs * len(data.split()[0]))


def _legend(speeds: Any) -> str:
    """Return a line on what the efficiency is relative to."""
    first = next((speed for speed in speeds if not speed.reason), None)
    if first is None:
        return "No start succeeded."
    unit = "GPU" if first.device.startswith("cuda") else "thread"
    return (
        f"efficiency: tokens per second per {unit}, relative to {first.processes} "
        f"process{'es' if first.processes > 1 else ''}; it/s: micro batches of each process"
    )
