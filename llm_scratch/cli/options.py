"""What the commands have in common: how one is added, and the options that many of them take."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_scratch.files import decode_text
from llm_scratch.training.config import PRECISIONS

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from llm_scratch.opening import OpenModel

MISUSED = 2
DTYPES = tuple(name for name in PRECISIONS if name != "auto")
Run = Callable[[argparse.Namespace], int]


def add_command(
    commands: Any, name: str, about: str, example: str, run: Run, usage: str = ""
) -> argparse.ArgumentParser:
    """Add a command to a group of them and return its parser.

    Args:
        commands: what `add_subparsers` returned.
        name: the word that calls it.
        about: what it does, for the list of commands and the first line of its help.
        example: a whole command line without `llm-scratch`, which the help ends with.
        run: what does the work.
        usage: the options to show in the usage line, where all of them would fill a page.
    """
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"example:\n  llm-scratch {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if usage:
        parser.usage = f"{parser.prog} {usage}"
    parser.set_defaults(run=run)
    return parser


def add_group(commands: Any, name: str, about: str, example: str, metavar: str = "COMMAND") -> Any:
    """Add a command that has commands of its own, and return what these are added to."""

    def show_commands(args: argparse.Namespace) -> int:
        parser.print_help(sys.stderr)
        return MISUSED

    parser = add_command(commands, name, about, example, show_commands)
    return parser.add_subparsers(title=f"{metavar.lower()}s", metavar=metavar)


def add_option(
    parser: Any, words: str, about: str, default: Any = None, usual: str = "", **rest: Any
) -> None:
    """Add an option with a value; its help ends with its default.

    Args:
        parser: the parser or group that gets it.
        words: how it is written, "--top-k K"; N, K and RANK are integers, X and P numbers.
        about: what it does.
        default: its value where it is not given.
        usual: the default in words, where the value says nothing.
        rest: what else argparse is told.
    """
    name, metavar = words.split(" ")
    kind = int if metavar in ("N", "K", "RANK") else float if metavar in ("X", "P") else str
    about += f"; default: {usual or (f'{default:g}' if kind is float else default)}"
    parser.add_argument(name, type=kind, metavar=metavar, default=default, help=about, **rest)


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add MODEL, which `open_asked` opens, and the tokenizer for one that has none."""
    model = parser.add_argument(
        "models" if several else "model",
        metavar="MODEL",
        help="a run, a folder, a file, or a name, as gpt2 or hub:ORG/NAME",
    )
    model.nargs = "+" if several else None
    add_option(parser, "--tokenizer NAME", "gpt2, or a tokenizer's file", usual="the model's own")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a device."""
    parser.add_argument("--device", default="auto", metavar="NAME",
                        help="cpu, cuda, cuda:1, mps or auto; default: auto, which is cuda where "
                             "there is one, else cpu")  # fmt: skip


def add_precision(parser: argparse.ArgumentParser, *more: str) -> None:
    """Add the choice of the numbers that a model computes with; a command may know more kinds."""
    parser.add_argument("--precision", choices=(*PRECISIONS, *more), default="auto",
                        help="numbers to compute with; default: auto, which is what suits the "
                             "device (generate, classify and serve: "
                             "the file's own)")  # fmt: skip


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a tokenizer for a text."""
    parser.add_argument("--tokenizer", default="gpt2", metavar="NAME",
                        help="gpt2, or a file: one saved here, .tiktoken, or a tokenizer.json; "
                             "default: gpt2")  # fmt: skip


def add_foreign_ids(parser: Any, *, tokenizer: bool = True) -> None:
    """Add the options for ids of other programs, which lack tokenizer and type."""
    if tokenizer:
        parser.add_argument("--tokenizer", metavar="NAME",
                            help="gpt2, or a tokenizer's file; for ids of other programs (.ds, "
                                 ".npy, --dtype), which hold none; default: the data's own"
                            )  # fmt: skip
    parser.add_argument("--dtype", metavar="TYPE", choices=("uint16", "uint32"),
                        help="uint16 or uint32: the data are bare ids, as nanoGPT's "
                             "train.bin; default: a token file")  # fmt: skip


def dtype_of(precision: str | None) -> torch.dtype | None:
    """Return the type in which weights are opened for a precision; None is the file's own."""
    import torch

    named = {name: getattr(torch, name) for name in DTYPES} | {"int8": torch.float32}
    return named.get(precision or "auto")


def open_asked(args: argparse.Namespace, source: str | None = None, **options: Any) -> OpenModel:
    """Open MODEL, or another source, on the device and with the tokenizer of the command line."""
    from llm_scratch.opening import open_model

    options |= {"device": vars(args).get("device"), "tokenizer": args.tokenizer}
    return open_model(source or args.model, **options)


def matching(name: str) -> list[Path]:
    """Return the paths that a pattern of *, ? and [] stands for, where no shell has expanded it.

    Another name stands for itself, and so does a pattern that is a file's name.

    Raises:
        FileNotFoundError: if a pattern fits no file.
    """
    if os.path.exists(name) or not glob.has_magic(name):
        return [Path(name)]
    if found := sorted(glob.glob(name, recursive=True)):
        return [Path(path) for path in found]
    raise FileNotFoundError(f"no file is called like {name}")


def data_paths(names: Iterable[str]) -> list[Path]:
    """Return the paths that are meant: those that are there, or texts and data sets by name."""
    from llm_scratch.text.corpora import find_data

    paths = [path for name in names for path in matching(name)]
    return [p if p.exists() or p.name != str(p) else find_data(p.name) for p in paths]


def data_path(name: str) -> Path:
    """Return the one path that is meant; see `data_paths`."""
    paths = data_paths([name])
    if len(paths) > 1:
        shown = ", ".join(map(str, paths[:3]))
        raise ValueError(f"{name} stands for {len(paths)} files ({shown} ...), one is needed")
    return paths[0]


def save_picture(path: str, draw: Callable[[], Figure]) -> None:
    """Save what is drawn, and say where; a missing matplotlib is a usage error."""
    try:
        figure = draw()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ValueError("a picture needs matplotlib; pip install matplotlib brings it") from error
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"Picture: {path}")


def standard_input() -> str:
    """Return the text that is piped in, in UTF-8 whatever the system's encoding, or typed."""
    if sys.stdin.isatty() or not hasattr(sys.stdin, "buffer"):
        return sys.stdin.read()
    return decode_text("standard input", sys.stdin.buffer.read()).replace("\r\n", "\n")
