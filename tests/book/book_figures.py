"""The figures that the book prints, and the functions that compute them with this library.

`figures.json` holds them by chapter. A figure has an id, its place in the book (notebook cell and
section), what it is, the printed value, the tolerance (absolute; none means exactly equal), and
what it needs. In a value, "..." stands for what the print leaves out (head and tail are compared),
"-inf" for minus infinity; shapes are lists.

A chapter's test module registers one function for each figure and ends in one test over all:

    figure = Chapter("ch03")

    @figure("ch03.batch.shape")
    def batch_shape():
        return BATCH.shape

    @pytest.mark.parametrize("entry", figure.parameters())
    def test_figure_comes_out_as_printed(entry, request):
        figure.check(entry, request)

The arguments of a function are fixtures.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from book_open import elsewhere_because, open_because

LEFT_OUT = "..."


@dataclass(frozen=True)
class Figure:
    """One thing that the book prints."""

    id: str
    place: str
    what: str
    value: Any
    tolerance: float | None = None
    needs: tuple[str, ...] = ()
    input: str | None = None
    note: str | None = None
    kind: str = "printed"


def all_figures() -> dict[str, list[Figure]]:
    """Return the figures of every chapter, in the book's order."""
    path = Path(__file__).with_name("figures.json")
    chapters = json.loads(path.read_text(encoding="utf-8"))
    return {name: [Figure(**entry) for entry in entries] for name, entries in chapters.items()}


class Chapter:
    """The figures of one chapter, and the functions that compute them.

    Calling it with an id gives the decorator that registers a function. With `parts`, the function
    is registered once for each of them: the id has a `{}` where the part goes, the function gets
    the part as its argument `part`.
    """

    def __init__(self, name: str) -> None:
        self.figures = all_figures()[name]
        self.functions: dict[str, Callable[..., Any]] = {}
        self.parts: dict[str, str] = {}
        self.marks: dict[str, tuple[pytest.MarkDecorator, ...]] = {}

    def __call__(
        self,
        id: str,
        parts: tuple[str, ...] = (),
        slow: bool = False,
        long: bool = False,
        marks: tuple[pytest.MarkDecorator, ...] = (),
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that registers a function for a figure."""
        marks += (pytest.mark.slow,) * slow + (pytest.mark.long,) * long

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            for part in parts or ("",):
                self._add(id.format(part) if parts else id, function, part)
                self.marks[id.format(part) if parts else id] = marks
            return function

        return register

    def _add(self, id: str, function: Callable[..., Any], part: str) -> None:
        if id not in {figure.id for figure in self.figures}:
            raise ValueError(f"figures.json has no figure {id}")
        if id in self.functions:
            raise ValueError(f"{id} has two functions")
        self.functions[id] = function
        if part:
            self.parts[id] = part

    def parameters(self) -> list[Any]:
        """Return every figure of the chapter as a parameter of the chapter's test."""
        return [
            pytest.param(figure, id=figure.id, marks=self.marks.get(figure.id, ()))
            for figure in self.figures
        ]

    def printed(self, id: str) -> Figure:
        """Return a figure of this chapter, for functions that need its input."""
        return next(figure for figure in self.figures if figure.id == id)

    def check(self, figure: Figure, request: pytest.FixtureRequest) -> None:
        """Compute a figure and compare it with the printed value."""
        function = self.functions.get(figure.id)
        is_open, is_elsewhere = open_because(figure.id), elsewhere_because(figure.id)
        if function is None:
            _without_function(figure, is_open, is_elsewhere)
            return
        if is_open or is_elsewhere:
            pytest.fail(
                f"{figure.id} has a function now: take it out of tests/book/book_open.py",
                pytrace=False,
            )
        names = [name for name in inspect.signature(function).parameters if name != "part"]
        arguments = {name: request.getfixturevalue(name) for name in names}
        if figure.id in self.parts:
            arguments["part"] = self.parts[figure.id]
        computed = plain(function(**arguments))
        if problem := difference(figure.value, computed, figure.tolerance):
            pytest.fail(_report(figure, computed, problem), pytrace=False)


def _without_function(figure: Figure, is_open: str, is_elsewhere: str) -> None:
    if is_open:
        pytest.skip(f"open: {is_open}")
    if is_elsewhere:
        pytest.skip(f"elsewhere: {is_elsewhere}")
    pytest.fail(
        f"{figure.id} ({figure.place}: {figure.what}) has no function that computes it, and no "
        "reason in tests/book/book_open.py",
        pytrace=False,
    )


def _report(figure: Figure, computed: Any, problem: str) -> str:
    return (
        f"{figure.id}, {figure.place}: {figure.what}\n"
        f"  printed   {_shortened(figure.value)}\n"
        f"  computed  {_shortened(computed)}\n"
        f"  differs   {problem}"
    )


def _shortened(value: Any, most: int = 400) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 5]} ... ({len(text)} characters)"


