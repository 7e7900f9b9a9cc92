"""`llm-scratch finetune chat`: a model learns to answer in conversations."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from llm_scratch.cli.conversations import add_reading, read_asked
from llm_scratch.cli.finetune_runs import add_task, config_of, done, out_of, run_options, seed_of
from llm_scratch.cli.options import add_option, open_asked
from llm_scratch.finetuning.runs import CHAT_PRESETS

EXAMPLE = "finetune chat RUN --data conversations.jsonl --format vicuna"


def add_chat(tasks: Any) -> None:
    """Add the task to those of `finetune`."""
    task = add_task(
        tasks,
        "chat",
        "to answer in conversations",
        EXAMPLE,
        run_chat_task,
        forms="JSON or JSON Lines of conversations of any kind",
        example_data="conversations.jsonl",
    )
    about = "conversation format, such as chatml or guanaco-llama2"
    add_option(task, "--format NAME", about, usual="the model's own")
    task.add_argument(
        "--preset",
        choices=CHAT_PRESETS,
        help="settings of a whole run, any of which you can still change; default: those below",
    )
    task.add_argument(
        "--add-tokens",
        action="store_true",
        help="add the format's special tokens that the model lacks; the whole model must learn "
        "them, so not with --lora",
    )
    task.add_argument("--packing", action="store_true",
                      help="pack several conversations into one row, hidden from each "
                           "other")  # fmt: skip
    add_reading(task)
    add_option(task, "--samples N", "held-out questions to answer at each sample", 8)


def run_chat_task(args: argparse.Namespace) -> int:
    """Train on conversations, and print how many answers to the test part end by themselves."""
    from llm_scratch.finetuning.conversation_tuning import (
        answer_conversations,
        conversation_parts,
        finetune_conversations,
        first_prompt,
        sample_answers,
    )
    from llm_scratch.finetuning.instruction_tuning import stopped_share
    from llm_scratch.finetuning.splits import split_rows

    found, summary = read_asked(args, args.data, args.skip_bad)
    print(summary)
    opened = open_asked(args)
    model, tokenizer = opened
    form = chat_format(args, opened.format)
    if args.add_tokens:
        tokenizer = with_tokens(args, model, tokenizer, form)
    train, validation, test = split_rows(found, seed_of(args))
    parts = conversation_parts(
        model,
        tokenizer,
        train,
        validation,
        format=form,
        packing=args.packing,
        length=vars(args).get("length"),
        log=lambda line: None,  # the run says it too
    )
    config = config_of(args, len(parts[0]))
    options = run_options(args, model)
    if args.samples:
        options["write_sample"] = sample_answers(
            tokenizer, test[: args.samples], format=form, max_new_tokens=config.sample_tokens
        )
    else:
        config = replace(config, sample_every=0)
    done(args, finetune_conversations(model, tokenizer, *parts, config, format=form, **options))
    if not args.ranks.first:
        return 0
    best, _ = open_asked(args, out_of(args))
    answers = answer_conversations(
        best, tokenizer, [first_prompt(each) for each in test], format=form,
        max_new_tokens=config.sample_tokens,
    )  # fmt: skip
    print(f"{stopped_share(answers):.1%} of {len(test)} test answers ended by themselves")
    return 0


def with_tokens(args: argparse.Namespace, model: Any, tokenizer: Any, form: Any) -> Any:
    """Return the tokenizer with the format's special tokens, and give the model rows for them.

    Raises:
        ValueError: if an adapter is trained, which could not hold them.
    """
    from llm_scratch.lora.layers import lora_layers
    from llm_scratch.weights.vocabulary import add_tokens

    if args.lora is not None or lora_layers(model):
        raise ValueError(
            "--add-tokens needs the whole model to learn: an adapter can hold no new tokens; leave "
            "--lora out, or use a plain-text format such as guanaco-llama2"
        )
    return add_tokens(model, tokenizer, getattr(form, "controls", ()))


def chat_format(args: argparse.Namespace, own: Any) -> Any:
    """Return the format of `--format`, or the model's own.

    Raises:
        ValueError: if there is neither.
    """
    from llm_scratch.conversations.formats import FORMATS, find_format

    if args.format is not None:
        return find_format(args.format)
    if own is None:
        raise ValueError(
            f"{args.model} does not say how a conversation becomes text for it; give --format: "
            f"{', '.join(FORMATS)}"
        )
    return own
