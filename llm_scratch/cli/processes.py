"""Training in several processes: the options, and a command that runs under torchrun."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from typing import Any

from llm_scratch.cli.options import add_option
from llm_scratch.training.division import SHARDS, Division


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the division among processes, and how long each waits for the others."""
    group = parser.add_argument_group(
        "several processes",
        "started by torchrun --standalone --nproc-per-node N -m llm_scratch ...",
    )
    add_division(group)
    add_option(group, "--timeout X", "seconds that a process waits for the others", 120.0)


def add_division(group: Any) -> None:
    """Add the division of a model among processes."""
    group.add_argument("--shard", choices=SHARDS, default="none",
                       help="what is divided among processes: none, the optimizer's state, or all "
                            "(full); default: none")  # fmt: skip
    group.add_argument("--reshard", choices=("yes", "no"), default="yes",
                       help="with --shard full: divide a block again after its forward pass, or "
                            "keep it whole for the backward pass; default: yes")  # fmt: skip
    group.add_argument("--offload", action="store_true",
                       help="with --shard full: keep the divided parts in the host's "
                            "memory")  # fmt: skip
    group.add_argument("--mesh", metavar="CxP", type=_mesh,
                       help="with --shard full: C copies of the model, each divided into P "
                            "parts; default: one copy")  # fmt: skip


def add_snapshot(parser: argparse.ArgumentParser) -> None:
    """Add the record of CUDA's allocator."""
    parser.add_argument("--memory-snapshot", metavar="FILE",
                        help="on CUDA: write every allocation to this file, for PyTorch's "
                             "memory-snapshot page; default: none")  # fmt: skip


def _mesh(text: str) -> tuple[int, int]:
    copies, _, parts = text.partition("x")
    if not (copies.isdigit() and parts.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} must be like 2x4: copies, parts")
    return int(copies), int(parts)


def division_of(args: argparse.Namespace) -> Division:
    """Return the division that the options ask for."""
    return Division(args.shard, args.reshard == "yes", args.offload, args.mesh)


def in_processes(run: Callable[..., int]) -> Callable[..., int]:
    """Make a command join the processes that torchrun has started; only the first one prints.

    The command finds the processes as `args.ranks`, and their division as `args.division`.
    """

    @functools.wraps(run)
    def joined_run(args: argparse.Namespace, *rest: Any) -> int:
        from llm_scratch.training.distributed import joined, number_of_processes

        args.division = division_of(args)
        args.division.check(number_of_processes())
        with ExitStack() as stack:
            args.ranks = stack.enter_context(joined(args.device, args.timeout))
            if not args.ranks.first:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(warnings.catch_warnings(action="ignore"))
            return run(args, *rest)

    return joined_run


def training_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `train` on the processes, the device and the display."""
    import torch

    from llm_scratch.model.device import pick_device

    device = pick_device(args.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return {
        "ranks": args.ranks,
        "division": args.division,
        "device": device,
        "memory_snapshot": args.memory_snapshot,
        "progress": args.ranks.first and sys.stderr.isatty(),
    }
