"""`llm-scratch finetune classify|instruct|prefer` and `classify`: a model learns a task."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from llm_scratch.cli.pretrain import about_settings, add_option
from llm_scratch.finetuning.dpo_training import finetune_preferences
from llm_scratch.finetuning.instruction_rows import instruction_rows, show_mask
from llm_scratch.finetuning.instruction_tuning import answer, finetune_instructions, stopped_share
from llm_scratch.finetuning.instructions import load_instructions
from llm_scratch.finetuning.labelled_rows import read_rows, read_sms
from llm_scratch.finetuning.labelled_texts import ClassificationDataset
from llm_scratch.finetuning.prompts import STYLES
from llm_scratch.finetuning.scores import accuracy, score_table
from llm_scratch.finetuning.text_classifier import (
    Classifier,
    Trained,
    finetune_classifier,
    load_class_names,
    replace_head,
)
from llm_scratch.judging.judge import exact_match, token_f1
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.device import pick_device
from llm_scratch.opening import open_model
from llm_scratch.text.corpora import find_data
from llm_scratch.training.config import TrainConfig
from llm_scratch.weights.folder import save_model

RATES = {"classify": 5e-4, "instruct": 3e-4, "prefer": 2e-5}
EPOCHS = {"classify": 5, "instruct": 3, "prefer": 1}
TRAIN_OPTIONS = tuple(
    field.name for field in fields(TrainConfig) if field.name not in ("sample_prompt", "compile")
)
VALIDATION, TEST = 0.1, 0.1


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = subparsers.add_parser("finetune", help="teach a model a task")
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    task = add_task(tasks, "classify", "to sort texts into classes", run_classify_task)
    task.add_argument("--train", choices=get_args(Trained), help="default: last block")
    task = add_task(tasks, "instruct", "to follow instructions", run_instruct_task)
    task.add_argument("--learn-prompt", action="store_true", help="learn the prompts as well")
    task.add_argument("--packing", action="store_true", help="several rows in one context")
    task.add_argument("--show-mask", type=int, nargs="?", const=3, metavar="N",
                      help="show what is learned of N rows, and stop")  # fmt: skip
    add_style(task)
    task = add_task(tasks, "prefer", "to prefer the chosen of two answers (DPO)", run_prefer_task)
    task.add_argument("--beta", type=float, default=0.1, help="how close to the reference: 0.1")
    add_style(task)
    use = subparsers.add_parser("classify", help="say which class texts belong to")
    use.add_argument("model", metavar="RUN", help="what `finetune classify` wrote")
    use.add_argument("texts", nargs="*", metavar="TEXT", help="without one: a line each from input")
    use.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    use.set_defaults(run=run_classify)


def add_style(task: argparse.ArgumentParser) -> None:
    """Add the choice of a prompt style."""
    task.add_argument("--style", choices=STYLES, default="alpaca", help="default: alpaca")


def add_task(tasks: Any, name: str, about: str, run: Any) -> argparse.ArgumentParser:
    """Add one task with what all tasks have."""
    task = tasks.add_parser(name, help=about, description=f"Teach a model {about}.")
    task.add_argument("model", metavar="MODEL", help="a run, a folder, a file, or a name like gpt2")
    task.add_argument("--data", required=True, metavar="FILE", help="a file, or a name of ours")
    task.add_argument("--out", metavar="RUN", help=f"the run's folder; default: runs/{name}")
    task.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    task.add_argument("--epochs", type=float, default=EPOCHS[name],
                      help=f"how often all rows are seen: {EPOCHS[name]}")  # fmt: skip
    task.add_argument("--lora", type=int, metavar="RANK", help="train LoRA matrices of this rank")
    task.add_argument("--alpha", type=float, help="LoRA's scale is alpha / RANK; default: RANK")
    task.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    group = task.add_argument_group("settings", "without them: the task's")
    for field in fields(TrainConfig):
        if field.name in TRAIN_OPTIONS:
            add_option(group, field, about_settings().get(field.name))
    task.set_defaults(run=run, task=name)
    return task


def run_classify_task(args: argparse.Namespace) -> int:
    """Train a classifier, and print how good it is on the test part."""
    path = data_path(args.data)
    rows = read_sms(path, quotes=False) if path.suffix != ".csv" else read_rows(path)
    names = sorted({label for label, _ in rows})
    model, tokenizer = model_with_tokenizer(args)
    make = partial(ClassificationDataset, tokenizer=tokenizer, class_names=names,
                   max_length=model.cfg.context_length)  # fmt: skip
    train, validation, test = (make(part) for part in split(rows, seed_of(args)))
    if args.lora is not None and args.train is not None:
        raise ValueError("--train chooses among the model's own layers; leave it out with --lora")
    replace_head(model, len(names), "head" if args.lora else args.train or "last block")
    model.to(model.tok_emb.weight.device)
    config = config_of(args, len(train))
    state = finetune_classifier(
        model, tokenizer, train, validation, config, **run_options(args, model)
    )
    done(args, state)
    best = open_classifier(out_of(args), args.device)
    matrix = best.evaluate(test)
    print(score_table(matrix, names))
    print(f"accuracy on {len(test)} test texts: {accuracy(matrix):.2%}")
    print(f'llm-scratch classify {out_of(args)} "a text"')
    return 0


def run_instruct_task(args: argparse.Namespace) -> int:
    """Train on instructions, and print how the answers to the test part are."""
    style, entries = STYLES[args.style], load_instructions(data_path(args.data))
    model, tokenizer = model_with_tokenizer(args)
    train, validation, test = split(entries, seed_of(args))
    if args.show_mask is not None:
        length = model.cfg.context_length
        shown = train[: args.show_mask]
        rows = instruction_rows(shown, tokenizer, style=style, max_length=length,
                                answer_only=not args.learn_prompt)  # fmt: skip
        for row in range(len(rows)):
            print(show_mask(tokenizer, *rows[row], color=sys.stdout.isatty()), end="\n\n")
        return 0
    config = config_of(args, len(train))
    state = finetune_instructions(
        model, tokenizer, train, validation, config, style=style, packing=args.packing,
        answer_only=not args.learn_prompt, **run_options(args, model),
    )  # fmt: skip
    done(args, state)
    best, _ = open_model(out_of(args), device=pick_device(args.device))
    found = answer(best, tokenizer, test, style=style, max_new_tokens=100)
    pairs = list(zip(found, test, strict=True))
    exact = sum(exact_match(mine.text, entry["output"]) for mine, entry in pairs) / len(pairs)
    overlap = sum(token_f1(mine.text, entry["output"]) for mine, entry in pairs) / len(pairs)
    print(
        f"{len(test)} test instructions: {exact:.1%} answered exactly, token F1 {overlap:.2f}, "
        f"{stopped_share(found):.1%} ended by themselves"
    )
    print(f'llm-scratch generate {out_of(args)} --style {style.name} --prompt "an instruction"')
    return 0


def run_prefer_task(args: argparse.Namespace) -> int:
    """Train on pairs of answers."""
    pairs = json.loads(data_path(args.data).read_text(encoding="utf-8"))
    if not isinstance(pairs, list):
        raise ValueError(f"{args.data} must hold a list of entries with chosen and rejected")
    model, tokenizer = model_with_tokenizer(args)
    train, validation, test = split(pairs, seed_of(args))
    config = config_of(args, len(train))
    state = finetune_preferences(
        model, tokenizer, train, validation + test, config, beta=args.beta,
        prompt_of=STYLES[args.style].prompt, **run_options(args, model),
    )  # fmt: skip
    done(args, state)
    return 0


def run_classify(args: argparse.Namespace) -> int:
    """Print the class and its probability before each text."""
    classifier = open_classifier(args.model, args.device)
    texts = args.texts or [line for line in sys.stdin.read().splitlines() if line.strip()]
    if not texts:
        raise ValueError('there is no text; llm-scratch classify RUN "a text"')
    classes, probabilities = classifier.classify(texts)
    for name, values, text in zip(classes, probabilities.tolist(), texts, strict=True):
        print(f"{name}\t{max(values):.3f}\t{text}")
    return 0


def open_classifier(folder: str, device: str) -> Classifier:
    """The classifier in a run's folder, saved whole or as an adapter."""
    names = load_class_names(folder)
    model, tokenizer = open_model(folder, device=pick_device(device))
    return Classifier(model, tokenizer, names)


