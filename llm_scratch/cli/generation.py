"""`llm-scratch generate`: a model writes on from a prompt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from llm_scratch.finetuning.prompts import STYLES
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.quantized import quantize_int8
from llm_scratch.generation.texts import Generation, TextBatch, TextStream
from llm_scratch.model.device import pick_device
from llm_scratch.opening import open_model

PRECISIONS = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,
}
SAMPLING = ("top_k", "top_p", "min_p", "seed")
INTERRUPTED = 130


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = subparsers.add_parser("generate", help="let a model write on from a prompt")
    parser.add_argument("model", metavar="MODEL", help="a folder, a file, or a name like gpt2")
    parser.add_argument("--prompt", action="append", help="may be repeated; - is standard input")
    parser.add_argument("--prompts-file", metavar="FILE", help="a text file, a prompt a line")
    parser.add_argument(
        "--style", choices=STYLES, help="the prompts are instructions, for a model tuned on them"
    )
    parser.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0, the likeliest")
    parser.add_argument("--top-k", type=int, help="only the K likeliest tokens")
    parser.add_argument("--top-p", type=float, help="only the likeliest that make up P")
    parser.add_argument("--min-p", type=float, help="only those with this share of the likeliest")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="default: 1, none")
    parser.add_argument("--presence-penalty", type=float, default=0.0, help="default: 0, none")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the text")
    parser.add_argument("--seed", type=int, help="repeats a sampled text; it is shown at the end")
    parser.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, help="text as it comes: default for one"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="prompts run together: 8")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="auto is the type in the file"
    )
    parser.set_defaults(run=run_generate)


def run_generate(args: argparse.Namespace) -> int:
    """Write on from each prompt; texts go to standard output, the last line says how fast."""
    sampled = args.temperature > 0
    without = [name for name in SAMPLING if not sampled and getattr(args, name) is not None]
    if without:
        option = without[0].replace("_", "-")
        raise ValueError(f"--{option} changes nothing at a temperature of 0; add --temperature 1")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size {args.batch_size} must be 1 or more")
    prompts = read_prompts(args)
    if args.style:
        prompts = [STYLES[args.style].prompt({"instruction": prompt}) for prompt in prompts]
    if args.stream and len(prompts) > 1:
        raise ValueError(f"--stream shows one text as it comes, not {len(prompts)}; leave it out")
    model, tokenizer = model_for_text(args.model, args.device, args.precision)
    if sampled and args.seed is None:
        args.seed = torch.seed() % 2**32
    if len(prompts) == 1 and args.stream is not False:
        return show_stream(args, model, tokenizer, prompts[0])
    return show_batches(args, model, tokenizer, prompts)


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of the options, in their order; standard input where there is none."""
    words = args.prompt or ([] if args.prompts_file else ["-"])
    prompts = [read_standard_input() if word == "-" else word for word in words]
    if args.prompts_file:
        lines = Path(args.prompts_file).read_text(encoding="utf-8").splitlines()
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{args.prompts_file} holds no prompt; each line is one")
    return prompts


def read_standard_input() -> str:
    """The text that is piped in or typed."""
    if sys.stdin.isatty():
        print("The prompt, then an end of file (Ctrl-D; on Windows Ctrl-Z):", file=sys.stderr)
    return sys.stdin.read().rstrip("\n")


def model_for_text(source: str, device: str, precision: str) -> tuple[Any, Any]:
    """The model in a folder, a file or under a name, and its tokenizer.

    Raises:
        ValueError: if nothing says which tokenizer it was trained with, or it writes no text.
    """
    place = pick_device(device)
    if precision == "int8" and place.type != "cpu":
        raise ValueError(f"int8 runs on the CPU, not on {place}; choose bfloat16, or --device cpu")
    model, tokenizer = open_model(source, device=place, dtype=PRECISIONS[precision])
    if tokenizer is None:
        raise ValueError(
            f"{source} has no tokenizer; write it beside the model with save_model(model, folder, "
            "tokenizer)"
        )
    head = getattr(model.out_head, "linear", model.out_head)  # LoRA stands around it
    if head.out_features != model.cfg.vocab_size:
        raise ValueError(
            f"{source} sorts texts into {head.out_features} classes and writes none; "
            "llm-scratch classify uses it"
        )
    return quantize_int8(model) if precision == "int8" else model, tokenizer


def options_of(args: argparse.Namespace, first: int, count: int, device: Any) -> dict[str, Any]:
    """What `generate_text` gets; each prompt has a generator of its own, by its number."""
    seeds = [args.seed + first + index for index in range(count)] if args.temperature > 0 else []
    return {
        "max_new_tokens": args.max_new_tokens,
        "settings": SamplingSettings(
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            repetition_penalty=args.repetition_penalty,
            presence_penalty=args.presence_penalty,
        ),
        "stop": args.stop,
        "generator": [torch.Generator(device).manual_seed(seed) for seed in seeds] or None,
    }


def show_stream(args: argparse.Namespace, model: Any, tokenizer: Any, prompt: str) -> int:
    """Print one text as it is written; Ctrl-C ends it with what there is."""
    device = model.tok_emb.weight.device
    pieces = TextStream(model, tokenizer, prompt, **options_of(args, 0, 1, device))
    print(prompt, end="", flush=True)
    code = 0
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        code = INTERRUPTED
    print(flush=True)
    print_rates(args, [pieces.result()])
    return code


def show_batches(args: argparse.Namespace, model: Any, tokenizer: Any, prompts: list[str]) -> int:
    """Print the texts of several prompts, a blank line after each; Ctrl-C prints what there is."""
    device = model.tok_emb.weight.device
    done: list[Generation] = []
    code = 0
    for first in range(0, len(prompts), args.batch_size):
        own = prompts[first : first + args.batch_size]
        batch = TextBatch(model, tokenizer, own, **options_of(args, first, len(own), device))
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
    prefill = mean([r.prefill_tokens_per_second for r in results])
    decode = mean([r.decode_tokens_per_second for r in results])
    if prefill is not None:
        parts.append(f"prefill {prefill:,.0f} tokens/s")
    if decode is not None:
        parts.append(f"decode {decode:,.1f} tokens/s")
    if args.temperature > 0:
        parts.append(f"seed {args.seed}")
    print(", ".join(parts), file=sys.stderr)


def mean(rates: list[float | None]) -> float | None:
    """The mean of the rates that are known, None without any."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None
