"""The command `llm-scratch`: one file per group of commands, one function per command."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from llm_scratch.chapter import never_fail_to_print
from llm_scratch.cli import (
    chat,
    compare,
    conversations,
    data,
    distributed,
    environment,
    finetune,
    generation,
    memory,
    notebook,
    prepare,
    pretrain,
    selfcheck,
    serve,
    tokenizer,
    weights,
)
from llm_scratch.cli.options import MISUSED
from llm_scratch.training.failures import record

DESCRIPTION = "A GPT written from scratch in PyTorch, from a text to a model that writes."
EXAMPLE = """example:
  llm-scratch prepare the-tide-clock --out tokens.bin
  llm-scratch pretrain --data tokens.bin --out RUN
  llm-scratch generate RUN --prompt "The clock" --temperature 0.8
"""
GROUPS = (data, environment, notebook, tokenizer, prepare, pretrain, compare, weights, generation,
          chat, serve, conversations, finetune, distributed, memory, selfcheck)  # fmt: skip
FAILED, INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the work failed, 2 a usage error.

    Args:
        argv: The words after `llm-scratch`; None takes them from the command line.
    """
    never_fail_to_print()
    words = list(sys.argv[1:] if argv is None else argv)
    # Anywhere on the line, even after a subcommand; argparse would want it first.
    verbose = "--verbose" in words
    parser = build_parser()
    args = parser.parse_args([word for word in words if word != "--verbose"])
    if args.version:
        print(f"llm-scratch {_version()}")
        return 0
    if args.run is None:
        parser.print_help(sys.stderr)
        return MISUSED
    shown = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"llm-scratch: {message}\n"
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader of the output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError, ImportError) as error:  # a package of an extra is missing
        return _report(error, verbose)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        warnings.formatwarning = shown


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="llm-scratch",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="store_true", help="show the version and stop")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for group in GROUPS:
        group.add_commands(subparsers)
    return parser


def _report(error: Exception, verbose: bool) -> int:
    """Print the error, in one line unless `verbose`; return the exit code."""
    if verbose:
        import traceback

        traceback.print_exception(error)
    else:
        said = "; ".join([str(error), *getattr(error, "__notes__", ())])
        print(f"llm-scratch: {_by_rank(' '.join(said.splitlines()))}", file=sys.stderr)
    record(error)
    return MISUSED if isinstance(error, (ValueError, FileNotFoundError)) else FAILED


def _by_rank(said: str) -> str:
    """Return a message after the rank of its process, where torchrun has started several."""
    count = os.environ.get("WORLD_SIZE", "1")
    this = f"rank {os.environ.get('RANK', '?')} of {count}"
    return said if count == "1" or said.startswith(this) else f"{this}: {said}"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llm-scratch")
    except PackageNotFoundError:
        return "(not installed)"
