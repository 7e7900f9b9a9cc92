"""`llm-scratch generate`: a model continues a prompt."""

from __future__ import annotations

import argparse
import secrets
import sys
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llm_scratch.checks import check_count
from llm_scratch.cli.finetune import add_format
from llm_scratch.cli.options import (
    add_command,
    add_device,
    add_model,
    add_option,
    add_precision,
    dtype_of,
    open_asked,
    standard_input,
)
from llm_scratch.data_files import file_texts, holds_rows
from llm_scratch.files import lines_of, read_text

if TYPE_CHECKING:
    from llm_scratch.conversations.encoding import Format
    from llm_scratch.generation.choosing import SamplingSettings
    from llm_scratch.generation.texts import Generation, Prompt

SAMPLED_ONLY = ("top_k", "top_p", "min_p", "seed")
INTERRUPTED = 130


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = add_command(
        subparsers,
        "generate",
        "continue a prompt with a model",
        'generate RUN --prompt "The clock" --temperature 0.8 --top-k 50',
        run_generate,
        usage="MODEL [--prompt TEXT] [options]",
    )
    add_model(parser)
    add_prompts(parser)
    add_sampling(parser)
    add_device(parser)
    add_precision(parser, "int8")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add the prompts, the length of the text, and how it is shown."""
    parser.add_argument("--prompt", action="append", metavar="TEXT",
                        help="text to continue; may be repeated; - is standard input; "
                             "default: -")  # fmt: skip
    parser.add_argument("--prompts-file", metavar="FILE",
                        help="a text file with one prompt per line, or JSON, JSON Lines, CSV or "
                             "TSV with a field named prompt; default: no file")  # fmt: skip
    add_format(parser, "prompts as given", ", or auto: the model's own")
    add_option(parser, "--max-new-tokens N", "write at most this many tokens", 100)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT",
                        help="end when this is written; may be repeated; default: only the "
                             "model's end of text")  # fmt: skip
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="show the text as it is written; default: on for one prompt",
    )
    add_option(parser, "--batch-size N", "prompts run together", 8)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the settings that choose the next token."""
    group = parser.add_argument_group("sampling")
    add_option(group, "--temperature X", "0 takes the likeliest token, above 0 samples", 0.0)
    add_option(group, "--top-k K", "sample from the K likeliest tokens", usual="all")
    add_option(group, "--top-p P", "sample from the likeliest tokens that add up to P", usual="all")
    group.add_argument("--min-p", type=float, metavar="P",
                       help="sample from the tokens with at least P times the probability of the "
                            "likeliest; default: all")  # fmt: skip
    group.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1 makes tokens already in the text less likely; default: 1",
    )
    add_option(
        group, "--presence-penalty X", "above 0 makes tokens already written less likely", 0.0
    )
    add_option(
        group, "--frequency-penalty X", "the same, once for each time a token was written", 0.0
    )
    add_option(group, "--seed N", "repeats a sampled text", usual="a random one, shown at the end")


def sampling_of(args: argparse.Namespace) -> SamplingSettings:
    """Return the settings that choose the next token.

    Raises:
        ValueError: if a setting is out of range, or changes nothing.
    """
    from llm_scratch.generation.choosing import SamplingSettings

    unused = [name for name in SAMPLED_ONLY if getattr(args, name) is not None]
    if unused and args.temperature == 0:
        option = unused[0].replace("_", "-")
        raise ValueError(f"--{option} changes nothing at a temperature of 0; add --temperature 1")
    return SamplingSettings(
        args.temperature,
        args.top_k,
        args.top_p,
        args.min_p,
        args.repetition_penalty,
        args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
    )


def run_generate(args: argparse.Namespace) -> int:
    """Continue each prompt: texts go to standard output, then the speed to standard error."""
    sampling_of(args)  # refuses a mistake before the model is opened
    check_count("--batch-size", args.batch_size)
    prompts: list[Prompt] = list(read_prompts(args))
    form = None if args.format in (None, "auto") else format_of(args.format)
    if args.stream and len(prompts) > 1:
        raise ValueError(
            f"--stream shows one text as it is written, not {len(prompts)}; leave it out"
        )
    model, tokenizer, own = model_for_text(args)
    if args.format == "auto":
        form = own_format(args, own)
    if args.temperature > 0 and args.seed is None:
        args.seed = secrets.randbits(32)
    args.stop_ids = ()
    if form is not None:
        prompts = [asked(str(prompt), form, tokenizer) for prompt in prompts]
        args.stop, args.stop_ids = [*args.stop, *form.stop_strings], form.end_ids(tokenizer)
    if len(prompts) == 1 and args.stream is not False:
        return show_stream(args, model, tokenizer, prompts[0])
    return show_batches(args, model, tokenizer, prompts)


def format_of(name: str) -> Format:
    """Return the built-in format of a name."""
    from llm_scratch.conversations.formats import find_format

    return find_format(name)


def asked_format(args: argparse.Namespace) -> Format | None:
    """Return the format that the options name, None for the model's own.

    Raises:
        ValueError: if they name two, or one that does not exist.
    """
    from llm_scratch.conversations.templates import TemplateFormat

    if args.chat_template is None:
        return None if args.format == "auto" else format_of(args.format)
    if args.format != "auto":
        raise ValueError("--format and --chat-template both say the format; leave one out")
    return TemplateFormat(read_text(args.chat_template))


