"""The report of a chapter's checks, for a terminal and for a notebook."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from typing import Any

from llm_scratch.selfcheck.outcome import Check, Result

MARKS = {"right": "ok", "wrong": "WRONG", "open": "-", "waits": "-", "note": "note"}
COLOURS = {
    "right": "#1a7f37",
    "wrong": "#cf222e",
    "open": "#767676",
    "waits": "#767676",
    "note": "#9a6700",
}
CELL = "text-align:left;vertical-align:top;padding:3px 10px"
WIDTH = 96
WAITS = "waits for the line above"


@dataclass
class Report:
    """The outcome of the checks of one chapter.

    Args:
        chapter: such as "ch03".
        label: where the names came from.
        results: one for each check.
        failed: statements of the file that stopped with an error.
        unreadable: parts of the source that are not valid Python.
        left_out: statements of the source that are not run.
        twice: names that several files define.
    """

    chapter: str
    label: str
    results: tuple[Result, ...]
    failed: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    _shown_in: int | None = field(default=None, repr=False, compare=False)

    @property
    def exit_status(self) -> int:
        """0: everything written is right; 1: something is wrong; 2: part could not be read."""
        if self.wrong:
            return 1
        nothing = not any(result.state in ("right", "note") for result in self.results)
        return 2 if self.unreadable or (self.failed and nothing) else 0

    @property
    def wrong(self) -> tuple[Result, ...]:
        """The results that are mistakes."""
        return tuple(result for result in self.results if result.state == "wrong")

    def __repr__(self) -> str:
        return f"<Report on {self.label}: {self.summary()}>"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def summary(self) -> str:
        """Return the counts in one line."""
        counts = Counter(result.state for result in self.results)
        parts = [f"{counts['right']} right", f"{counts['wrong']} wrong"]
        if counts["note"]:
            parts.append(f"{counts['note']} noted (no fault)")
        if counts["waits"]:
            parts.append(f"{counts['waits']} waiting")
        names = {result.check.name for result in self.results if result.state == "open"}
        parts.append(f"{len(names)} name{'s' * (len(names) != 1)} not written yet")
        return ", ".join(parts)

    def verdict(self) -> str:
        """Return the last line of the report, which says what to do next."""
        if self.wrong:
            first = self.wrong[0].check
            return f"Begin with {first.name} ({first.section})."
        if self.exit_status == 2:
            return "Part of the source could not be read; see above."
        if not any(result.state in ("right", "note") for result in self.results):
            return "Nothing of this chapter is written yet."
        return "Everything written so far is right."

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield remarks about the source itself: (kind, text) pairs."""
        yield from (("could not be read: ", text) for text in self.unreadable)
        yield from (("failed: ", text) for text in self.failed)
        yield from (("the last one is checked: ", text) for text in self.twice)
        if self.left_out:
            count = len(self.left_out)
            more = f" and {count - 1} more" if count > 1 else ""
            yield (
                "not run: ",
                f"{self.left_out[0]}{more} (imports, constants, functions and classes are)",
            )

    def lines(self) -> Iterator[str]:
        """Yield the report line by line, for a terminal."""
        yield f"{self.chapter}, {self.label}"
        for kind, text in self.remarks():
            yield from _wrapped(kind, text, "  ")
        for section, results in groupby(self.results, key=lambda result: result.check.section):
            yield ""
            yield section
            for result in shortened(list(results)):
                yield from _lines_of(result)
        yield ""
        yield f"{self.summary()}."
        yield self.verdict()

    def _repr_html_(self) -> str:
        remarks = "".join(
            f"<p style='margin:2px 0'><b>{escape(kind)}</b>{escape(text)}</p>"
            for kind, text in self.remarks()
        )
        heads = "".join(f"<th style='{CELL}'>{head}</th>" for head in ("", "check", "what came"))
        return (
            f"<div><p style='margin:2px 0'><b>{self.chapter}</b>, {escape(self.label)}</p>{remarks}"
            f"<table style='border-collapse:collapse'><thead><tr>{heads}</tr></thead>"
            f"<tbody>{''.join(self._html_rows())}</tbody></table>"
            f"<p style='margin:6px 0'><b>{escape(self.summary())}.</b> {escape(self.verdict())}</p>"
            "</div>"
        )

    def _html_rows(self) -> Iterator[str]:
        for _, group in groupby(self.results, key=lambda r: (r.check.section, r.check.name)):
            results = shortened(list(group))
            check = results[0].check
            yield (
                f"<tr><td colspan='3' style='{CELL};padding-top:10px'>"
                f"<b>{check.section}&ensp;{escape(check.name)}</b></td></tr>"
            )
            for result in results:
                claim = result.check.claim if result.state != "open" else ""
                yield (
                    f"<tr><td style='{CELL};color:{COLOURS[result.state]}'>"
                    f"<b>{MARKS[result.state]}</b></td><td style='{CELL}'>{escape(claim)}</td>"
                    f"<td style='{CELL};max-width:44em'>{_html_of(result)}</td></tr>"
                )

    def show_in(self, shell: Any) -> None:
        """Show the table in a notebook (the text in IPython's terminal), once in this cell."""
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        display({"text/plain": str(self), "text/html": self._repr_html_()}, raw=True)
        self._shown_in = shell.execution_count

    def _ipython_display_(self) -> None:
        """Show the table, unless this cell has it already: `check` shows what it returns."""
        from IPython import get_ipython  # type: ignore[import-not-found,unused-ignore]

        shell = get_ipython()
        if self._shown_in != shell.execution_count:
            self.show_in(shell)


def lines_of_mistake(result: Result) -> Iterator[str]:
    """Yield what was expected, what came and where to look, one entry each."""
    if result.expected:
        yield from _wrapped("expected  ", result.expected, " " * 10)
        yield from _wrapped("got       ", result.came, " " * 10)
    if result.hint:
        yield from _wrapped("hint      ", result.hint, " " * 10)


def shortened(results: list[Result]) -> list[Result]:
    """Return results with one line per name that is not written, and one for all that wait."""
    kept: list[Result] = []
    for name, group in groupby(results, key=lambda result: result.check.name):
        own = list(group)
        waiting = [result for result in own if result.detail == WAITS]
        if own[0].state == "open":
            own = own[:1]
        elif waiting:
            claim = f"{len(waiting)} more check{'s' * (len(waiting) != 1)}"
            check = Check(waiting[0].check.section, name, claim, waiting[0].check.run)
            own = own[: own.index(waiting[0])] + [Result(check, "waits", detail=WAITS)]
        kept += own
    return kept


def _lines_of(result: Result) -> Iterator[str]:
    head = f"{MARKS[result.state]:<6}{result.check.name}"
    if result.state == "open":
        yield from _wrapped(f"  {head}: ", result.detail, " " * 10)
        return
    yield f"  {head}: {result.check.claim}"
    if result.detail:
        yield from _wrapped(" " * 10, result.detail, " " * 10)
    for line in lines_of_mistake(result):
        yield f"          {line}"


def _wrapped(first: str, text: str, later: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - len(first) - 10, break_on_hyphens=False) or [""]
    return [first + lines[0], *(later + line for line in lines[1:])]


def _html_of(result: Result) -> str:
    if result.detail:
        return f"<i>{escape(result.detail)}</i>"
    if not result.expected:
        return ""
    hint = (
        f"<br><span style='opacity:0.75'>hint: {escape(result.hint)}</span>" if result.hint else ""
    )
    return (
        f"expected <code>{escape(result.expected)}</code><br>"
        f"got <code>{escape(result.came)}</code>{hint}"
    )