def data_path(name: str) -> Path:
    """The file that is meant: where it is, or one of the project's own by its name."""
    return Path(name) if Path(name).is_file() else find_data(name)


def split(rows: Sequence[Any], seed: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Rows in a random order, as a training, a validation and a test part.

    Raises:
        ValueError: if a part would be empty.
    """
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    test, validation = (int(share * len(mixed)) for share in (TEST, VALIDATION))
    if not test or not validation:
        raise ValueError(f"{len(mixed)} rows are too few for three parts; give ten or more")
    return (
        mixed[test + validation :],
        mixed[test : test + validation],
        mixed[:test],
    )


def model_with_tokenizer(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model to start from; with LoRA in its blocks, if that was asked for."""
    model, tokenizer = open_model(args.model, device=pick_device(args.device))
    if tokenizer is None:
        raise ValueError(f"{args.model} has no tokenizer; save it with save_model first")
    if args.alpha is not None and args.lora is None:
        raise ValueError("--alpha belongs to --lora RANK")
    return model, tokenizer


def run_options(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """What every task gives to its run; puts LoRA into the model where it was asked for."""
    save_best: Any = save_model
    if args.lora is not None:
        alpha = args.lora if args.alpha is None else args.alpha
        replace_linear_with_lora(
            model, args.lora, alpha, targets="trf_blocks", freeze_base=args.task != "classify"
        )
        save_best = partial(save_adapter, base=str(args.model))
    return {
        "folder": out_of(args),
        "resume": args.resume,
        "progress": sys.stderr.isatty(),
        "save_best": save_best,
    }


def config_of(args: argparse.Namespace, rows: int) -> TrainConfig:
    """The settings of a run over so many rows: by default an evaluation an epoch."""
    given = {name: vars(args)[name] for name in TRAIN_OPTIONS if name in vars(args)}
    step_rows = given.get("micro_batch", 8) * (given.get("accumulation") or 1)
    epoch = max(1, rows // step_rows)
    steps = max(1, round(args.epochs * rows / step_rows))
    config = TrainConfig(
        steps=given.get("steps", steps), learning_rate=RATES[args.task],
        eval_every=epoch, save_every=epoch, log_every=max(1, epoch // 4),
    )  # fmt: skip
    return replace(config, **given)


def seed_of(args: argparse.Namespace) -> int:
    """The seed of the split, which is the run's."""
    return vars(args).get("seed", TrainConfig().seed)


def out_of(args: argparse.Namespace) -> str:
    """The folder of the run."""
    return args.out or f"runs/{args.task}"


def done(args: argparse.Namespace, state: Any) -> None:
    """Print where the run stands."""
    print(
        f"{state.step} steps; best validation loss {state.best_loss:.4f} after step "
        f"{state.best_step}; the model is in {out_of(args)}"
    )
