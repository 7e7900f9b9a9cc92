"""`llm-scratch pretrain`, `eval` and `plot`: train a model on one's own text, and look at it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.device import pick_device
from llm_scratch.model.gpt import GPTModel
from llm_scratch.opening import open_model
from llm_scratch.plotting import plot_runs
from llm_scratch.text.token_file import TokenFile
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.training.config import TrainConfig, plan_step
from llm_scratch.training.loop import train
from llm_scratch.training.measuring import measure
from llm_scratch.training.optimizers import OPTIMIZERS
from llm_scratch.training.precision import PRECISIONS
from llm_scratch.training.presets import PRESETS
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.training.schedules import SCHEDULES
from llm_scratch.training.starting import first_rows
from llm_scratch.weights.folder import load_model

TRAIN_FRACTION = 0.9
MODEL_OPTIONS = ("emb_dim", "n_layers", "n_heads", "context_length", "drop_rate")
TRAIN_OPTIONS = tuple(field.name for field in fields(TrainConfig))
CHOICES = {"Schedule": SCHEDULES, "OptimizerName": OPTIMIZERS, "Precision": PRECISIONS}


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    add_pretrain(subparsers)
    add_eval(subparsers)
    parser = subparsers.add_parser("plot", help="draw loss, rate and gradient norm of runs")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that pretrain wrote")
    parser.add_argument("--out", default="runs.png", metavar="FILE", help="default: runs.png")
    parser.set_defaults(run=run_plot)


def add_pretrain(subparsers: Any) -> None:
    """Add `pretrain`, with an option for every setting."""
    parser = subparsers.add_parser("pretrain", help="train a model on a file of tokens")
    parser.add_argument("--data", metavar="FILE", help="what `llm-scratch prepare` wrote")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="default: tiny")
    parser.add_argument("--out", metavar="RUN", help="the run's folder; default: runs/DATA-PRESET")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    parser.add_argument("--init", metavar="MODEL", help="start from the weights in this folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--print-config", action="store_true", help="print all settings and stop")
    sizes = parser.add_argument_group("the model", "without them: the preset's")
    for field in fields(GPTConfig):
        if field.name in MODEL_OPTIONS:
            add_option(sizes, field, None)
    group = parser.add_argument_group("settings", "without them: the preset's")
    for field in fields(TrainConfig):
        add_option(group, field, about_settings().get(field.name))
    parser.set_defaults(run=run_pretrain)


def about_settings() -> dict[str, str]:
    """What the docstring of `TrainConfig` says about each setting."""
    text = (TrainConfig.__doc__ or "").partition("Args:")[2].partition("Raises:")[0]
    found = re.findall(r"^ {8}(\w+): (.+?)(?=^ {8}\w|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return {name: " ".join(about.split()).replace("%", "%%") for name, about in found}


def add_option(group: Any, field: Any, about: str | None) -> None:
    """Add a setting of a dataclass as an option of its type; left out, it is not in the result."""
    option = "--" + field.name.replace("_", "-")
    kind, _, optional = str(field.type).partition(" | ")
    common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": about, "dest": field.name}
    if kind == "bool":
        group.add_argument(option, action=argparse.BooleanOptionalAction, **common)
    elif kind in CHOICES:
        group.add_argument(option, choices=CHOICES[kind], **common)
    else:
        convert = {"int": int, "float": float, "str": str}[kind]
        metavar = {"int": "N", "float": "X", "str": "TEXT"}[kind]
        group.add_argument(
            option, type=or_none(convert) if optional else convert, metavar=metavar, **common
        )


def or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A converter that takes the word "none" too."""

    def converted(word: str) -> Any:
        return None if word.lower() == "none" else convert(word)

    converted.__name__ = convert.__name__  # what argparse calls the type in its message
    return converted


