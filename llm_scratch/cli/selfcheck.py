"""`llm-scratch check`: check the code that a reader wrote for a chapter."""

from __future__ import annotations

import argparse
from typing import Any

from llm_scratch.cli.options import add_command


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "check your own code for a chapter"
    parser = add_command(subparsers, "check", about, "check ch03 my_attention.py", run_check)
    parser.add_argument(
        "chapter", metavar="CHAPTER", help="a chapter, for example ch03 or appendix_a"
    )
    parser.add_argument("source", metavar="FILE", help="your .py file, notebook or folder")


def run_check(args: argparse.Namespace) -> int:
    """Print the report; return 0 if all the code is right, 1 if not, 2 if it cannot be read."""
    from llm_scratch.selfcheck.names import read
    from llm_scratch.selfcheck.run import chapter_key, run_checks

    report = run_checks(chapter_key(args.chapter), read(args.source))
    print(report)
    return report.exit_status
