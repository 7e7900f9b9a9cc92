"""`llm-scratch memory`: the memory of a run, estimated and measured, and what makes it fit."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from llm_scratch.cli.memory_measuring import add_measuring
from llm_scratch.cli.memory_step import add_step, options_of, step_of
from llm_scratch.cli.options import add_command, add_group, add_option

OTHER_TOOLS, HEADROOM = ("deepspeed", "accelerate"), 0.15
USAGE = "MODEL [--batch N] [--length N] [options]"
ESTIMATE = "memory estimate llama3-8b --length 2048 --gpus 8 --shard full"


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "estimate the memory that a run needs, and measure it"
    commands = add_group(subparsers, "memory", about, ESTIMATE)
    add_estimate(commands)
    about = "count the tensors of a step at full size, without allocating them"
    example = "memory check gpt2 --batch 4 --length 256"
    parser = add_command(commands, "check", about, example, run_check, USAGE)
    add_step(parser, described=True)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_suggest(commands)
    add_measuring(commands)


def add_estimate(commands: Any) -> None:
    """Add `estimate`."""
    about = "estimate the memory of a training step, or of generation, term by term"
    parser = add_command(commands, "estimate", about, ESTIMATE, run_estimate, USAGE)
    add_step(parser, described=True)
    parser.add_argument("--generate", action="store_true",
                        help="estimate generation: weights, and keys and values of --batch "
                             "texts of --length tokens")  # fmt: skip
    parser.add_argument("--like", choices=OTHER_TOOLS,
                        help="print the estimate of another tool, and what it leaves out; default: "
                             "none")  # fmt: skip
    add_option(parser, "--like-version TEXT", "the other tool's version",
               usual="the oldest known")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def add_suggest(commands: Any) -> None:
    """Add `suggest`."""
    about = "suggest settings that make a step fit, and show what they cost"
    example = "memory suggest llama3-8b --memory 40GiB --gpus 8 --length 2048"
    usage = "MODEL --memory SIZE [--gpus N] [options]"
    parser = add_command(commands, "suggest", about, example, run_suggest, usage)
    parser.add_argument("--memory", required=True, metavar="SIZE", type=_size,
                        help="memory of each GPU, such as 40GiB or 24GB; required")  # fmt: skip
    add_option(parser, "--headroom X", "share of it left to the allocator, kernels and "
               "libraries", HEADROOM)  # fmt: skip
    add_step(parser, described=True)
    parser.set_defaults(precision="bfloat16", loss_chunk=None)
    for action in parser._actions:
        if action.dest == "precision":
            action.help = "number format of matrix products; default: bfloat16"
        elif action.dest == "loss_chunk":
            action.help = "tokens whose logits are in memory at a time; default: all, at first"
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _size(text: str) -> int:
    from llm_scratch.memory.point import bytes_of

    try:
        return bytes_of(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from None


def run_estimate(args: argparse.Namespace) -> int:
    """Print terms, formulas and peaks."""
    from llm_scratch.cli.memory_tables import estimate_text, generation_text
    from llm_scratch.memory.estimate import estimate_memory
    from llm_scratch.memory.generating import estimate_generation

    if args.like is not None:
        return _run_like(args)
    if args.like_version is not None:
        raise ValueError("--like-version goes with --like")
    if args.generate:
        generated = estimate_generation(args.model, args.batch, args.length, args.weights)
        print(_json(generated.as_json()) if args.json else generation_text(args.model, generated))
        return 0
    estimate = estimate_memory(step_of(args))
    print(_json(estimate.as_json()) if args.json else estimate_text(args.model, estimate))
    return 0


def _run_like(args: argparse.Namespace) -> int:
    """Print the figures of another tool."""
    from llm_scratch.cli.memory_tables import like_text
    from llm_scratch.memory.models import model_config
    from llm_scratch.memory.other_tools import like

    found = like(args.like, model_config(args.model), args.ranks, args.like_version)
    print(_json(found.as_json()) if args.json else like_text(args.model, found))
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print the estimated and the tracked bytes side by side, by kind."""
    from llm_scratch.cli.memory_tables import check_json, check_text
    from llm_scratch.memory.estimate import estimate_memory
    from llm_scratch.memory.tracking import track_step

    # The tracker follows a CPU's kernels, so the estimate beside it is of a CPU too.
    step = replace(step_of(args), device="cpu")
    estimate, tracked = estimate_memory(step), track_step(step)
    print(_json(check_json(estimate, tracked)) if args.json else check_text(estimate, tracked))
    return 0


def run_suggest(args: argparse.Namespace) -> int:
    """Print the rungs up to the one that fits; return 1 if none does."""
    from llm_scratch.cli.memory_tables import advice_json, advice_text
    from llm_scratch.memory.suggest import suggest

    options = options_of(args)
    gpus = options.pop("ranks")
    advice = suggest(args.model, args.memory, gpus=gpus, headroom=args.headroom, **options)
    print(_json(advice_json(advice)) if args.json else advice_text(args.model, advice))
    return 0 if advice.found is not None else 1


def _json(values: Any) -> str:
    return json.dumps(values, indent=1)
