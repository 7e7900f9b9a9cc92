"""`llm-scratch notebook`: write a chapter script as a Jupyter notebook."""

from __future__ import annotations

import argparse
import ast
import json
import re
from pathlib import Path
from typing import Any

from llm_scratch.cli.options import add_command

CELL_MARK = re.compile(r"^# %%[ \t]*(?P<kind>\[markdown\])?.*$", re.MULTILINE)


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "write a chapter as a Jupyter notebook"
    parser = add_command(subparsers, "notebook", about, "notebook ch03", run_notebook)
    parser.add_argument("chapter", metavar="CHAPTER", help="a chapter, for example ch03")
    parser.add_argument(
        "--out", metavar="FILE", help="the notebook; default: the chapter's name, in this folder"
    )


def run_notebook(args: argparse.Namespace) -> int:
    """Write a chapter as a notebook; an existing file is left alone."""
    script = find_chapter(args.chapter)
    target = Path(args.out or f"{script.stem}.ipynb")
    notebook = to_notebook(script.read_text(encoding="utf-8"))
    try:
        with open(target, "x", encoding="utf-8", newline="\n") as file:
            json.dump(notebook, file, ensure_ascii=False, indent=1)
            file.write("\n")
    except FileExistsError as error:
        raise ValueError(f"{target} already exists; give another file with --out") from error
    print(f"{target}: {len(notebook['cells'])} cells")
    return 0


def find_chapter(name: str) -> Path:
    """Return the path of the chapter script that is called `name`, in full or by its first part.

    The first part of a chapter's bonus material is "ch05_bonus", and "ch05" is the chapter itself.

    Raises:
        ValueError: if there is none, or more than one.
    """
    scripts = {path.stem: path for folder in chapter_folders() for path in folder.glob("*.py")}
    if name in scripts:
        return scripts[name]
    found = [stem for stem in sorted(scripts) if stem.startswith(f"{name}_")]
    found = [stem for stem in found if not stem.startswith(f"{name}_bonus_")]
    if len(found) == 1:
        return scripts[found[0]]
    problem = "no chapter is" if not found else "more than one chapter is"
    raise ValueError(f"{problem} called {name!r}: {', '.join(found or sorted(scripts))}")


def chapter_folders() -> list[Path]:
    """Return the folders of the chapters: inside an installed package, or beside a clone's."""
    package = Path(__file__).resolve().parents[1]
    return [package.parent / "chapters", package / "chapters"]


def to_notebook(script: str) -> dict[str, Any]:
    """Return a script in percent format as a notebook (the JSON of nbformat 4.5).

    The docstring becomes the first cell, as text.
    """
    head, cells = _split(script)
    docstring, rest = _split_docstring(head)
    all_cells = [("markdown", docstring), ("code", rest), *cells]
    return {
        "cells": [
            _cell(kind, source, index)
            for index, (kind, source) in enumerate(pair for pair in all_cells if pair[1].strip())
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _split(script: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the text before the first mark, and the (kind, source) of each cell after one."""
    marks = list(CELL_MARK.finditer(script))
    starts = [mark.start() for mark in marks] + [len(script)]
    cells = []
    for mark, end in zip(marks, starts[1:], strict=True):
        source = script[mark.end() : end]
        kind = "markdown" if mark["kind"] else "code"
        cells.append((kind, _uncomment(source) if kind == "markdown" else source))
    return script[: starts[0]], cells


def _split_docstring(head: str) -> tuple[str, str]:
    """Return (docstring, the code after it)."""
    tree = ast.parse(head)
    docstring = ast.get_docstring(tree)
    if docstring is None:
        return "", head
    return docstring, "".join(head.splitlines(keepends=True)[tree.body[0].end_lineno :])


def _uncomment(source: str) -> str:
    """Return the text in a block of comments."""
    return re.sub(r"^#[ ]?", "", source, flags=re.MULTILINE)


def _cell(kind: str, source: str, index: int) -> dict[str, Any]:
    """Return one cell; a cell's source is a list of lines."""
    lines = source.strip("\n").splitlines(keepends=True)
    cell = {"cell_type": kind, "id": f"cell-{index}", "metadata": {}, "source": lines}
    return cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []}
