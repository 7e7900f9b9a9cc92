"""`llm-scratch pretrain`, `eval` and `plot`: train a model on your own text, and examine it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.options import (
    add_command,
    add_device,
    add_foreign_ids,
    add_model,
    add_option,
    add_precision,
    matching,
    open_asked,
    save_picture,
)
from llm_scratch.cli.outlook import print_outlook
from llm_scratch.cli.processes import (
    add_processes,
    add_snapshot,
    in_processes,
    training_options,
)
from llm_scratch.cli.settings import LLAMA_SIZES, SETTINGS, SIZES, add_settings, shown_defaults
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.families import FAMILIES
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.training.config import TrainConfig, plan_step
from llm_scratch.training.presets import PRESETS

if TYPE_CHECKING:
    from llm_scratch.text.mixed_files import MixedFiles
    from llm_scratch.text.token_file import TokenFile

ALL_SIZES = (*SIZES, *LLAMA_SIZES)


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    add_pretrain(subparsers)
    add_eval(subparsers)
    about = "draw the loss, learning rate and gradient norm of runs, and logged memory"
    parser = add_command(subparsers, "plot", about, "plot runs/one runs/two", run_plot)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    add_option(parser, "--out FILE", "the picture", "runs.png")


def add_pretrain(subparsers: Any) -> None:
    """Add `pretrain`, with an option for every setting."""
    parser = add_command(
        subparsers,
        "pretrain",
        "train a model on a token file",
        "pretrain --data tokens.bin --preset small --out RUN",
        run_pretrain,
        usage="--data FILE [--preset NAME] [--out RUN] [options]",
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--data", metavar="FILE",
                      help="the token file or folder of parts that llm-scratch prepare made; "
                           "required, except with --mix, --estimate or "
                           "--print-config")  # fmt: skip
    data.add_argument("--mix", metavar="FILE:SHARE", nargs="+",
                      help="several files, each with its share of the tokens, such as "
                           "a.bin:0.9 b.bin:0.1; default: one file")  # fmt: skip
    add_foreign_ids(parser)
    parser.add_argument("--preset", choices=PRESETS, default="tiny",
                        help="sizes and settings to start from; default: tiny")  # fmt: skip
    add_option(parser, "--out RUN", "the run's folder", usual="runs/DATA-PRESET")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the run in that folder, with a different --steps if you like",
    )
    parser.add_argument("--init", metavar="MODEL",
                        help="start from the weights of a model: a run, a folder, a file, or a "
                             "name such as gpt2 or hub:ORG/NAME; default: new weights")  # fmt: skip
    add_device(parser)
    add_precision(parser)
    add_processes(parser)
    add_snapshot(parser)
    parser.add_argument("--print-config", action="store_true", help="print all settings and stop")
    parser.add_argument("--estimate", action="store_true",
                        help="print the tokens, steps, hours and memory of the run and stop; "
                             "data is not required")  # fmt: skip
    add_option(parser, "--rate X", "tokens per second, for the hours of an estimate",
               usual="measured here in a few steps")  # fmt: skip
    group = parser.add_argument_group("the model")
    group.add_argument("--family", choices=FAMILIES, default="gpt2",
                       help="the model's architecture; default: gpt2")  # fmt: skip
    shown = shown_defaults({name: preset.model for name, preset in PRESETS.items()}, SIZES)
    add_settings(group, GPTConfig, SIZES, shown)
    llamas = {name: preset.sizes("llama") for name, preset in PRESETS.items()}
    add_settings(group, LlamaConfig, LLAMA_SIZES, shown_defaults(llamas, LLAMA_SIZES))
    group = parser.add_argument_group("settings")
    shown = shown_defaults({name: preset.train for name, preset in PRESETS.items()}, SETTINGS)
    add_settings(group, TrainConfig, SETTINGS, shown)


def run_pretrain(args: argparse.Namespace) -> int:
    """Train, or print what would be trained."""
    preset, given = PRESETS[args.preset], vars(args)
    train_options = {name: given[name] for name in (*SETTINGS, "precision") if name in given}
    config = replace(preset.train, **train_options)
    sizes = preset.sizes(args.family, **{name: given[name] for name in ALL_SIZES if name in given})
    if args.print_config:
        print(json.dumps({"model": asdict(sizes), "train": asdict(config)}, indent=1))
        return 0
    if args.rate is not None and not args.estimate:
        raise ValueError("--rate goes with --estimate; leave it out")
    has_data = args.data is not None or args.mix is not None
    if args.estimate:
        return print_outlook(args, config, sizes, open_data(args) if has_data else None)
    if not has_data:
        raise ValueError("--data is missing; llm-scratch prepare TEXT --out tokens.bin makes it")
    return train_model(args, config, sizes)


@in_processes
def train_model(args: argparse.Namespace, config: TrainConfig, sizes: Any) -> int:
    """Train, as one process or as one of several."""
    from llm_scratch.training.loop import train

    data = open_data(args)
    model = first_model(args, sizes, data, config.seed)
    length = plan_step(config, model.cfg.context_length, args.ranks.count).length
    train_part, val_part = data.split(min_tokens=length + 1)
    out = args.out or f"runs/{Path(args.data).stem if args.data else 'mix'}-{args.preset}"
    options = training_options(args)
    if args.division.shard != "full":  # "full" moves each part itself
        model.to(options["device"])
    state = train(
        model,
        train_part,
        config,
        validation=val_part,
        folder=out,
        tokenizer=data.tokenizer,
        resume=args.resume,
        **options,
    )
    print(
        f"{state.step} steps, {state.tokens:,} tokens; best validation loss {state.best_loss:.4f} "
        f"after step {state.best_step}; the model is in {out}: llm-scratch generate {out}"
    )
    return 0


def open_data(args: argparse.Namespace) -> TokenFile | MixedFiles:
    """Return the data of the run: a token file, or several in a mix."""
    from llm_scratch.text.mixed_files import MixedFiles
    from llm_scratch.text.token_file import TokenFile

    open_file = partial(TokenFile, tokenizer=args.tokenizer, dtype=args.dtype)
    return open_file(args.data) if args.mix is None else MixedFiles(args.mix, open_file)


def first_model(
    args: argparse.Namespace, sizes: Any, data: TokenFile | MixedFiles, seed: int
) -> Any:
    """Return the model that the run starts with: a new one, or that of `--init`."""
    from llm_scratch.opening import open_model
    from llm_scratch.training.measuring import check_vocabularies
    from llm_scratch.training.starting import new_model

    if args.init is None:
        sizes = replace(sizes, vocab_size=data.vocab_size)
        return new_model(sizes, seed, later=args.division.shard == "full")
    if clash := [f"--{name.replace('_', '-')}" for name in ALL_SIZES if name in args]:
        raise ValueError(f"--init brings the model's sizes; leave out {', '.join(clash)}")
    model, tokenizer = open_model(args.init, need_tokenizer=False)
    check_vocabularies(model, tokenizer, data)
    return model


def add_eval(subparsers: Any) -> None:
    """Add `eval`."""
    about, example = "measure a model on a token file", "eval RUN --data tokens.bin"
    parser = add_command(subparsers, "eval", about, example, run_eval)
    add_model(parser)
    parser.add_argument("--data", required=True, metavar="FILE",
                        help="the token file or folder of parts that llm-scratch prepare made; "
                             "other files are read with the model's tokenizer")  # fmt: skip
    add_foreign_ids(parser, tokenizer=False)
    parser.add_argument("--part", choices=("val", "train", "all"),
                        help="part of the file; default: val if the run was trained on this file, "
                             "else all")  # fmt: skip
    add_option(parser, "--length N", "tokens per row", usual="the model's context length")
    add_option(parser, "--rows N", "rows in memory at a time", 8)
    add_device(parser)
    add_precision(parser)


def run_eval(args: argparse.Namespace) -> int:
    """Print loss, perplexity and bits per byte."""
    from llm_scratch.text.token_file import TokenFile
    from llm_scratch.training.measuring import check_vocabularies, measure, part_to_measure

    model, tokenizer = open_asked(args, need_tokenizer=False)
    data = TokenFile(args.data, tokenizer=tokenizer, dtype=args.dtype)
    check_vocabularies(model, tokenizer, data)
    length = args.length or model.cfg.context_length
    name, part = part_to_measure(data, length, name=args.part, run=args.model)
    found = measure(model, part, length, args.rows, data.id_bytes, precision=args.precision)
    print(f"part           {name}, {found.targets:,} targets, {length} tokens per window")
    print(f"loss           {found.loss:.4f} nats per token")
    print(f"perplexity     {found.perplexity:.3f}")
    shown = "unknown: the file has no tokenizer"
    if found.bits_per_byte is not None:
        shown = f"{found.bits_per_byte:.4f}"
    print(f"bits per byte  {shown}")
    return 0


def run_plot(args: argparse.Namespace) -> int:
    """Write a picture of one or more runs."""
    from llm_scratch.plotting.learning import plot_runs
    from llm_scratch.training.run_folder import read_metrics

    runs = {str(run): read_metrics(run) for name in args.runs for run in matching(name)}
    save_picture(args.out, lambda: plot_runs(runs))
    if any(line.get("memory") for lines in runs.values() for line in lines):
        from llm_scratch.plotting.memory import plot_stages

        out = Path(args.out)
        picture = out.with_name(f"{out.stem}-memory{out.suffix}")
        save_picture(str(picture), lambda: plot_stages(runs))
    return 0
