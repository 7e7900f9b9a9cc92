"""`llm-scratch fetch`: bring a named text to this machine."""

from __future__ import annotations

import argparse
from typing import Any

from llm_scratch.text.corpora import CORPORA, fetch, find_data


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = subparsers.add_parser("fetch", help="bring a named text to this machine")
    parser.add_argument("names", nargs="*", metavar="NAME", help="without one: list the names")
    parser.set_defaults(run=run_fetch)


def run_fetch(args: argparse.Namespace) -> int:
    """Fetch each named text, or list the names and where each text is."""
    for name in args.names:
        path = fetch(name)
        print(f"{name}: {path} ({path.stat().st_size:,} bytes)")
    if not args.names:
        for name, corpus in CORPORA.items():
            print(f"{name:<32} {corpus.title:<34} {where_is(name)}")
    return 0


def where_is(name: str) -> str:
    """Return the path of a text, or what brings it."""
    try:
        return str(find_data(name))
    except FileNotFoundError as error:
        return str(error)
