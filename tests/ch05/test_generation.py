"""Book 4.7 and 5.3: choosing the next token, and the loop around it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import random_ids

from llm_scratch.generation.decoding import generate, generate_text_simple
from llm_scratch.generation.sampling import keep_top_k, sample_next
from llm_scratch.model.gpt import GPTModel

V, CONTEXT = 61, 8
CONFIG = {
    "vocab_size": V,
    "context_length": CONTEXT,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": False,
}


@pytest.fixture
def model():
    torch.manual_seed(1)
    return GPTModel(CONFIG).eval()


class CountingModel:
    """Predicts the last id plus one, and remembers what it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, ids):
        self.seen.append(ids.clone())
        return torch.nn.functional.one_hot((ids + 1) % V, V).float()


class PlannedModel:
    """Predicts for each row the ids of a plan, one after the other."""

    def __init__(self, plan, prompt_length):
        self.plan = torch.tensor(plan)
        self.prompt_length = prompt_length
        self.calls = 0

    def __call__(self, ids):
        logits = torch.zeros(*ids.shape, V)
        chosen = self.plan[:, ids.shape[1] - self.prompt_length]
        logits[torch.arange(len(ids)), -1, chosen] = 1.0
        self.calls += 1
        return logits


def greedy_by_hand(model, idx, max_new_tokens):
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -CONTEXT:])
        idx = torch.cat((idx, logits[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    return idx


def modes_of(model):
    return [part.training for part in model.modules()]


@pytest.mark.parametrize("function", [generate_text_simple, generate])
def test_greedy_equals_argmax_loop(model, function):
    idx = random_ids(2, 3)
    assert torch.equal(function(model, idx, 12, CONTEXT), greedy_by_hand(model, idx, 12))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_generate_rows_equal_single_runs(model, batch):
    idx = random_ids(batch, 4)
    together = generate(model, idx, 10, top_k=5, eos_id=3)
    for row, prompt in zip(together, idx, strict=True):
        alone = generate(model, prompt[None], 10, top_k=5, eos_id=3)[0]
        assert torch.equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == 3).all()


@pytest.mark.parametrize("top_k", [None, 0, V, V + 1, 10 * V])
def test_generate_top_k_without_limit_changes_nothing(model, top_k):
    idx = random_ids(3, 4)
    samples = [
        generate(
            model, idx, 8, temperature=1.3, top_k=k, generator=torch.Generator().manual_seed(4)
        )
        for k in (None, top_k)
    ]
    assert torch.equal(*samples)


def test_generate_top_k_of_one_is_greedy(model):
    idx = random_ids(3, 4)
    sampled = generate(model, idx, 8, temperature=2.0, top_k=1)
    assert torch.equal(sampled, generate(model, idx, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": -1}, "top_k=-1 must be 0 or more"),
        ({"temperature": -0.5}, "temperature=-0.5 must be 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan must be 0 or more"),
        ({"temperature": float("inf")}, "temperature=inf must be 0 or more and finite"),
        ({"context_size": 0}, "context_size=0 must be 1 or more"),
        ({"context_size": 1.5}, "context_size=1.5 must be 1 or more, a whole number"),
        ({"top_k": 2.5}, "top_k=2.5 must be 0 or more, a whole number"),
        ({"temperature": "1"}, "temperature='1' must be 0 or more"),
        ({"top_p": "a"}, "top_p='a' must be from 0"),
        ({"n_vocab": 2.5}, "n_vocab=2.5 must be 1 or more, a whole number"),
        ({"repetition_penalty": "1"}, "repetition_penalty=1 must be above 0"),
        ({"eos_id": 2.5}, "stop holds 2.5"),
    ],
)
def test_generate_refuses_setting_before_any_work(options, message):
    spy = CountingModel()
    with pytest.raises(ValueError, match=message):
        generate(spy, random_ids(1, 4), 3, **{"context_size": CONTEXT, **options})
    assert spy.seen == []


@pytest.mark.parametrize("function", [generate_text_simple, generate])
def test_generate_refuses_negative_length(model, function):
    with pytest.raises(ValueError, match="max_new_tokens=-1 must be 0 or more"):
        function(model, random_ids(1, 4), -1)


@pytest.mark.parametrize("function", [generate_text_simple, generate])
def test_generate_nothing_returns_prompt(model, function):
    idx = random_ids(2, 4)
    assert torch.equal(function(model, idx, 0), idx)


@pytest.mark.parametrize("shape", [(2, 0), (4,), (1, 2, 3)])
def test_generate_refuses_prompt_without_tokens_or_rows(model, shape):
    with pytest.raises(ValueError, match=r"\(batch, tokens\) with at least one token, got \("):
        generate(model, torch.zeros(shape, dtype=torch.int64), 3)


def test_generate_names_the_missing_context():
    with pytest.raises(ValueError, match="pass context_size"):
        generate(CountingModel(), random_ids(1, 2), 3)


@pytest.mark.parametrize("function", [generate_text_simple, generate])
def test_greedy_draws_no_random_number(model, function):
    model.train()
    before = torch.get_rng_state()
    function(model, random_ids(2, 4), 6)
    assert torch.equal(torch.get_rng_state(), before)


def test_generate_samples_with_one_multinomial_over_the_vocabulary(model):
    idx = expected = random_ids(2, 3)
    torch.manual_seed(123)
    for _ in range(9):
        with torch.no_grad():
            logits = model(expected[:, -CONTEXT:])[:, -1]
        threshold = logits.topk(5).values[:, -1:]
        logits = torch.where(logits < threshold, torch.tensor(-torch.inf), logits)
        drawn = torch.multinomial(torch.softmax(logits / 1.4, dim=-1), num_samples=1)
        expected = torch.cat((expected, drawn), dim=1)
    torch.manual_seed(123)
    assert torch.equal(generate(model, idx, 9, CONTEXT, 1.4, 5), expected)


def test_generate_repeats_with_generator_and_leaves_global_one(model):
    idx = random_ids(2, 4)
    before = torch.get_rng_state()
    first, second, other = (
        generate(model, idx, 12, temperature=2.0, generator=torch.Generator().manual_seed(seed))
        for seed in (7, 7, 8)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_generate_ends_each_row_on_its_own():
    plan = [[9, 5, 7, 7, 7, 7], [5, 7, 7, 7, 7, 7], [7, 8, 9, 5, 6, 6]]
    model = PlannedModel(plan, prompt_length=2)
    prompt = random_ids(3, 2)
    ids = generate(model, prompt, 6, context_size=100, eos_id=5)
    assert ids[:, 2:].tolist() == [[9, 5, 5, 5], [5, 5, 5, 5], [7, 8, 9, 5]]
    assert model.calls == 4  # nothing is computed once the last row has ended


def test_generate_runs_to_the_end_without_eos():
    model = PlannedModel([[5, 5, 5], [5, 1, 2]], prompt_length=1)
    ids = generate(model, random_ids(2, 1), 3, context_size=100)
    assert ids[:, 1:].tolist() == [[5, 5, 5], [5, 1, 2]]


def test_generate_ignores_eos_in_prompt():
    model = PlannedModel([[1, 2, 3]], prompt_length=3)
    ids = generate(model, torch.tensor([[5, 4, 5]]), 3, context_size=100, eos_id=5)
    assert ids.tolist() == [[5, 4, 5, 1, 2, 3]]


@pytest.mark.parametrize("prompt_length", [3, 8, 12])
def test_generate_keeps_prompt_and_shows_model_the_last_ids(prompt_length):
    spy = CountingModel()
    idx = random_ids(2, prompt_length)
    ids = generate(spy, idx, 10, context_size=CONTEXT)
    assert torch.equal(ids[:, :prompt_length], idx)
    assert torch.equal(ids[:, prompt_length:], (idx[:, -1:] + torch.arange(1, 11)) % V)
    for step, seen in enumerate(spy.seen):
        length = prompt_length + step
        assert torch.equal(seen, ids[:, max(0, length - CONTEXT) : length])


def test_generate_takes_the_context_from_the_model(model):
    idx = random_ids(1, 2 * CONTEXT)
    assert torch.equal(generate(model, idx, 5), generate(model, idx, 5, CONTEXT))


def test_generate_leaves_ids_of_the_caller(model):
    idx = random_ids(2, 4)
    before = idx.clone()
    generate(model, idx, 5, eos_id=1)[:] = 0
    generate(model, idx, 0)[:] = 0
    assert torch.equal(idx, before)


def test_generate_samples_without_dropout(model):
    idx = random_ids(2, 4)
    expected = generate(model, idx, 10)
    assert torch.equal(generate(model.train(), idx, 10), expected)


def test_generate_restores_the_mode_of_each_part(model):
    model.train()
    model.trf_blocks[0].eval()
    before = modes_of(model)
    generate(model, random_ids(1, 4), 2)
    assert modes_of(model) == before


def test_generate_restores_the_mode_after_an_error(model):
    model.train()
    model.trf_blocks[1].eval()
    before = modes_of(model)
    with pytest.raises(ValueError, match="12"):
        generate(model, random_ids(1, 12), 2, context_size=12)
    assert modes_of(model) == before


def test_generate_keeps_no_graph(model):
    with_graph = []

    def spy(ids):
        logits = model(ids)
        with_graph.append(logits.requires_grad)
        return logits

    generate(spy, random_ids(1, 4), 2, CONTEXT)
    assert with_graph == [False, False]
    assert torch.is_grad_enabled()


def test_generate_works_in_bfloat16(model):
    model.to(torch.bfloat16)
    idx = random_ids(2, 4)
    assert torch.equal(generate(model, idx, 6), greedy_by_hand(model, idx, 6))
    assert generate(model, idx, 6, temperature=1.0, top_k=3).shape == (2, 10)


def test_sample_next_computes_probabilities_in_float32():
    logits = torch.randn(2_000, V, generator=torch.Generator().manual_seed(0)).bfloat16()
    half, full = (
        sample_next(values, 0.7, generator=torch.Generator().manual_seed(5))
        for values in (logits, logits.float())
    )
    assert torch.equal(half, full)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_sample_next_follows_the_probabilities(temperature):
    logits = torch.tensor([[2.0, 0.0, -1.0, 3.0]])
    draws = sample_next(
        logits.expand(20_000, 4), temperature, generator=torch.Generator().manual_seed(3)
    )
    shares = draws.flatten().bincount(minlength=4) / 20_000
    expected = (logits[0] / temperature).softmax(dim=0)
    # Four standard deviations of a share counted over 20,000 draws are below 0.015.
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


@given(
    logits=st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=3),
    top_k=st.integers(1, 8),
)
def test_keep_top_k_keeps_the_largest_and_their_equals(logits, top_k):
    values = torch.tensor(logits, dtype=torch.float32)
    kept = keep_top_k(values, top_k)
    for row, kept_row in zip(values.tolist(), kept.tolist(), strict=True):
        smallest = sorted(row, reverse=True)[min(top_k, 6) - 1]
        assert kept_row == [x if x >= smallest else float("-inf") for x in row]
    assert torch.equal(values, torch.tensor(logits, dtype=torch.float32))
