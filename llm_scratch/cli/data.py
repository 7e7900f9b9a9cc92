"""`llm-scratch fetch`: bring a named text to this machine."""

from __future__ import annotations

import argparse
from typing import Any

from llm_scratch.cli.options import add_command


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "bring a named text to this machine"
    parser = add_command(subparsers, "fetch", about, "fetch the-verdict", run_fetch)
    parser.add_argument("names", nargs="*", metavar="NAME", help="without one: list the names")


def run_fetch(args: argparse.Namespace) -> int:
    """Fetch each named text, or list the names and where each text is."""
    from llm_scratch.text.corpora import CORPORA, fetch

    for name in args.names:
        path = fetch(name)
        print(f"{name}: {path} ({path.stat().st_size:,} bytes)")
    if not args.names:
        for name, corpus in CORPORA.items():
            print(f"{name:<32} {corpus.title:<34} {where_is(name)}")
    return 0


def where_is(name: str) -> str:
    """Return the path of a text, or what brings it."""
    from llm_scratch.text.corpora import find_data

    try:
        return str(find_data(name))
    except FileNotFoundError as error:
        return str(error)