def own_format(args: argparse.Namespace, own: Format | None) -> Format:
    """Return the format that the model was trained with.

    Raises:
        ValueError: if the model does not name one.
    """
    if own is None:
        raise ValueError(f"{args.model} does not name its format; give --format NAME")
    return own


def asked(prompt: str, form: Format, tokenizer: Any) -> Prompt:
    """Return the ids of a prompt as the message of a user in a conversation."""
    from llm_scratch.conversations.encoding import encode_prompt
    from llm_scratch.conversations.messages import Message

    return encode_prompt([Message("user", prompt)], form, tokenizer)


def read_prompts(args: argparse.Namespace) -> list[str]:
    """Return the prompts of the options, in their order; standard input where there is none."""
    words = args.prompt or ([] if args.prompts_file else ["-"])
    prompts = [read_standard_input() if word == "-" else word for word in words]
    if args.prompts_file:
        prompts += read_prompts_file(args.prompts_file)
    if not prompts:
        raise ValueError(f"{args.prompts_file} holds no prompt; write one per line")
    return prompts


def read_prompts_file(path: str) -> list[str]:
    """Return the prompts of a file of rows (JSON, CSV, ...), or each line of another one."""
    if not holds_rows(path):
        return [line for line in lines_of(read_text(path)) if line.strip()]
    prompts = list(file_texts(path, "prompt"))
    if empty := [where for where, prompt in prompts if not prompt.strip()]:
        raise ValueError(f"{empty[0]} has an empty prompt; leave the row out")
    return [prompt for _, prompt in prompts]


def read_standard_input() -> str:
    """Return the text that is piped in or typed."""
    if sys.stdin.isatty():
        print("Type the prompt, then end of file (Ctrl-D; on Windows Ctrl-Z):", file=sys.stderr)
    return standard_input().rstrip("\n")


def model_for_text(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Open MODEL, its tokenizer and its conversation format, None where it has none.

    Raises:
        ValueError: if it writes no text, or does not run in this precision.
    """
    from llm_scratch.generation.quantized import quantize_int8
    from llm_scratch.model.device import pick_device
    from llm_scratch.model.heads import head_of

    if args.precision == "int8" and (place := pick_device(args.device)).type != "cpu":
        raise ValueError(f"int8 runs on the CPU, not on {place}; choose bfloat16, or --device cpu")
    model, tokenizer = opened = open_asked(args, dtype=dtype_of(args.precision))
    if (head := head_of(model)).kind != "tokens":
        raise ValueError(
            f"{args.model} sorts texts into {head.size} classes and writes none; "
            "use llm-scratch classify"
        )
    model = quantize_int8(model) if args.precision == "int8" else model
    return model, tokenizer, opened.format


def options_of(args: argparse.Namespace, model: Any, first: int, count: int) -> dict[str, Any]:
    """Return the options of generation; each prompt has a generator of its own, by its number."""
    import torch

    from llm_scratch.model.wrappers import device_of

    seeds = range(args.seed + first, args.seed + first + count) if args.temperature > 0 else ()
    return {
        "max_new_tokens": args.max_new_tokens,
        "settings": sampling_of(args),
        "stop": args.stop,
        "stop_ids": args.stop_ids,
        "generator": [torch.Generator(device_of(model)).manual_seed(s) for s in seeds] or None,
    }


def show_stream(args: argparse.Namespace, model: Any, tokenizer: Any, prompt: Prompt) -> int:
    """Print one text as it is written; Ctrl-C ends it early."""
    from llm_scratch.generation.texts import TextStream

    pieces = TextStream(model, tokenizer, prompt, **options_of(args, model, 0, 1))
    print(pieces.result().prompt, end="", flush=True)
    code = 0
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        code = INTERRUPTED
    print(flush=True)
    print_rates(args, [pieces.result()])
    return code


def show_batches(
    args: argparse.Namespace, model: Any, tokenizer: Any, prompts: list[Prompt]
) -> int:
    """Print the texts of several prompts, a blank line after each; Ctrl-C ends them early."""
    from llm_scratch.generation.texts import TextBatch

    done: list[Generation] = []
    code = 0
    for first in range(0, len(prompts), args.batch_size):
        own = prompts[first : first + args.batch_size]
        batch = TextBatch(model, tokenizer, own, **options_of(args, model, first, len(own)))
        try:
            for _ in batch:
                pass
        except KeyboardInterrupt:
            code = INTERRUPTED
        for result in batch.results():
            print(result.prompt + result.text, end="\n\n", flush=True)
            done.append(result)
        if code:
            break
    print_rates(args, done)
    return code


def print_rates(args: argparse.Namespace, results: list[Generation]) -> None:
    """Print one line on tokens and speed to standard error, away from the text."""
    parts = [
        f"{sum(r.prompt_tokens for r in results):,} prompt tokens",
        f"{sum(r.new_tokens for r in results):,} new",
    ]
    if len(results) == 1:
        parts.append(f"ended by {results[0].finish_reason}")
    if prefill := [r.prefill_tokens_per_second for r in results if r.prefill_tokens_per_second]:
        parts.append(f"prefill {fmean(prefill):,.0f} tokens/s")
    if decode := [r.decode_tokens_per_second for r in results if r.decode_tokens_per_second]:
        parts.append(f"decode {fmean(decode):,.1f} tokens/s")
    if args.temperature > 0:
        parts.append(f"seed {args.seed}")
    print(", ".join(parts), file=sys.stderr)
