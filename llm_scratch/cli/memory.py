"""`llm-scratch memory`: what a run will need and what it needed."""

from __future__ import annotations

from typing import Any

from llm_scratch.cli.memory_measuring import add_measuring
from llm_scratch.cli.options import add_group


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "say what a run will need, and measure what it needed"
    add_measuring(add_group(subparsers, "memory", about, "memory measure gpt2"))
