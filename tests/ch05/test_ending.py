"""What ends a row, what can't be chosen, and the log-probabilities of what is."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import V, random_ids
from torch import nn

from llm_scratch.generation.decoding import generate


class Planned:
    """Predicts for each row the ids of a plan, one after the other."""

    def __init__(self, plan):
        self.plan = torch.tensor(plan)
        self.calls = 0

    def __call__(self, ids):
        logits = nn.functional.one_hot(self.plan[:, self.calls], V).float()
        self.calls += 1
        return logits[:, None].expand(len(ids), ids.shape[1], V)


def test_generate_stops_at_ids_and_sequences():
    plan = [[1, 2, 3, 4, 5, 6], [2, 1, 2, 3, 9, 9], [7, 3, 2, 3, 9, 9]]
    ids = generate(Planned(plan), random_ids(3, 2), 6, 100, stop=[6, [2, 3]])
    assert ids[:, 2:].tolist() == [[1, 2, 3, 3], [2, 1, 2, 3], [7, 3, 2, 3]]


def test_generate_pads_a_row_with_the_id_that_ended_it():
    plan = [[4, 9, 9, 9], [1, 5, 9, 9], [1, 1, 1, 4]]
    ids = generate(Planned(plan), random_ids(3, 1), 4, 100, eos_id=4, stop=[5])
    assert ids[:, 1:].tolist() == [[4, 4, 4, 4], [1, 5, 5, 5], [1, 1, 1, 4]]


def test_generate_stop_sequence_begun_in_the_prompt_ends_nothing():
    ids = generate(Planned([[3, 7, 2, 3]]), torch.tensor([[2]]), 4, 100, stop=[[2, 3]])
    assert ids.tolist() == [[2, 3, 7, 2, 3]]


@pytest.mark.parametrize("stop", [[[]], [-1], ["a"], "abc"])
def test_generate_refuses_what_can_not_end_a_row(stop):
    with pytest.raises(ValueError, match="stop"):
        generate(Planned([[1]]), random_ids(1, 1), 1, 9, stop=stop)


def test_generate_ended_rows_stay_alone_beside_longer_ones(model):
    idx = random_ids(6, 4)
    together = generate(model, idx, 30, eos_id=17, stop=[40])
    for row, prompt in zip(together, idx, strict=True):
        alone = generate(model, prompt[None], 30, eos_id=17, stop=[40])[0]
        assert torch.equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == alone[-1]).all()


def test_generate_logprobs_after_the_end_are_zero():
    ids, logprobs = generate(
        Planned([[4, 9], [1, 4]]), random_ids(2, 1), 2, 9, eos_id=4, return_logprobs=True
    )
    assert ids[:, 1:].tolist() == [[4, 4], [1, 4]]
    assert logprobs[0, 1] == 0
    assert (logprobs[:, 0] < -1).all()


def test_generate_nothing_has_no_logprobs(model):
    ids, logprobs = generate(model, random_ids(2, 3), 0, return_logprobs=True)
    assert ids.shape == (2, 3)
    assert logprobs.shape == (2, 0)


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0}])
def test_generate_never_chooses_banned_ids(model, options):
    allowed = [3, 14, 15]
    banned = [i for i in range(V) if i not in allowed]
    ids = generate(model, random_ids(4, 2), 20, banned=banned, **options)
    assert set(ids[:, 2:].flatten().tolist()) <= set(allowed)
    ids = generate(model, random_ids(4, 2), 5, banned=[i for i in range(V) if i != 9], **options)
    assert (ids[:, 2:] == 9).all()


@pytest.mark.parametrize("options", [{}, {"temperature": 50.0}])
def test_generate_never_leaves_the_tokenizers_vocabulary(model, options):
    ids = generate(model, random_ids(8, 2) % 7, 30, n_vocab=7, **options)
    assert ids.max() < 7
    assert torch.equal(
        generate(model, random_ids(1, 2), 5, n_vocab=V + 9), generate(model, random_ids(1, 2), 5)
    )


def test_generate_names_the_step_of_a_nan(model):
    with torch.no_grad():
        model.pos_emb.weight[5] = math.nan
    assert generate(model, random_ids(1, 3), 3).shape == (1, 6)
    with pytest.raises(ValueError, match="logits of step 4 are NaN or infinite in row 0"):
        generate(model, random_ids(1, 3), 9)
