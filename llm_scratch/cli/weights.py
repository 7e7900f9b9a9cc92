"""`llm-scratch weights`: look into files of weights, convert, export and fetch them."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from llm_scratch.model.config import gpt2_size
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.gpt2 import build_model, find_source
from llm_scratch.weights.hub import HUB_NAMES, fetch_gpt2, fetch_openai, gpt2_folder
from llm_scratch.weights.source import Source, open_source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GPT2_VOCAB = 50257


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    group = subparsers.add_parser("weights", help="inspect, convert, export and fetch weights")
    group.set_defaults(run=lambda args: group.print_help() or 2)
    commands = group.add_subparsers(title="commands", metavar="COMMAND")
    info = commands.add_parser("info", help="say what a folder or a file of weights holds")
    info.add_argument("source", metavar="SOURCE", help="a folder, a file, or a name like gpt2")
    info.add_argument("--tensors", action="store_true", help="list every tensor")
    info.set_defaults(run=run_info)
    for name, run, text in (
        ("convert", run_convert, "write any weights as a folder of this library"),
        ("export", run_export, "write any weights as a folder that transformers opens"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("source", metavar="SOURCE", help="a folder, a file, or a name")
        command.add_argument("folder", metavar="FOLDER", help="is made when missing")
        command.add_argument("--dtype", choices=DTYPES, help="without it: the file's own")
        command.add_argument("--n-heads", type=int, help="attention heads, where no file says it")
        command.add_argument("--lora-alpha", type=float, help="alpha of LoRA matrices in it")
        command.set_defaults(run=run)
    fetch = commands.add_parser("fetch", help="bring a released GPT-2 to this machine")
    fetch.add_argument("name", metavar="NAME", help=f"{', '.join(HUB_NAMES.values())}, or a size")
    fetch.add_argument("--openai", action="store_true", help="OpenAI's original seven files")
    fetch.add_argument("--data-dir", metavar="FOLDER", help="where to put it, not the cache")
    fetch.set_defaults(run=run_fetch)


def run_info(args: argparse.Namespace) -> int:
    """Print layout, sizes and numbers of a source, and its tensors if asked."""
    opened = open_source(find_source(args.source))
    for line in describe(opened):
        print(line)
    if args.tensors:
        for name, part in opened.parts.items():
            dtype = str(part.stored.tensor.dtype).removeprefix("torch.")
            print(f"{name:<44} {str(part.shape):<16} {dtype}")
    return 0


def describe(opened: Source) -> list[str]:
    """A few lines that say what a source holds."""
    names = {"book": "the book's names", "huggingface": "Hugging Face's", "openai": "OpenAI's"}
    tensors = {id(part.stored): part.stored.tensor for part in opened.parts.values()}.values()
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    lines = [
        f"file      {opened.path}",
        f"layout    {names[opened.layout]}",
        f"numbers   {sum(tensor.numel() for tensor in tensors):,} ({', '.join(dtypes)})",
        f"head      {'its own' if 'out_head.weight' in opened.parts else 'the embedding'}",
        *(f"{name:<9} {value}" for name, value in opened.known.items()),
    ]
    if opened.surplus:
        lines.append(f"not used  {', '.join(opened.surplus[:6])}")
    return lines


def run_convert(args: argparse.Namespace) -> int:
    """Write a source as a folder of this library's."""
    model, tokenizer = load_any(args)
    print(f"written: {save_model(model, args.folder, tokenizer)}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write a source as a folder in Hugging Face's layout."""
    model, tokenizer = load_any(args)
    print(f"written: {export_huggingface(model, args.folder, tokenizer)}")
    return 0


def load_any(args: argparse.Namespace) -> tuple[Any, Any | None]:
    """The model in a source, and its tokenizer where that is known."""
    path = find_source(args.source)
    dtype = DTYPES.get(args.dtype)
    opened = open_source(path, args.lora_alpha)
    if opened.metadata and path.is_dir():
        return load_model(path, dtype=dtype)
    if args.n_heads is not None:
        opened.known.setdefault("n_heads", args.n_heads)
    model = build_model(opened, dtype=dtype)
    return model, GPT2Tokenizer() if model.cfg.vocab_size == GPT2_VOCAB else None


def run_fetch(args: argparse.Namespace) -> int:
    """Download a GPT-2 unless it is here, and print where it is."""
    if args.openai:
        size = gpt2_size(args.name)
        print(fetch_openai(size, gpt2_folder(size, args.data_dir)))
    else:
        print(fetch_gpt2(args.name, data_dir=args.data_dir))
    return 0