def run_pretrain(args: argparse.Namespace) -> int:
    """Train, or print what would be trained."""
    preset = PRESETS[args.preset]
    given = vars(args)
    config = replace(preset.train, **{n: given[n] for n in TRAIN_OPTIONS if n in given})
    sizes = replace(preset.model, **{n: given[n] for n in MODEL_OPTIONS if n in given})
    if args.print_config:
        print(json.dumps({"model": asdict(sizes), "train": asdict(config)}, indent=1))
        return 0
    if args.data is None:
        raise ValueError("--data is missing; llm-scratch prepare TEXT --out tokens.bin makes it")
    data = TokenFile(args.data)
    model = first_model(args, replace(sizes, vocab_size=data.vocab_size), config.seed)
    length = plan_step(config, model.cfg.context_length).length
    train_part, val_part = data.split(TRAIN_FRACTION, min_tokens=length + 1)
    out = args.out or f"runs/{Path(args.data).stem}-{args.preset}"
    state = train(
        model.to(pick_device(args.device)),
        train_part,
        config,
        validation=val_part,
        folder=out,
        tokenizer=data.tokenizer,
        resume=args.resume,
        progress=sys.stderr.isatty(),
    )
    print(
        f"{state.step} steps, {state.tokens:,} tokens; best validation loss {state.best_loss:.4f} "
        f"after step {state.best_step}; the model is in {out}: llm-scratch generate {out}"
    )
    return 0


def first_model(args: argparse.Namespace, cfg: GPTConfig, seed: int) -> GPTModel:
    """The model that the run starts with: GPT-2's initial weights, or those of `--init`."""
    if args.init is None:
        model = GPTModel.empty(cfg)
        model.init_weights(generator=torch.Generator().manual_seed(seed))
        return model
    if clash := [name for name in MODEL_OPTIONS if name in vars(args)]:
        raise ValueError(f"--init brings the model's sizes; leave out {', '.join(clash)}")
    return load_model(args.init)[0]


def add_eval(subparsers: Any) -> None:
    """Add `eval`."""
    parser = subparsers.add_parser("eval", help="measure a model on a file of tokens")
    parser.add_argument("model", metavar="RUN|MODEL", help="a run, a folder, a file, or a name")
    parser.add_argument("--data", required=True, metavar="FILE", help="what `prepare` wrote")
    parser.add_argument(
        "--part",
        choices=("val", "train", "all"),
        help="default: val for the file that the run was trained on, else all",
    )
    parser.add_argument("--length", type=int, metavar="N", help="default: the context length")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="rows at a time: 8")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    parser.set_defaults(run=run_eval)


def run_eval(args: argparse.Namespace) -> int:
    """Print loss, perplexity and bits per byte."""
    data = TokenFile(args.data)
    model, tokenizer = open_model(args.model, device=pick_device(args.device))
    if tokenizer is not None and fingerprint(tokenizer) != data.fingerprint:
        raise ValueError(
            f"{args.model} has the tokenizer {fingerprint(tokenizer)[:12]}..., {args.data} was "
            f"made with {data.fingerprint[:12]}...; prepare the text with the model's tokenizer"
        )
    if data.vocab_size > model.cfg.vocab_size:
        raise ValueError(
            f"{args.data} has a vocabulary of {data.vocab_size} ids, the model of "
            f"{model.cfg.vocab_size}; they do not belong together"
        )
    length = args.length or model.cfg.context_length
    part_name = args.part or ("val" if trained_on(Path(args.model), data) else "all")
    part = data.whole
    if part_name != "all":
        part = data.split(TRAIN_FRACTION, min_tokens=length + 1)[part_name == "val"]
    found = measure(model, part, length, args.rows, data.id_bytes, precision=args.precision)
    print(f"part           {part_name}, {found.targets:,} targets, {length} tokens a window")
    print(f"loss           {found.loss:.4f} nats per token")
    print(f"perplexity     {found.perplexity:.3f}")
    shown = "unknown: the file has no tokenizer"
    if found.bits_per_byte is not None:
        shown = f"{found.bits_per_byte:.4f}"
    print(f"bits per byte  {shown}")
    return 0


def trained_on(run: Path, data: TokenFile) -> bool:
    """Whether a run learned from this file."""
    try:
        content = json.loads((run / "config.json").read_text(encoding="utf-8"))
        length = content["train"]["length"] or content["model"]["context_length"]
        noted = content["data"]["first rows"]
        part = data.split(TRAIN_FRACTION, min_tokens=length + 1)[0]
        return first_rows(part, length) == noted
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_plot(args: argparse.Namespace) -> int:
    """Write a picture of one or several runs."""
    runs = {str(run): read_metrics(run) for run in args.runs}
    try:
        figure = plot_runs(runs)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ValueError("plot needs matplotlib; pip install matplotlib brings it") from error
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=150)
    print(f"Picture: {args.out}")
    return 0