def plain(value: Any) -> Any:
    """Return a computed value as JSON has it: lists, numbers, texts."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def difference(printed: Any, computed: Any, tolerance: float | None, at: str = "") -> str:
    """Return where and how a computed value differs from the printed one, "" if it doesn't."""
    if isinstance(printed, dict):
        return _dict_difference(printed, computed, tolerance, at)
    if isinstance(printed, list):
        return _list_difference(printed, computed, tolerance, at)
    where = f"at {at}: " if at else ""
    if printed in ("inf", "-inf") and isinstance(computed, float):
        printed = float(printed)
    is_number = isinstance(printed, int | float) and not isinstance(printed, bool)
    if not is_number or not isinstance(computed, int | float) or isinstance(computed, bool):
        same = type(printed) is type(computed) and printed == computed
        return "" if same else f"{where}printed {printed!r}, computed {computed!r}"
    return _number_difference(printed, computed, tolerance, where)


def _number_difference(printed: float, computed: float, tolerance: float | None, where: str) -> str:
    if tolerance is None:
        # A float32 tensor can't hold 0.43; what it holds instead is equal to it in float32.
        same = printed == computed or (
            isinstance(printed, float) and np.float32(printed) == np.float32(computed)
        )
    elif math.isinf(printed):
        same = printed == computed
    else:
        same = abs(printed - computed) <= tolerance
    if same:
        return ""
    limit = "exactly equal is asked" if tolerance is None else f"at most {tolerance:g} is allowed"
    return f"{where}printed {printed!r}, computed {computed!r} ({limit})"


def _dict_difference(printed: dict, computed: Any, tolerance: float | None, at: str) -> str:
    if not isinstance(computed, dict) or set(printed) != set(computed):
        keys = sorted(computed) if isinstance(computed, dict) else type(computed).__name__
        return f"printed the keys {sorted(printed)}, computed {keys}"
    problems = (
        difference(value, computed[key], tolerance, f"{at}[{key!r}]")
        for key, value in printed.items()
    )
    return next(filter(None, problems), "")


def _list_difference(printed: list, computed: Any, tolerance: float | None, at: str) -> str:
    where = f"at {at}: " if at else ""
    if not isinstance(computed, list):
        return f"{where}printed a list of {len(printed)}, computed {computed!r}"
    items = list(enumerate(computed))
    if LEFT_OUT in printed:
        gap = printed.index(LEFT_OUT)
        head, tail = printed[:gap], printed[gap + 1 :]
        if len(items) <= len(head) + len(tail):
            return f"{where}nothing is left to leave out of {len(items)} items"
        printed, items = head + tail, items[: len(head)] + items[len(items) - len(tail) :]
    if len(printed) != len(items):
        return f"{where}printed {len(printed)} items, computed {len(items)}"
    problems = (
        difference(value, item, tolerance, f"{at}[{index}]")
        for value, (index, item) in zip(printed, items, strict=True)
    )
    return next(filter(None, problems), "")
