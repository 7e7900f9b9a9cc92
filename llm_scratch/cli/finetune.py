"""`llm-scratch finetune classify|instruct|prefer|chat` and `classify`: a model learns a task."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, get_args

from llm_scratch.cli.finetune_chat import add_chat
from llm_scratch.cli.finetune_runs import add_task, config_of, done, out_of, run_options, seed_of
from llm_scratch.cli.options import (
    add_command,
    add_device,
    add_group,
    add_model,
    add_option,
    add_precision,
    data_path,
    dtype_of,
    open_asked,
    standard_input,
)
from llm_scratch.files import lines_of
from llm_scratch.finetuning.runs import Trained

if TYPE_CHECKING:
    from llm_scratch.finetuning.text_classifier import Classifier
    from llm_scratch.opening import OpenModel

EXAMPLE = "finetune instruct RUN --data instructions.json --lora 8 --out helper"


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    tasks = add_group(subparsers, "finetune", "teach a model a task", EXAMPLE, "TASK")
    example = "finetune classify RUN --data messages.tsv --train all --out spam"
    task = add_task(tasks, "classify", "to sort texts into classes", example, run_classify_task)
    task.add_argument(
        "--train",
        choices=get_args(Trained),
        help="part to train; default: last block, or with --lora the head",
    )
    task = add_task(tasks, "instruct", "to follow instructions", EXAMPLE, run_instruct_task)
    task.add_argument("--learn-prompt", action="store_true", help="train on the prompts as well")
    task.add_argument("--packing", action="store_true", help="pack several rows into one context")
    task.add_argument(
        "--show-mask",
        type=int,
        nargs="?",
        const=3,
        metavar="N",
        help="show which tokens of N rows are learned, and stop; default: 3 rows",
    )
    add_format(task, "the model's own, else book")
    about = "to prefer the chosen of two answers (DPO)"
    example = "finetune prefer helper --data preferences.json --out polite"
    task = add_task(tasks, "prefer", about, example, run_prefer_task)
    add_option(task, "--beta X", "how close the model stays to its starting weights", 0.1)
    add_format(task, "the model's own, else book")
    add_chat(tasks)
    about, example = "print the class of each text", 'classify spam "Reply now and win"'
    use = add_command(subparsers, "classify", about, example, run_classify)
    add_model(use)
    use.add_argument("texts", nargs="*", metavar="TEXT",
                     help="texts to classify; without one, each line of "
                          "standard input")  # fmt: skip
    add_device(use)
    add_precision(use)


def add_format(task: argparse.ArgumentParser, usual: str, more: str = "") -> None:
    """Add the choice of a conversation format."""
    about = f"conversation format of the prompt, such as book or chatml{more}"
    add_option(task, "--format NAME", about, usual=usual)


def run_classify_task(args: argparse.Namespace) -> int:
    """Train a classifier, and print its scores on the test part."""
    from llm_scratch.finetuning.labelled_rows import read_labelled
    from llm_scratch.finetuning.labelled_texts import split_texts
    from llm_scratch.finetuning.scores import accuracy, score_table
    from llm_scratch.finetuning.text_classifier import finetune_classifier

    rows = read_labelled(data_path(args.data), log=print)
    model, tokenizer = open_asked(args)
    train, validation, test = split_texts(
        rows, tokenizer, seed=seed_of(args), max_length=model.cfg.context_length
    )
    options = run_options(args, model, num_classes=len(train.class_names), trained=args.train)
    config = config_of(args, len(train))
    done(args, finetune_classifier(model, tokenizer, train, validation, config, **options))
    if not args.ranks.first:
        return 0
    matrix = open_classifier(args, out_of(args)).evaluate(test)
    print(score_table(matrix, test.class_names))
    print(f"accuracy on {len(test)} test texts: {accuracy(matrix):.2%}")
    print(f'llm-scratch classify {out_of(args)} "a text"')
    return 0


def run_instruct_task(args: argparse.Namespace) -> int:
    """Train on instructions, and print the scores of the answers to the test part."""
    from llm_scratch.finetuning.answer_scores import score_answers
    from llm_scratch.finetuning.instruction_tuning import (
        answer,
        finetune_instructions,
        instruction_parts,
    )
    from llm_scratch.finetuning.instructions import load_instructions
    from llm_scratch.finetuning.splits import split_rows

    entries = load_instructions(data_path(args.data))
    model, tokenizer = opened = open_asked(args)
    form = format_for(args, opened)
    train, validation, test = split_rows(entries, seed_of(args))
    if args.show_mask is not None:
        return print_masks(args, train[: args.show_mask], opened, form)
    parts = instruction_parts(
        model,
        tokenizer,
        train,
        validation,
        format=form,
        answer_only=not args.learn_prompt,
        packing=args.packing,
        length=vars(args).get("length"),
        log=lambda line: None,  # the run says it too
    )
    config, options = config_of(args, len(parts[0])), run_options(args, model)
    done(args, finetune_instructions(model, tokenizer, *parts, config, format=form, **options))
    if not args.ranks.first:
        return 0
    best, _ = open_asked(args, out_of(args))
    found = answer(best, tokenizer, test, format=form, max_new_tokens=100)
    exact, overlap, stopped = score_answers(found, test)
    print(
        f"{len(test)} test instructions: {exact:.1%} answered exactly, token F1 {overlap:.2f}, "
        f"{stopped:.1%} ended by themselves"
    )
    print(f'llm-scratch generate {out_of(args)} --format auto --prompt "an instruction"')
    return 0


def format_for(args: argparse.Namespace, opened: OpenModel) -> Any:
    """Return the format of `--format`, else the model's own, else the book's."""
    from llm_scratch.conversations.formats import find_format

    if args.format is None and opened.format is not None:
        return opened.format
    return find_format(args.format or "book")


def print_masks(args: argparse.Namespace, entries: Any, opened: OpenModel, form: Any) -> int:
    """Print some instructions with the tokens that would be learned."""
    from llm_scratch.finetuning.instruction_rows import instruction_rows, show_mask
    from llm_scratch.tokenizers.bpe_display import terminal_has_colours

    model, tokenizer = opened
    rows = instruction_rows(
        entries,
        tokenizer,
        format=form,
        max_length=model.cfg.context_length,
        answer_only=not args.learn_prompt,
    )
    for row in range(len(rows)):
        print(show_mask(tokenizer, *rows[row], color=terminal_has_colours()), end="\n\n")
    return 0


def run_prefer_task(args: argparse.Namespace) -> int:
    """Train on pairs of answers."""
    from llm_scratch.finetuning.dpo_training import finetune_preferences
    from llm_scratch.finetuning.preference_rows import load_preferences
    from llm_scratch.finetuning.splits import split_rows

    pairs = load_preferences(data_path(args.data))
    model, tokenizer = opened = open_asked(args)
    train, validation, test = split_rows(pairs, seed_of(args))
    state = finetune_preferences(
        model,
        tokenizer,
        train,
        validation + test,
        config_of(args, len(train)),
        beta=args.beta,
        format=format_for(args, opened),
        **run_options(args, model),
    )
    done(args, state)
    return 0


def run_classify(args: argparse.Namespace) -> int:
    """Print the class and its probability before each text."""
    classifier = open_classifier(args)
    texts = args.texts or [line for line in lines_of(standard_input()) if line.strip()]
    if not texts:
        raise ValueError('no text to classify: llm-scratch classify MODEL "a text"')
    classes, probabilities = classifier.classify(texts)
    for name, values, text in zip(classes, probabilities.tolist(), texts, strict=True):
        print(f"{name}\t{max(values):.3f}\t{text}")
    return 0


def open_classifier(args: argparse.Namespace, source: str | None = None) -> Classifier:
    """Open MODEL, or the model in a run's folder, with the names of its classes."""
    from llm_scratch.finetuning.text_classifier import Classifier, load_class_names

    model, tokenizer = open_asked(args, source, dtype=dtype_of(args.precision))
    names = model.class_names or load_class_names(source or args.model)
    return Classifier(model, tokenizer, names)
