"""`llm-scratch weights`: look into files of weights, convert, export and fetch them."""

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
    from llm_scratch.opening import OpenModel
    from llm_scratch.weights.source import Source


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "inspect, convert, export and fetch weights"
    commands = add_group(subparsers, "weights", about, "weights fetch gpt2")
    about, example = "say what a folder or a file of weights holds", "weights info gpt2 --tensors"
    info = add_command(commands, "info", about, example, run_info)
    info.add_argument("source", metavar="SOURCE", help="a folder, a file, or a name like gpt2")
    info.add_argument("--tensors", action="store_true", help="list every tensor")
    for name, run, about, example in (
        ("convert", run_convert, "write any model as a folder of this library",
         "weights convert model.pth FOLDER --n-heads 12 --tokenizer gpt2"),
        ("export", run_export, "write any model as a folder that transformers opens",
         "weights export RUN FOLDER --dtype bfloat16"),
    ):  # fmt: skip
        command = add_command(commands, name, about, example, run)
        add_model(command)
        command.add_argument("folder", metavar="FOLDER", help="is made when missing")
        command.add_argument("--dtype", choices=DTYPES, help="default: the numbers of the file")
        add_option(command, "--n-heads N", "attention heads of a block", usual="what the files say")
        add_option(
            command, "--lora-alpha X", "alpha of the LoRA matrices in the file", usual="it has none"
        )
        if name == "export":
            add_option(command, "--max-shard-size X", "GB of a file at the most", usual="one file")
    about = "bring a released GPT-2 to this machine"
    fetch = add_command(commands, "fetch", about, "weights fetch gpt2-medium", run_fetch)
    fetch.add_argument("name", metavar="NAME",
                       help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a size")  # fmt: skip
    fetch.add_argument("--openai", action="store_true", help="OpenAI's original seven files")
    fetch.add_argument("--data-dir", metavar="FOLDER", help="where to put it; default: the cache")


def run_info(args: argparse.Namespace) -> int:
    """Print layout, sizes and numbers of a source, and its tensors if asked."""
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
    """Return a few lines that say what a source holds."""
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
    """Write a model as a folder of this library's."""
    from llm_scratch.weights.folder import save_model

    opened = _open_any(args)
    written = save_model(opened.model, args.folder, opened.tokenizer, chat_format=opened.format)
    print(f"written: {written}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write a model as a folder in Hugging Face's layout."""
    from llm_scratch.weights.export import export_huggingface

    opened = _open_any(args)
    written = export_huggingface(
        opened.model,
        args.folder,
        opened.tokenizer,
        chat_format=opened.format if opened.tokenizer is not None else None,
        max_shard_size=args.max_shard_size and round(args.max_shard_size * 1e9),
    )
    print(f"written: {written}")
    return 0


def _open_any(args: argparse.Namespace) -> OpenModel:
    """Open the model, and merge an adapter into it."""
    from llm_scratch.lora.layers import lora_layers, merge_lora

    opened = open_asked(
        args,
        dtype=dtype_of(args.dtype),
        need_tokenizer=False,
        n_heads=args.n_heads,
        lora_alpha=args.lora_alpha,
    )
    if lora_layers(opened.model):
        merge_lora(opened.model, unwrap=True)
    return opened


def run_fetch(args: argparse.Namespace) -> int:
    """Download a GPT-2 unless it is here, and print where it is."""
    from llm_scratch.model.config import gpt2_size
    from llm_scratch.weights.hub import fetch_gpt2, fetch_openai, gpt2_folder

    if args.openai:
        size = gpt2_size(args.name)
        print(fetch_openai(size, gpt2_folder(size, args.data_dir)))
    else:
        print(fetch_gpt2(args.name, data_dir=args.data_dir))
    return 0
