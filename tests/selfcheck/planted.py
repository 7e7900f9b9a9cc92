"""Planting one mistake in a right file, and checking what comes of it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.names import Written
from llm_scratch.selfcheck.outcome import Result
from llm_scratch.selfcheck.run import checks_of, results_of

READERS = Path(__file__).parent / "readers"
FIRST = ("plain.py", "plain_later.py")
# Chapters 5 and 6 share names, so each chapter has a source of its own.
FILES = {"ch06": ("plain_ch06.py",), "ch07": (*FIRST, "plain_ch07.py", "plain_preferences.py")}


class Mistake(NamedTuple):
    """One fault: in `name`, `old` is replaced by `new`; `hint` must come."""

    title: str
    chapter: str
    name: str
    old: str
    new: str
    hint: str
    checked: str = ""  # the name whose checks must see it, where that is another one


@cache
def right_source(chapter: str = "") -> str:
    files = (READERS / name for name in FILES.get(chapter, (*FIRST, "plain_appendices.py")))
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r"^from plain\w* import .*\n", "", source, flags=re.MULTILINE)


def plant(mistake: Mistake) -> str:
    """Return the right file with one mistake in it."""
    source = right_source(mistake.chapter)
    for node in ast.parse(source).body:
        if getattr(node, "name", "") == mistake.name:
            block = ast.get_source_segment(source, node)
            assert mistake.old in block, f"{mistake.name} does not hold {mistake.old!r}"
            return source.replace(block, block.replace(mistake.old, mistake.new))
    raise ValueError(f"no {mistake.name} in the file")


def results(source: str, chapter: str, name: str) -> list[Result]:
    """Run the checks of one name on a file."""
    namespace: dict[str, object] = {"__name__": "reader"}
    exec(compile(source, "reader.py", "exec"), namespace)
    written = Written(label="reader.py")
    written.take(namespace)
    return list(results_of(tuple(c for c in checks_of(chapter) if c.name == name), written))


def findings(mistake: Mistake) -> list[Result]:
    """Return the results that are mistakes."""
    all_results = results(plant(mistake), mistake.chapter, mistake.checked or mistake.name)
    return [result for result in all_results if result.state == "wrong"]


def must_be_caught(mistake: Mistake) -> None:
    """Check that a planted mistake is found, and with its hint."""
    found = findings(mistake)
    assert found, "not caught"
    assert any(mistake.hint in result.hint for result in found), found


def must_be_right(variant: Mistake) -> None:
    """Check that right code in another form is accepted; its hint is a note, "" for none."""
    found = results(plant(variant), variant.chapter, variant.checked or variant.name)
    assert {result.state for result in found} <= {"right", "note"}, found
    notes = {result.hint for result in found if result.state == "note"} - {hints.ORDER_OF_CREATION}
    assert notes == ({variant.hint} if variant.hint else set())
