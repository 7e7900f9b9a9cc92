"""The function that runs the checks of a chapter on a reader's code."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from functools import partial

import torch

from llm_scratch.selfcheck.foreign import attempt, describe, quiet_and_restored
from llm_scratch.selfcheck.names import Source, Version, Written, own_modules, read
from llm_scratch.selfcheck.outcome import Check, MistakeError, Result, State, WaitsError
from llm_scratch.selfcheck.report import WAITS, Report

CHAPTERS = {
    "ch02": "chapter2",
    "ch03": "chapter3",
    "ch04": "chapter4",
    "ch05": "chapter5",
    "ch06": "chapter6",
    "ch07": "chapter7",
    "appendix_a": "appendix_a",
    "appendix_d": "appendix_d",
    "appendix_e": "appendix_e",
}


def check(chapter: str | int, source: Source) -> Report:
    """Check the code you wrote while reading a chapter; show a table, and return it as a report.

    Only names that `source` defines are checked; others are "not written yet". In a file or a
    notebook on disk, only imports, constants, functions and classes are run.

    Args:
        chapter: "ch02" to "ch07", "appendix_a", "appendix_d", "appendix_e"; 3 and "3" mean "ch03".
        source: `globals()` in a notebook, or the path of a .py file, a notebook or a folder.

    Returns:
        The report: `exit_status` is 0 if everything written is right, 1 if something is wrong, 2 if
        part of it could not be read.

    Raises:
        FileNotFoundError: if the path is not there.
        ValueError: if the chapter has no checks, or the file is not valid Python.
        TypeError: if `source` is neither a path nor a dict nor a module.
    """
    report = run_checks(chapter, read(source))
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        print(report)
    else:
        report.show_in(shell)
    return report


def checks_of(chapter: str | int) -> tuple[Check, ...]:
    """Return the checks of a chapter, in the book's order.

    Raises:
        ValueError: if the chapter has no checks.
    """
    module = importlib.import_module(f"llm_scratch.selfcheck.{CHAPTERS[chapter_key(chapter)]}")
    checks: tuple[Check, ...] = module.CHECKS
    return checks


def chapter_key(chapter: str | int) -> str:
    """Return the name of a chapter's folder of tests: 3 or "chapter 3" -> "ch03".

    Raises:
        ValueError: if the chapter has no checks.
    """
    text = str(chapter).strip().lower().replace("-", "_").replace(" ", "_")
    found = re.fullmatch(r"(?:chapter_?|ch_?)?0?(\d)", text)
    key = f"ch0{found[1]}" if found else re.sub(r"^(?:appendix_?)?([ade])$", r"appendix_\1", text)
    if key not in CHAPTERS:
        raise ValueError(f"no checks for chapter {chapter!r}; there are {', '.join(CHAPTERS)}")
    return key


def run_checks(chapter: str | int, written: Written) -> Report:
    """Run all checks of a chapter, and print nothing."""
    key = chapter_key(chapter)
    results = tuple(results_of(checks_of(key), written))
    files: dict[str, list[str]] = {}
    for check in (result.check for result in results):
        if check.name not in files:
            files[check.name] = [version.file for version in meant(check, written)]
    return Report(
        key,
        written.label,
        results,
        failed=tuple(written.failed),
        unreadable=tuple(written.unreadable),
        left_out=tuple(written.left_out),
        twice=tuple(f"{name}, in {' and '.join(f)}" for name, f in files.items() if len(f) > 1),
    )


def results_of(checks: tuple[Check, ...], written: Written) -> Iterator[Result]:
    """Run checks one after the other; if a name's first check fails, its others wait for it."""
    blocked: set[str] = set()
    begun: set[str] = set()
    for check in checks:
        if check.name in blocked:
            yield Result(check, "waits", detail=WAITS)
            continue
        result = run_check(check, written)
        is_first = check.name not in begun
        if result.state == "waits" or (result.state == "wrong" and is_first):
            blocked.add(check.name)
        begun.add(check.name)
        yield result


def run_check(check: Check, written: Written) -> Result:
    """Run one check on the reader's object, if it is there."""
    if check.name in written.broken:
        return Result(
            check,
            "wrong",
            expected=f"{check.name} to be defined",
            came=written.broken[check.name],
            hint="The definition itself stops with this error; start there.",
        )
    versions = list(_versions(check, written))
    if not versions:
        return Result(check, "open", detail=_why_open(check.name, written))
    found = meant(check, written)
    if not found:
        return Result(check, "open", detail=_why_other(check, versions[-1], written))
    with quiet_and_restored(), own_modules(written):
        torch.manual_seed(0)
        error = attempt(partial(check.run, found[-1].thing))
    return _result_of(check, error, written)


def meant(check: Check, written: Written) -> list[Version]:
    """Return the objects, of all files, that a check may be about; the last one is checked."""
    found = _versions(check, written)
    return [version for version in found if not _why_other(check, version, written)]


def _versions(check: Check, written: Written) -> Iterator[Version]:
    for name in (check.also, check.name):
        if name in written.names:
            yield from written.versions.get(name, [Version(name, "", written.names[name])])


def _why_other(check: Check, version: Version, written: Written) -> str:
    """Return why the check is not about an object of this name, "" if it is."""
    if check.other is None:
        return ""
    with quiet_and_restored(), own_modules(written):
        return check.other(version.name, version.thing)


def _why_open(name: str, written: Written) -> str:
    if name in written.imported:
        return f"not written yet (imported from {written.imported[name]})"
    if name in written.absent:
        return f"not written yet ({written.absent[name]})"
    return "not written yet"


def _result_of(check: Check, error: BaseException | None, written: Written) -> Result:
    if error is None:
        return Result(check, "right")
    if isinstance(error, MistakeError):
        state: State = "wrong" if error.counts else "note"
        return Result(check, state, error.expected, error.came, error.hint)
    if isinstance(error, WaitsError):
        return Result(check, "waits", detail=str(error))
    hint = "Your code stopped with an error; read its last line, then the line it names."
    if isinstance(error, NotImplementedError):
        return Result(check, "waits", detail="not written yet (raises NotImplementedError)")
    if isinstance(error, NameError) and error.name and error.name not in written.names:
        name = error.name
        if name in written.absent:
            hint = f"{name} is {written.absent[name]}."
        elif name in written.broken:
            hint = f"{name} could not be defined: {written.broken[name]}."
        elif name in all_names():
            return Result(check, "waits", detail=f"waits for {name}, which is not written yet")
    return Result(check, "wrong", "a result", describe(error), hint)


def all_names() -> set[str]:
    """Return every name of the book that is checked in some chapter."""
    return {check.name for chapter in CHAPTERS for check in checks_of(chapter)}
