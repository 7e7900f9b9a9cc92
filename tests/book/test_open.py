"""The list of open figures is honest: it excuses what it must, and nothing else."""

from __future__ import annotations

import importlib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from book_figures import Chapter, Figure, all_figures, difference
from book_open import ELSEWHERE, OPEN, open_because
from book_report import lines_of, states_of

FOLDERS = {"appA": "appendix_a", "appD": "appendix_d", "appE": "appendix_e"}
IDS = [figure.id for figures in all_figures().values() for figure in figures]


def test_ids_of_the_figures_are_all_different():
    assert len(IDS) == len(set(IDS))


@pytest.mark.parametrize("chapter", list(all_figures()))
def test_chapter_without_figure_tests_is_open_as_a_whole(chapter):
    tests = Path(__file__).parents[1] / FOLDERS.get(chapter, chapter) / "test_figures.py"
    if not tests.is_file():
        not_excused = [f.id for f in all_figures()[chapter] if not open_because(f.id)]
        assert not_excused == []


@pytest.mark.parametrize("pattern", [*(entry.pattern for entry in OPEN), *ELSEWHERE])
def test_entry_excuses_a_figure_that_there_is(pattern):
    assert any(fnmatchcase(id, pattern) for id in IDS)


def is_here(until: str) -> bool:
    """Whether MODULE:NAME can be imported."""
    module, _, name = until.partition(":")
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("entry", OPEN, ids=lambda entry: entry.pattern)
def test_entry_goes_when_what_it_waits_for_comes(entry):
    assert not is_here(entry.until), f"{entry.until} is here: write functions, take the entry out"


def test_is_here_finds_what_is_there():
    assert is_here("llm_scratch.training.simple:train_model_simple")
    assert not is_here("llm_scratch.training.simple:nothing")
    assert not is_here("llm_scratch.nowhere.at_all:nothing")


@pytest.mark.parametrize(
    ("printed", "computed", "tolerance", "expected"),
    [
        ([1, "...", 4], [1, 2, 3, 4], None, ""),
        ([1, "...", 5], [1, 2, 3, 4], None, "at [3]: printed 5, computed 4"),
        ([1, "...", 2], [1, 2], None, "nothing is left to leave out"),
        ([1, 2], [1, 2, 3], None, "printed 2 items, computed 3"),
        ([1, "-inf"], [1, float("-inf")], 0.1, ""),
        ("-inf", 0.0, 0.1, "printed -inf"),
        (0.43, 0.4300000071525574, None, ""),
        (20479, 20480, None, "computed 20480 (exactly equal is asked)"),
        (163009536, 163009537, None, "computed 163009537"),
        (1.0, 1.2, 0.1, "at most 0.1 is allowed"),
        (1.0, float("nan"), 0.1, "computed nan"),
        ("a", "b", None, "printed 'a', computed 'b'"),
        ({"a": [1]}, {"a": [2]}, None, "at ['a'][0]"),
        ({"a": 1}, {"b": 1}, None, "printed the keys ['a'], computed ['b']"),
    ],
)
def test_difference_names_the_first_place_that_differs(printed, computed, tolerance, expected):
    found = difference(printed, computed, tolerance)
    assert expected in found
    assert bool(expected) == bool(found)


def test_check_names_the_figure_its_place_and_both_values(request):
    chapter = Chapter("ch02")
    chapter("ch02.vocab.size")(lambda: 1131)
    message = failure_of(chapter, "ch02.vocab.size", request)
    for part in ("ch02.vocab.size", "ch02.ipynb [36] / 2.3", "printed   1130", "computed  1131"):
        assert part in message


def test_check_refuses_a_figure_with_neither_function_nor_reason(request):
    message = failure_of(Chapter("ch02"), "ch02.vocab.size", request)
    assert "no function that computes it, and no reason" in message


def test_check_refuses_an_excuse_for_a_figure_that_has_a_function(request):
    chapter = Chapter("ch05")
    chapter("ch05.train.log")(lambda: [])
    assert "take it out" in failure_of(chapter, "ch05.train.log", request)


def test_chapter_refuses_unknown_and_doubled_ids():
    chapter = Chapter("ch02")
    with pytest.raises(ValueError, match="no figure ch02.nothing"):
        chapter("ch02.nothing")(lambda: 0)
    chapter("ch02.vocab.size")(lambda: 0)
    with pytest.raises(ValueError, match="two functions"):
        chapter("ch02.vocab.size")(lambda: 0)


def test_table_counts_states_and_gives_reasons():
    figures = [
        report("ch02", "a", "passed"),
        report("ch02", "b", "failed"),
        report("ch02", "c", "skipped", "open: no module yet"),
        report("ch02", "d", "skipped", "the-verdict.txt is not here; fetch brings it"),
    ]
    head, row, *reasons = lines_of(states_of(figures))
    assert head.split() == ["chapter", "reproduced", "open", "elsewhere", "skipped", "failed"]
    assert row.split() == ["ch02", "1", "1", "0", "1", "1"]
    assert [line.strip() for line in reasons] == [
        "open 1: no module yet",
        "skipped 1: the-verdict.txt is not here; fetch brings it",
    ]


def failure_of(chapter: Chapter, id: str, request: pytest.FixtureRequest) -> str:
    figure: Figure = chapter.printed(id)
    with pytest.raises(pytest.fail.Exception) as failure:
        chapter.check(figure, request)
    return str(failure.value)


def report(chapter: str, name: str, outcome: str, reason: str = "") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=f"tests/{chapter}/test_figures.py::"
        f"test_figure_comes_out_as_printed[{chapter}.{name}]",
        location=("", None, ""),
        keywords={},
        outcome=outcome,
        longrepr=("file", 1, f"Skipped: {reason}") if outcome == "skipped" else None,
        when="call",
    )
