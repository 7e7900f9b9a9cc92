"""Formulas as text: what is printed beside a number is what it was computed from."""

from __future__ import annotations

import pytest

from llm_scratch.memory.terms import LEGEND, Letters, Peak, letters_in

LETTERS = Letters({"N": 10, "C": 3, "a": 2})


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("2 a N C", 120),
        ("N + 2 C", 16),
        ("a (N + C) C", 78),
        ("N - C", 7),
        ("N - a - C", 5),
        ("18 N / C", 60),
        ("N / C", 3),
        ("2 (N - 1) (C + 1) / C + 1", 25),
        ("0", 0),
    ],
)
def test_formula_is_computed_as_it_reads(formula, value) -> None:
    assert LETTERS.value(formula) == value


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "is missing"),
        ("2 + ", "is missing"),
        ("(N", "closing bracket"),
        ("N)", "left over"),
        ("x N", "letter x has no number"),
        ("/ N", "is missing"),
    ],
)
def test_what_is_no_formula_is_refused(formula, message) -> None:
    with pytest.raises(ValueError, match=message):
        LETTERS.value(formula)


def test_peak_adds_up_its_terms_by_kind() -> None:
    terms = (
        LETTERS.term("one", "gradients", "a N"),
        LETTERS.term("two", "gradients", "N"),
        LETTERS.term("three", "temporary", "C"),
    )
    peak = Peak("then", terms)
    assert (peak.bytes, peak.of_kind("gradients"), peak.of_kind("gathered")) == (33, 30, 0)
    assert set(letters_in(terms)) == {"N", "C", "a"} <= LEGEND.keys()
