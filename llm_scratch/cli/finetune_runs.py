"""The parts that the fine-tuning commands share: their options, and a run's start and end."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.options import (
    Run,
    add_command,
    add_device,
    add_model,
    add_option,
    add_precision,
)
from llm_scratch.cli.processes import (
    add_processes,
    add_snapshot,
    in_processes,
    training_options,
)
from llm_scratch.cli.settings import SETTINGS, add_settings, shown_defaults
from llm_scratch.finetuning.runs import TASKS, run_config
from llm_scratch.training.config import TrainConfig

if TYPE_CHECKING:
    from llm_scratch.training.loop import RunOptions
    from llm_scratch.training.starting import RunState

OPTIONS = {
    name: about for name, about in SETTINGS.items() if name not in ("sample_prompt", "compile")
}


def add_task(
    tasks: Any,
    name: str,
    about: str,
    example: str,
    run: Run,
    *,
    forms: str = "JSON, JSON Lines, CSV or TSV",
    example_data: str = "instructions.json",
) -> argparse.ArgumentParser:
    """Add one task with the options of all tasks.

    Args:
        tasks: the group to add it to.
        name: the word that runs it.
        about: the task, after "teach a model".
        example: a whole command line without `llm-scratch`.
        run: the function that does the work.
        forms: the formats that its data may have.
        example_data: a data set of that kind.
    """
    usage = "MODEL --data FILE [--out RUN] [options]"
    task = add_command(tasks, name, f"teach a model {about}", example, in_processes(run), usage)
    task.set_defaults(task=name)
    add_model(task)
    task.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help=f"{forms}, or the name of a data set such as {example_data}",
    )
    task.add_argument("--out", metavar="RUN", help=f"the run's folder; default: runs/{name}")
    task.add_argument("--resume", action="store_true", help="resume the run in that folder")
    add_option(task, "--epochs X", "passes over all rows", usual=f"{TASKS[name].epochs:g}")
    add_option(
        task, "--lora RANK", "train LoRA matrices of this rank", usual="the model's own layers"
    )
    add_option(task, "--alpha X", "scale LoRA by alpha / RANK", usual="RANK")
    add_device(task)
    add_precision(task)
    add_processes(task)
    add_snapshot(task)
    usual = TASKS[name]
    shown = shown_defaults({name: TrainConfig(**usual.settings)}, OPTIONS) | {
        "steps": "set by --epochs",
        "learning_rate": f"{usual.learning_rate:g}",
        "eval_every": "an epoch",
        "save_every": "an epoch",
        "log_every": "a quarter of an epoch",
    }
    if usual.sampled:
        shown["sample_every"] = "an epoch"
    add_settings(task.add_argument_group("settings"), TrainConfig, OPTIONS, shown)
    return task


def run_options(args: argparse.Namespace, model: Any, **head: Any) -> RunOptions:
    """Make the model ready for its task, and return the options that all tasks give to a run."""
    import torch

    from llm_scratch.finetuning.preparing import prepare_model

    torch.manual_seed(seed_of(args))  # new parameters are drawn
    save_best = prepare_model(model, base=args.model, lora=args.lora, alpha=args.alpha, **head)
    return {
        "folder": out_of(args),
        "resume": args.resume,
        "save_best": save_best,
        **training_options(args),  # type: ignore[typeddict-item]
    }


def config_of(args: argparse.Namespace, rows: int) -> TrainConfig:
    """Return the settings of a run over this many rows."""
    given = {name: vars(args)[name] for name in (*OPTIONS, "precision") if name in args}
    preset = vars(args).get("preset")
    processes = args.ranks.count
    return run_config(
        args.task, rows, epochs=args.epochs, preset=preset, processes=processes, **given
    )


def seed_of(args: argparse.Namespace) -> int:
    """Return the seed of the run, which also splits the rows and draws new parameters."""
    return vars(args).get("seed", TrainConfig.seed)


def out_of(args: argparse.Namespace) -> str:
    """Return the folder of the run."""
    return args.out or f"runs/{args.task}"


def done(args: argparse.Namespace, state: RunState) -> None:
    """Print the steps and the best loss of the run, and the folder of the model."""
    print(
        f"{state.step} steps; best validation loss {state.best_loss:.4f} after step "
        f"{state.best_step}; the model is in {out_of(args)}"
    )
