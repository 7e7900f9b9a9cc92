"""The parts that commands share: adding a command, and the options that many of them take."""

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
        name: the word that runs it.
        about: what it does, for the list of commands and the first line of its help.
        example: a whole command line without `llm-scratch`, shown at the end of the help.
        run: the function that does the work.
        usage: the options in the usage line, where all of them would fill a page.
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
    """Add a command with subcommands, and return the object that they are added to."""

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
        parser: the parser or group to add it to.
        words: the option and its value, "--top-k K"; N, K and RANK are integers, X and P numbers.
        about: what it does.
        default: its value when it is not given.
        usual: the default in words, where the value would explain nothing.
        rest: further arguments of `add_argument`.
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
        help="a run, a folder, a file, or a name such as gpt2 or hub:ORG/NAME",
    )
    model.nargs = "+" if several else None
    add_option(parser, "--tokenizer NAME", "gpt2, or a tokenizer's file", usual="the model's own")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a device."""
    parser.add_argument("--device", default="auto", metavar="NAME",
                        help="cpu, cuda, cuda:1, mps or auto; default: auto, which is cuda if "
                             "available, else cpu")  # fmt: skip


def add_precision(parser: argparse.ArgumentParser, *more: str) -> None:
    """Add the choice of the number format that a model computes in; a command may allow more."""
    parser.add_argument("--precision", choices=(*PRECISIONS, *more), default="auto",
                        help="number format to compute in; default: auto, chosen for the device "
                             "(generate, classify and serve: the file's own)")  # fmt: skip


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a tokenizer for a text."""
    parser.add_argument("--tokenizer", default="gpt2", metavar="NAME",
                        help="gpt2, or a file: one that tokenizer train saved, .tiktoken, or a "
                             "tokenizer.json; default: gpt2")  # fmt: skip


def add_foreign_ids(parser: Any, *, tokenizer: bool = True) -> None:
    """Add the options for ids from other programs, which state no tokenizer and no type."""
    if tokenizer:
        parser.add_argument("--tokenizer", metavar="NAME",
                            help="gpt2, or a tokenizer's file; for ids from other programs (.ds, "
                                 ".npy, --dtype), which name none; default: the data's own"
                            )  # fmt: skip
    parser.add_argument("--dtype", metavar="TYPE", choices=("uint16", "uint32"),
                        help="uint16 or uint32: the data are bare ids, such as nanoGPT's "
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
    """Return the paths that match a pattern of *, ? and [], where no shell has expanded it.

    Any other name stands for itself, and so does a pattern that is a file's name.

    Raises:
        FileNotFoundError: if no file matches a pattern.
    """
    if os.path.exists(name) or not glob.has_magic(name):
        return [Path(name)]
    if found := sorted(glob.glob(name, recursive=True)):
        return [Path(path) for path in found]
    raise FileNotFoundError(f"no file matches {name}")


def data_paths(names: Iterable[str]) -> list[Path]:
    """Return the paths that names stand for: existing files, or texts and data sets by name."""
    from llm_scratch.text.corpora import find_data

    paths = [path for name in names for path in matching(name)]
    return [p if p.exists() or p.name != str(p) else find_data(p.name) for p in paths]


def data_path(name: str) -> Path:
    """Return the one path that a name stands for; see `data_paths`."""
    paths = data_paths([name])
    if len(paths) > 1:
        shown = ", ".join(map(str, paths[:3]))
        raise ValueError(f"{name} matches {len(paths)} files ({shown} ...); give one")
    return paths[0]


def save_picture(path: str, draw: Callable[[], Figure]) -> None:
    """Save a picture, and print its path; a missing matplotlib is a usage error."""
    try:
        figure = draw()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ValueError("a picture needs matplotlib; pip install matplotlib") from error
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"Picture: {path}")


def standard_input() -> str:
    """Return the text that is typed or piped in, as UTF-8 whatever the system's encoding."""
    if sys.stdin.isatty() or not hasattr(sys.stdin, "buffer"):
        return sys.stdin.read()
    return decode_text("standard input", sys.stdin.buffer.read()).replace("\r\n", "\n")
