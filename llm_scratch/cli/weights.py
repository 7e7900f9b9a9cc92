"""`llm-scratch weights`: inspect, convert, export and fetch weights."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.options import (
    DTYPES,
    add_command,
    add_group,
    add_model,
    add_option,
    dtype_of,
    open_asked,
)

if TYPE_CHECKING:
    from pathlib import Path

    from llm_scratch.opening import OpenModel
    from llm_scratch.weights.source import Source

GGUF_TYPES = ("f32", "f16", "q8_0")


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "inspect, convert, export and fetch weights"
    commands = add_group(subparsers, "weights", about, "weights fetch gpt2")
    about, example = "show what a folder or a file of weights holds", "weights info gpt2 --tensors"
    info = add_command(commands, "info", about, example, run_info)
    info.add_argument("source", metavar="SOURCE",
                      help="a folder, a file, or a name such as gpt2 or hub:ORG/NAME")  # fmt: skip
    info.add_argument("--tensors", action="store_true", help="list every tensor")
    for name, run, about, example in (
        ("convert", run_convert, "write any model as a folder in this library's format",
         "weights convert model.pth FOLDER --n-heads 12 --tokenizer gpt2"),
        ("export", run_export, "write any model for transformers, or as a file for llama.cpp",
         "weights export RUN --to gguf --out model.gguf --type q8_0"),
    ):  # fmt: skip
        command = add_command(commands, name, about, example, run)
        add_model(command)
        optional = "?" if name == "export" else None
        command.add_argument("folder", metavar="FOLDER", nargs=optional,
                             help="created if missing")  # fmt: skip
        command.add_argument(
            "--dtype", choices=DTYPES, help="number format; default: the file's own"
        )
        add_option(command, "--n-heads N", "attention heads per block", usual="as the files say")
        add_option(
            command, "--lora-alpha X", "alpha of the LoRA matrices in the file", usual="it has none"
        )
    _add_export_options(command)
    about = "download a released GPT-2, or a model on the Hugging Face hub"
    fetch = add_command(commands, "fetch", about, "weights fetch gpt2-medium", run_fetch)
    fetch.add_argument("name", metavar="NAME",
                       help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a size; or hub:ORG/NAME, "
                            "stored in huggingface_hub's cache")  # fmt: skip
    fetch.add_argument(
        "--openai", action="store_true", help="download OpenAI's seven original files"
    )
    fetch.add_argument("--data-dir", metavar="FOLDER", help="where to store it; default: the cache")


def _add_export_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--to", choices=("huggingface", "gguf"), default="huggingface",
                         help="format to write; default: huggingface")  # fmt: skip
    add_option(command, "--out PATH", "where to write: the folder, or the one file for llama.cpp",
               usual="FOLDER")  # fmt: skip
    command.add_argument("--type", choices=GGUF_TYPES,
                         help="gguf: number format of the matrices; default: f16")  # fmt: skip
    add_option(command, "--max-shard-size X", "at most this many GB per file", usual="one file")


def run_info(args: argparse.Namespace) -> int:
    """Print the layout, sizes and number formats of a source, and its tensors if asked."""
    from llm_scratch.weights.named import find_source
    from llm_scratch.weights.source import open_source

    opened = open_source(find_source(args.source))
    for line in describe(opened):
        print(line)
    if args.tensors:
        for name, part in opened.parts.items():
            dtype = str(part.stored.dtype).removeprefix("torch.")
            print(f"{name:<44} {str(part.shape):<16} {dtype}")
    return 0


def describe(opened: Source) -> list[str]:
    """Return a few lines on the contents of a source."""
    names = {"book": "the book's names", "huggingface": "Hugging Face's", "openai": "OpenAI's",
             "nanogpt": "nanoGPT's", "gguf": "llama.cpp's (GGUF)"}  # fmt: skip
    tensors = {id(part.stored): part.stored for part in opened.parts.values()}.values()
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    lines = [
        f"file      {opened.path}",
        f"layout    {names[opened.layout]}",
        f"numbers   {sum(math.prod(tensor.shape) for tensor in tensors):,} ({', '.join(dtypes)})",
        f"head      {'its own' if 'out_head.weight' in opened.parts else 'the embedding'}",
        *(f"{name:<9} {value}" for name, value in opened.known.items()),
    ]
    if opened.surplus:
        lines.append(f"not used  {', '.join(opened.surplus[:6])}")
    return lines


def run_convert(args: argparse.Namespace) -> int:
    """Write a model as a folder in this library's format."""
    from llm_scratch.weights.folder import save_model

    opened = _open_any(args)
    written = save_model(opened.model, args.folder, opened.tokenizer, chat_format=opened.format)
    print(f"written: {written}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write a model in Hugging Face's layout, or as llama.cpp's one file."""
    if (args.folder is None) == (args.out is None):
        raise ValueError("give one place to write to: llm-scratch weights export MODEL --out PATH")
    from llm_scratch.weights.export import upload_command

    place = args.folder or args.out
    written = (_to_gguf if args.to == "gguf" else _to_huggingface)(args, place)
    print(f"written: {written}")
    print(f"to publish it: {upload_command(written)}")
    return 0


def _to_huggingface(args: argparse.Namespace, folder: str) -> Path:
    from llm_scratch.weights.export import export_huggingface

    if args.type is not None:
        raise ValueError("--type is for --to gguf; use --dtype for Hugging Face's files")
    opened = _open_any(args)
    return export_huggingface(
        opened.model,
        folder,
        opened.tokenizer,
        chat_format=opened.format if opened.tokenizer is not None else None,
        max_shard_size=args.max_shard_size and round(args.max_shard_size * 1e9),
    )


def _to_gguf(args: argparse.Namespace, path: str) -> Path:
    from llm_scratch.weights.gguf_export import export_gguf

    if args.dtype is not None or args.max_shard_size is not None:
        raise ValueError(
            "--to gguf writes one file in the format of --type; leave out --dtype and "
            "--max-shard-size"
        )
    opened = _open_any(args, need_tokenizer=True)
    return export_gguf(
        opened.model,
        path,
        opened.tokenizer,
        tensor_type=args.type or "f16",
        chat_template=opened.chat_template,
    )


def _open_any(args: argparse.Namespace, need_tokenizer: bool = False) -> OpenModel:
    """Open the model, and merge an adapter into it."""
    from llm_scratch.lora.layers import lora_layers, merge_lora

    opened = open_asked(
        args,
        dtype=dtype_of(args.dtype),
        need_tokenizer=need_tokenizer,
        n_heads=args.n_heads,
        lora_alpha=args.lora_alpha,
    )
    if lora_layers(opened.model):
        merge_lora(opened.model, unwrap=True)
    return opened


def run_fetch(args: argparse.Namespace) -> int:
    """Download a model unless it is here already, and print where it is."""
    from llm_scratch.cli.data import fetch_hub
    from llm_scratch.model.config import gpt2_size
    from llm_scratch.weights.gpt2_files import fetch_gpt2, fetch_openai, gpt2_folder
    from llm_scratch.weights.hub_names import is_hub_name

    if is_hub_name(args.name):
        if args.openai or args.data_dir:
            raise ValueError(f"--openai and --data-dir are GPT-2's; leave them out for {args.name}")
        fetch_hub(args.name)
    elif args.openai:
        size = gpt2_size(args.name)
        print(fetch_openai(size, gpt2_folder(size, args.data_dir)))
    else:
        print(fetch_gpt2(args.name, data_dir=args.data_dir))
    return 0
