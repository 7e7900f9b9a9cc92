"""A pytest plugin: the table of the book's figures at the end of a run."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import pytest
from book_figures import all_figures
from book_open import open_because

FIGURE_TEST = re.compile(r"test_figures\.py::test_figure_comes_out_as_printed\[(?P<id>[^\]]+)\]$")
ALL_CHAPTERS_TEST = "test_open.py::"
STATES = ("reproduced", "open", "elsewhere", "skipped", "failed")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many figures of each chapter came out, and why the others did not."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    reports = [report for report in reports if isinstance(report, pytest.TestReport)]
    table = states_of(reports)
    if not table:
        return
    terminalreporter.section("figures of the book")
    for line in lines_of(table):
        terminalreporter.write_line(line)


def states_of(reports: list[pytest.TestReport]) -> dict[str, Counter]:
    """Return what became of the figures: chapter -> how often each (state, reason) occurred."""
    table: defaultdict[str, Counter] = defaultdict(Counter)
    for report in reports:
        found = FIGURE_TEST.search(report.nodeid)
        if found and (report.when == "call" or not report.passed):
            table[found["id"].partition(".")[0]][_state(report)] += 1
    if any(ALL_CHAPTERS_TEST in report.nodeid for report in reports):
        for chapter, figures in all_figures().items():
            reasons = [open_because(figure.id) for figure in figures]
            if chapter not in table and all(reasons):
                table[chapter] = Counter(("open", reason) for reason in reasons)
    return {chapter: table[chapter] for chapter in all_figures() if chapter in table}


def _state(report: pytest.TestReport) -> tuple[str, str]:
    if not report.skipped:
        return ("reproduced", "") if report.passed else ("failed", "")
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    for state in ("open", "elsewhere"):
        if reason.startswith(f"{state}: "):
            return state, reason.removeprefix(f"{state}: ")
    return "skipped", reason


def lines_of(table: dict[str, Counter]) -> list[str]:
    """Return the table as lines of text, each chapter's reasons below its numbers."""
    width = max(map(len, STATES)) + 2
    lines = ["chapter" + "".join(f"{state:>{width}}" for state in STATES)]
    for chapter, states in table.items():
        totals: Counter = Counter()
        for (state, _), count in states.items():
            totals[state] += count
        lines.append(f"{chapter:<7}" + "".join(f"{totals[state]:>{width}}" for state in STATES))
        lines += [
            f"        {state} {count}: {reason}"
            for (state, reason), count in sorted(states.items())
            if reason
        ]
    return lines
