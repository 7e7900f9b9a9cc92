"""Common parts of the chapter scripts: settings, a story to work on, pictures, commands to run.

A chapter is a script and a notebook in one file; these functions do the right thing in both.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BOOK_STORY, OWN_STORY = "the-verdict", "the-tide-clock"


def settings(doc: str | None, **defaults: Any) -> argparse.Namespace:
    """Return a chapter's settings: a script's from its command line, a notebook's defaults.

    `quick` (finish in seconds) and `out` (the folder for pictures) are always among them.

    Args:
        doc: The chapter's docstring, shown by `--help`.
        defaults: Each keyword becomes an option of its type (`epochs=10` gives `--epochs 10`);
            a bool becomes a flag.
    """
    never_fail_to_print()
    defaults = {"quick": False, "out": "chapter-output", **defaults}
    if in_notebook():
        return argparse.Namespace(**defaults)
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, default in defaults.items():
        _add_option(parser, name, default)
    return parser.parse_args()


def _add_option(parser: argparse.ArgumentParser, name: str, default: Any) -> None:
    """Add an option of the default's type to the parser; without a default it takes text."""
    option = "--" + name.replace("_", "-")
    if default is True:
        parser.add_argument(option, default=True, action=argparse.BooleanOptionalAction)
    elif default is False:
        parser.add_argument(option, action="store_true")
    elif default is None:
        parser.add_argument(option)
    elif isinstance(default, (int, float, str, Path)):
        help = f"default: {default}".replace("%", "%%")
        parser.add_argument(option, type=type(default), default=default, help=help)
    else:
        kind = type(default).__name__
        raise TypeError(f"setting {name!r} is a {kind}; use bool, int, float, str, Path or None")


def story() -> tuple[str, str]:
    """Return (title, text) of the story to work on: the book's if it is found, else ours."""
    from llm_scratch.text.corpora import CORPORA, load_text  # the command starts without it

    title, own_title = (CORPORA[name].title for name in (BOOK_STORY, OWN_STORY))
    try:
        return title, load_text(BOOK_STORY)
    except FileNotFoundError:
        missing(title, f"llm-scratch fetch {BOOK_STORY}", f"continuing with our own {own_title}")
    return own_title, load_text(OWN_STORY)


def missing(what: str, command: str, instead: str = "") -> None:
    """Print one line that says what is missing and which command fetches it."""
    tail = f"; {instead}" if instead else ""
    print(f"{what} is missing; {command} gets it{tail}")


def show(
    settings: argparse.Namespace,
    name: str,
    draw: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> None:
    """Draw a picture: inline in a notebook, else to `name`.png in the folder `settings.out`.

    Without matplotlib, or where the folder cannot be written to, one line says what to do.

    Args:
        settings: The settings that `settings(...)` returned.
        name: The picture's name, without a suffix.
        draw: A function of `llm_scratch.plotting`, called with the other arguments.
        args: Positional arguments for `draw`.
        kwargs: Keyword arguments for `draw`.
    """
    try:
        figure = draw(*args, **kwargs)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        missing(f"matplotlib, which draws the picture {name},", "pip install matplotlib")
        return
    if in_notebook():
        _show_inline(figure)
        return
    path = Path(settings.out) / f"{name}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        print(f"Picture not saved: {path} ({error.strerror}); use --out to name another folder")
    else:
        print(f"Picture: {path}")


def _show_inline(figure: Any) -> None:
    """Show a figure as an image, since a notebook cannot draw it otherwise without pyplot."""
    from IPython.display import Image, display  # type: ignore[import-not-found,unused-ignore]

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    display(Image(data=buffer.getvalue()))


def in_notebook() -> bool:
    """Return whether this runs in a notebook, where the command line belongs to the kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def never_fail_to_print() -> None:
    """Let the console replace characters it cannot show, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "replace":
            stream.reconfigure(errors="replace")  # which writes what is left, and may fail


def has_processes() -> bool:
    """Return whether several processes can train together here; if not, print one line."""
    import torch.distributed

    if sys.platform != "win32" and torch.distributed.is_available():
        return True
    print(
        "Training in several processes needs Linux or macOS, and a PyTorch that has "
        "torch.distributed; continuing without it"
    )
    return False


def run_command(
    words: Sequence[str], folder: Path, processes: int = 1, threads: int | None = None
) -> None:
    """Run an llm-scratch command in a folder, under torchrun if `processes` is above 1.

    The command is printed as you would type it; its output is shown only if it fails.

    Args:
        words: the command's words, such as "pretrain" and its options.
        folder: the working directory of the command.
        processes: number of processes.
        threads: threads per process; None leaves the choice to PyTorch.

    Raises:
        RuntimeError: if it fails.
    """
    start, shown = ["-m", "llm_scratch"], "llm-scratch"
    if processes > 1:
        count = ["--standalone", "--nproc-per-node", str(processes)]
        shown = " ".join(["torchrun", *count, *start])
        # A laptop's own host name often does not resolve; localhost always does.
        start = ["-m", "torch.distributed.run", "--local-addr", "localhost", *count, *start]
    print(f"$ {shown} {shlex.join(words)}", flush=True)
    variables = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *start, *words],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(f"the command ended with {done.returncode}:\n{done.stderr[-4000:]}")
