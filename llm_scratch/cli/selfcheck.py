"""`llm-scratch check`: check what a reader wrote while reading a chapter."""

from __future__ import annotations

import argparse
from typing import Any

from llm_scratch.cli.options import add_command


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "check your own code of a chapter"
    parser = add_command(subparsers, "check", about, "check ch03 my_attention.py", run_check)
    parser.add_argument("chapter", metavar="CHAPTER", help="for example ch03, or appendix_a")
    parser.add_argument("source", metavar="FILE", help="your .py file, notebook or folder")


def run_check(args: argparse.Namespace) -> int:
    """Print the report: 0 when all that is written is right, 1 when not, 2 when unreadable."""
    from llm_scratch.selfcheck.names import read
    from llm_scratch.selfcheck.run import chapter_key, run_checks

    report = run_checks(chapter_key(args.chapter), read(args.source))
    print(report)
    return report.exit_status
