"""Means and their intervals against numbers worked out elsewhere; answers against references."""

from __future__ import annotations

import math

import pytest

from llm_scratch.judging.judge import exact_match, token_f1
from llm_scratch.judging.judgement import Judgement, mean_score
from llm_scratch.training.noise import t_quantile

# Tables of Student's distribution, as in any textbook of statistics.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 10: 2.228, 30: 2.042, 100: 1.984}

FOUND = Judgement(
    scores={"old": [10, 20, 30, None], "new": [15, 26, 37, 90], "mute": [None] * 4},
    orders=[("old", "new", "mute")] * 4,
    asked=4,
)


@pytest.mark.parametrize(("freedom", "t"), T_TABLE.items())
def test_t_quantile_is_the_tables(freedom, t):
    assert t_quantile(freedom) == pytest.approx(t, abs=5e-4)


def test_t_quantile_tends_to_the_normal_distribution():
    assert t_quantile(100_000) == pytest.approx(1.95996, abs=5e-5)


def test_mean_score_gives_the_interval_of_known_numbers():
    # Standard deviation sqrt(2.5), standard error sqrt(0.5), times 2.776.
    mean, low, high, items = mean_score([1, 2, 3, 4, 5])
    assert (mean, items) == (3, 5)
    assert (low, high) == pytest.approx((3 - 1.96324, 3 + 1.96324), abs=1e-4)


def test_mean_score_knows_no_spread_of_one_item():
    found = mean_score([7])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert str(found) == "7.0 (one item)"


def test_mean_leaves_out_what_could_not_be_read():
    assert FOUND.mean("old")[0::3] == (20, 3)
    assert FOUND.unreadable == {"old": 1, "new": 0, "mute": 4}


def test_difference_is_taken_item_by_item():
    found = FOUND.difference("new", "old")
    # 5, 6 and 7: standard error 1 / sqrt(3), times 4.303.
    assert (found.mean, found.items) == (6, 3)
    assert (found.low, found.high) == pytest.approx((3.5159, 8.4841), abs=1e-3)


def test_table_has_the_best_first_and_says_what_is_missing():
    new, old, mute = FOUND.table().splitlines()
    assert new.startswith("new   42.0 (")
    assert old.startswith("old   20.0 (")
    assert old.endswith("1 of 4 scores could not be read")
    assert mute == "mute  no readable score"


@pytest.mark.parametrize("ask", [lambda: FOUND.mean("x"), lambda: FOUND.difference("old", "x")])
def test_judgement_names_the_models_that_it_has(ask):
    with pytest.raises(ValueError, match="no model 'x' was judged; use one of old, new, mute"):
        ask()


@pytest.mark.parametrize(
    ("ask", "who"),
    [(lambda: FOUND.mean("mute"), "mute"), (lambda: FOUND.difference("old", "mute"), "old and")],
)
def test_judgement_does_not_call_nothing_zero(ask, who):
    with pytest.raises(ValueError, match=f"no readable score of {who}"):
        ask()


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("The tide.", "tide", True),
        ("  THE   tide clock!", "a tide clock", True),
        ("theatre", "atre", False),
        ("3.5", "35", True),  # as SQuAD has it
        ("The", "", True),
        ("Über", "über", True),
        ("tide", "clock", False),
    ],
)
def test_exact_match_normalises_as_squad(answer, reference, same):
    assert exact_match(answer, reference) is same


def test_exact_match_can_take_texts_as_they_are():
    assert exact_match(" TIDE\n", "TIDE", normalise=False)
    assert not exact_match("tide", "TIDE", normalise=False)
    assert not exact_match("3.5", "35", normalise=False)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("the tide clock", "tide clock", 1.0),
        ("tide moon", "tide clock", 0.5),
        ("tide tide tide", "tide", 0.5),  # counted as often as it comes
        ("moon", "tide clock", 0.0),
        ("", "tide", 0.0),
        ("the", "a", 1.0),
        ("a b c d", "b c", 0.8),
    ],
)
def test_token_f1_is_worked_out_by_hand(answer, reference, score):
    assert token_f1(answer, reference) == pytest.approx(score)
