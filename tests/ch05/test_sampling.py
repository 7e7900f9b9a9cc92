"""Book 5.3 and beyond: which tokens a setting leaves, and how likely each becomes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llm_scratch.generation import sampling
from llm_scratch.generation.choosing import SamplingSettings, TokenChooser
from llm_scratch.generation.sampling import (
    ban,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_probabilities,
    penalize_presence,
    penalize_repetition,
    sample_next,
)

INF = float("inf")
EXAMPLE = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()


def kept(logits):
    """The ids of each row that can still be chosen."""
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


def random_logits(batch, size, seed=0, spread=2.0):
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.0, [3]), (0.3, [3]), (0.5, [2, 3]), (0.6, [2, 3]), (0.75, [1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_keep_top_p_keeps_the_token_that_crosses_the_border(top_p, expected):
    assert kept(keep_top_p(EXAMPLE, top_p)) == [expected]


@pytest.mark.parametrize(
    ("min_p", "expected"),
    [(0.0, [0, 1, 2, 3]), (0.2, [0, 1, 2, 3]), (0.4, [1, 2, 3]), (0.74, [2, 3]), (1.0, [3])],
)
def test_keep_min_p_measures_by_the_likeliest(min_p, expected):
    assert kept(keep_min_p(EXAMPLE, min_p)) == [expected]


@given(
    probabilities=st.lists(
        st.lists(st.integers(1, 1000), min_size=7, max_size=7, unique=True), min_size=1, max_size=3
    ),
    percent=st.integers(1, 99),
)
def test_keep_top_p_keeps_the_smallest_set_that_reaches_it(probabilities, percent):
    weights = torch.tensor(probabilities, dtype=torch.float64)
    found = kept(keep_top_p(weights.log(), percent / 100))
    for row, ids in zip(probabilities, found, strict=True):
        order = sorted(range(7), key=lambda i: -row[i])
        sums = [sum(row[i] for i in order[:n]) * 100 for n in range(1, 8)]
        border = percent * sum(row)
        counts = {1 + sum(s < border for s in sums[:-1]), 1 + sum(s <= border for s in sums[:-1])}
        # Where a sum meets the border exactly, rounding may decide either way.
        assert len(ids) in counts
        assert sorted(order[: len(ids)]) == ids


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
def test_keep_top_p_of_a_part_equals_all_sorted(monkeypatch, top_p, spread):
    logits = random_logits(3, 4000, spread=spread)
    monkeypatch.setattr(sampling, "NUCLEUS", 4000)
    expected = keep_top_p(logits, top_p)
    monkeypatch.setattr(sampling, "NUCLEUS", 64)
    assert torch.equal(keep_top_p(logits, top_p), expected)


@pytest.mark.parametrize("keep", [keep_top_k, keep_top_p, keep_min_p])
def test_keeping_without_limit_is_the_same_tensor(keep):
    assert keep(EXAMPLE, None) is EXAMPLE


@pytest.mark.parametrize(
    "options", [{"top_k": 7}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 40, "top_p": 0.8}]
)
def test_rows_of_a_batch_are_filtered_each_on_its_own(options):
    logits = random_logits(5, 50)
    together = next_probabilities(logits, 0.8, **options)
    alone = [next_probabilities(row[None], 0.8, **options) for row in logits]
    assert_close(together, torch.cat(alone))


def test_next_probabilities_apply_temperature_before_top_p():
    cold, warm = (next_probabilities(EXAMPLE, t, top_p=0.7) for t in (0.1, 3.0))
    assert (cold > 0).sum() == 1
    assert (warm > 0).sum() == 3


def test_next_probabilities_at_zero_are_certain():
    assert next_probabilities(EXAMPLE, 0.0, top_p=0.1).tolist() == [[0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("temperature", [1e-3, 1e-8, 1e-45, 1e-300])
def test_sampling_just_above_zero_is_greedy(temperature):
    logits = random_logits(4, 30)
    assert torch.equal(sample_next(logits, temperature), sample_next(logits))


def test_penalize_repetition_divides_positive_and_multiplies_negative():
    logits = torch.tensor([[2.0, -2.0, 3.0, -INF]])
    seen = torch.tensor([[True, True, False, True]])
    assert penalize_repetition(logits, seen, 2.0).tolist() == [[1.0, -4.0, 3.0, -INF]]


def test_penalize_presence_takes_the_penalty_once():
    written = torch.tensor([[True, False, True]])
    found = penalize_presence(torch.tensor([[2.0, 1.0, -1.0]]), written, 0.5)
    assert found.tolist() == [[1.5, 1.0, -1.5]]


def test_ban_leaves_nothing_of_a_token():
    assert kept(ban(EXAMPLE, torch.tensor([False, True, False, True]))) == [[0, 2]]


def test_sample_next_with_a_generator_a_row_ignores_the_neighbours():
    logits = random_logits(4, 30)
    for order in ([0, 1, 2, 3], [2, 0], [3]):
        generators = [torch.Generator().manual_seed(100 + row) for row in order]
        drawn = [sample_next(logits[order], 1.5, generator=generators) for _ in range(5)]
        for place, row in enumerate(order):
            alone = torch.Generator().manual_seed(100 + row)
            expected = [sample_next(logits[row : row + 1], 1.5, generator=alone) for _ in range(5)]
            assert [int(step[place]) for step in drawn] == [int(step) for step in expected]


def test_sample_next_never_draws_what_was_left_out():
    logits = random_logits(1, 60).expand(3000, 60)
    drawn = sample_next(logits, 2.0, top_k=20, top_p=0.7, min_p=0.2)
    possible = next_probabilities(logits[:1], 2.0, 20, top_p=0.7, min_p=0.2)[0].nonzero()
    assert set(drawn.flatten().tolist()) == set(possible.flatten().tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": -0.1}, "top_p=-0.1 must be from 0"),
        ({"top_p": 1.1}, "top_p=1.1 must be from 0"),
        ({"top_p": math.nan}, "top_p=nan must be from 0"),
        ({"min_p": -0.1}, "min_p=-0.1 must be from 0"),
        ({"min_p": 2}, "min_p=2 must be from 0"),
        ({"repetition_penalty": 0}, "repetition_penalty=0 must be above 0"),
        ({"repetition_penalty": math.nan}, "repetition_penalty=nan must be above 0"),
        ({"presence_penalty": math.inf}, "presence_penalty=inf must be finite"),
        ({"n_vocab": 0}, "n_vocab=0 must be 1 or more"),
        ({"frequency_penalty": math.nan}, "frequency_penalty=nan must be finite"),
        ({"logit_bias": {3: math.inf}}, "the logit_bias of id 3 is inf; it must be finite"),
        ({"logit_bias": {-1: 2.0}}, "a logit_bias id=-1 must be 0 or more"),
        ({"logit_bias": {"7": 2.0}}, "a logit_bias id='7' must be 0 or more, a whole number"),
    ],
)
def test_sampling_settings_refuse_what_means_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"banned": [9, 10]}, "banned id 10 is not in the model's vocabulary, 0 to 9"),
        ({"banned": [-1]}, "banned id -1"),
        ({"banned": range(10)}, "all 10 ids are banned"),
        ({"banned": [0, 1, 2], "n_vocab": 3}, "all 10 ids are banned"),
    ],
)
def test_banned_ids_refuse_a_stranger_and_an_empty_rest(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**options).banned_ids(10, torch.device("cpu"))


def test_sample_next_refuses_generators_that_are_not_one_a_row():
    with pytest.raises(ValueError, match="1 generators for 2 rows"):
        sample_next(random_logits(2, 5), 1.0, generator=[torch.Generator()])


def chooser(prompt, mask=None, **settings):
    return TokenChooser(SamplingSettings(**settings), torch.tensor(prompt), mask)


def test_chooser_repetition_counts_prompt_and_continuation():
    choose = chooser([[0]], repetition_penalty=10.0).choose
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.1]])
    assert [int(choose(logits)) for _ in range(3)] == [1, 2, 0]


def test_chooser_presence_counts_the_continuation_alone():
    choose = chooser([[0]], presence_penalty=10.0).choose
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.1]])
    assert [int(choose(logits)) for _ in range(5)] == [0, 1, 2, 3, 0]


def test_chooser_frequency_takes_the_penalty_once_for_each_time():
    choose = chooser([[0]], frequency_penalty=1.5).choose
    logits = torch.tensor([[4.0, 2.0, 1.2, 0.1]])
    # What is left of them: 4.0, then 2.5, then 1.0; 2.0, then 0.5.
    assert [int(choose(logits)) for _ in range(4)] == [0, 0, 1, 2]


def test_chooser_frequency_and_presence_add_up():
    choose = chooser([[2]], frequency_penalty=1.0, presence_penalty=0.5).choose
    logits = torch.tensor([[3.0, 1.6, 0.2]])
    assert [int(choose(logits)) for _ in range(5)] == [0, 1, 0, 0, 2]


def test_chooser_adds_biases_before_it_bans():
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    assert chooser([[0]], logit_bias={2: 2.5}).choose(logits).item() == 2
    assert chooser([[0]], logit_bias={0: -100}).choose(logits).item() == 1
    assert chooser([[0]], logit_bias={2: 2.5}, banned=[2]).choose(logits).item() == 0


def test_chooser_refuses_a_bias_for_a_stranger():
    with pytest.raises(
        ValueError, match="logit_bias id 3 is not in the model's vocabulary, 0 to 2"
    ):
        chooser([[0]], logit_bias={3: 1.0}).choose(torch.zeros(1, 3))


def test_settings_with_biases_compare_and_hash_whatever_their_order():
    one, other = (
        SamplingSettings(logit_bias=bias) for bias in ({5: 1, 2: -1.5}, {2: -1.5, 5: 1.0})
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one.logit_bias == ((2, -1.5), (5, 1.0))
    assert replace(one, temperature=1.0).logit_bias == one.logit_bias
    assert one != SamplingSettings(logit_bias={5: 1.0})


def test_chooser_penalties_leave_out_the_padding():
    mask = torch.tensor([[False, True], [True, True]])
    choose = chooser([[0, 1], [0, 1]], mask, repetition_penalty=10.0).choose
    assert choose(torch.tensor([[3.0, 2.0, 1.0]] * 2)).tolist() == [[0], [2]]


def test_chooser_greedy_under_penalties_and_bans_draws_nothing():
    before = torch.get_rng_state()
    choose = chooser([[0]], repetition_penalty=2.0, presence_penalty=1.0, banned=[2]).choose
    choose(random_logits(1, 9))
    assert torch.equal(torch.get_rng_state(), before)


def test_chooser_leaves_the_logits_of_the_model():
    logits = random_logits(1, 9)
    before = logits.clone()
    choose = chooser([[0]], temperature=1.0, top_k=3, repetition_penalty=2.0, banned=[2]).choose
    choose(logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chooser_names_the_step_and_row_of_a_broken_number(number, temperature):
    choose = chooser([[0], [0]], temperature=temperature, top_p=0.9).choose
    logits = random_logits(2, 9)
    choose(logits)
    logits[1, 4:6] = torch.tensor([number, -math.inf])
    with pytest.raises(ValueError, match="logits of step 2 are NaN or infinite in row 1"):
        choose(logits)


def test_chooser_takes_minus_infinity_as_a_token_ruled_out():
    logits = torch.full((1, 5), -math.inf)
    logits[0, 3] = 0.0
    assert int(chooser([[0]], temperature=1.0).choose(logits)) == 3
