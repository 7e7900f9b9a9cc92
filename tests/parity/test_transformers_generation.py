"""transformers' generation: the same tokens kept, the same continuations."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_ids
from torch.testing import assert_close

from llm_scratch.generation.decoding import generate
from llm_scratch.generation.sampling import (
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_probabilities,
    penalize_repetition,
)
from llm_scratch.generation.texts import pad_left
from llm_scratch.model.gpt import GPTModel
from llm_scratch.weights.export import export_huggingface

transformers = pytest.importorskip("transformers")

V, CONTEXT = 97, 256
ON_RANDOM_LOGITS = pytest.mark.parametrize(
    ("size", "spread"), [(size, spread) for size in (30, 1000, 50257) for spread in (0.5, 2.0, 6.0)]
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model with random weights, ours and as transformers reads it."""
    torch.manual_seed(31)
    config = {
        "vocab_size": V,
        "context_length": CONTEXT,
        "emb_dim": 48,
        "n_heads": 4,
        "n_layers": 3,
        "drop_rate": 0.0,
        "qkv_bias": True,
    }
    ours = GPTModel({**config, "tie_weights": True}).eval()
    with torch.no_grad():  # weights of a size that makes texts vary
        for name, parameter in ours.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(4 if "emb" in name else 8)
    folder = tmp_path_factory.mktemp("model")
    export_huggingface(ours, folder)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    theirs.generation_config.eos_token_id = None
    theirs.generation_config.pad_token_id = 0
    return ours, theirs


def random_logits(size, spread, batch=4):
    generator = torch.Generator().manual_seed(size)
    return torch.randn(batch, size, generator=generator) * spread


def kept(logits):
    return logits.isfinite()


def through_a_token(logits, top_p):
    """A share near `top_p` that ends in the middle of a token, so that no rounding decides."""
    likeliest = logits[0].double().softmax(dim=-1).sort(descending=True).values
    reached = likeliest.cumsum(dim=0)
    crossing = int((reached < top_p).sum())
    return float(reached[crossing] - likeliest[crossing] / 2)


@pytest.mark.parametrize("top_k", [1, 5, 50, 10**6])
@ON_RANDOM_LOGITS
def test_keep_top_k_keeps_the_same(size, spread, top_k):
    logits = random_logits(size, spread)
    theirs = transformers.TopKLogitsWarper(top_k)(None, logits)
    assert torch.equal(keep_top_k(logits, top_k), theirs)


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 0.99])
@ON_RANDOM_LOGITS
def test_keep_top_p_keeps_the_same(size, spread, top_p):
    # Sums over a large vocabulary need more digits, for the border to be the same everywhere.
    dtype = torch.float64 if size > 1000 else torch.float32
    for row in random_logits(size, spread).to(dtype).split(1):
        share = through_a_token(row, top_p)
        theirs = transformers.TopPLogitsWarper(share)(None, row)
        assert torch.equal(kept(keep_top_p(row, share)), kept(theirs))


@pytest.mark.parametrize("min_p", [0.02, 0.2, 1.0])
@ON_RANDOM_LOGITS
def test_keep_min_p_keeps_the_same(size, spread, min_p):
    logits = random_logits(size, spread)
    theirs = transformers.MinPLogitsWarper(min_p)(None, logits)
    assert torch.equal(kept(keep_min_p(logits, min_p)), kept(theirs))


@pytest.mark.parametrize("penalty", [0.7, 1.3, 5.0])
@ON_RANDOM_LOGITS
def test_penalize_repetition_is_the_same(size, spread, penalty):
    logits, ids = random_logits(size, spread), random_ids(4, 20) % size
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, True)
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(penalize_repetition(logits, seen, penalty), theirs)


@ON_RANDOM_LOGITS
def test_next_probabilities_of_all_settings_are_the_same(size, spread):
    logits = theirs = random_logits(size, spread)
    for processor in (
        transformers.TemperatureLogitsWarper(0.7),
        transformers.TopKLogitsWarper(40),
        transformers.TopPLogitsWarper(0.9),
        transformers.MinPLogitsWarper(0.05),
    ):
        theirs = processor(None, theirs)
    ours = next_probabilities(logits, 0.7, 40, top_p=0.9, min_p=0.05)
    assert_close(ours, theirs.softmax(dim=-1))


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        ({}, {}),
        ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
        ({"banned": [3, 50]}, {"suppress_tokens": [3, 50]}),
    ],
)
def test_generate_greedy_writes_the_same(models, batch, own, theirs):
    model, peer = models
    idx = random_ids(batch, 9)
    expected = peer.generate(
        idx,
        attention_mask=torch.ones_like(idx),
        max_new_tokens=80,
        do_sample=False,
        **theirs,
    )
    found = generate(model, idx, 80, **own)
    assert torch.equal(found, expected)
    assert len(set(found[0].tolist())) > 10  # no row that says one thing only


def test_generate_ragged_batch_writes_the_same(models):
    model, peer = models
    ids, mask = pad_left([[5], [1, 2, 3], list(range(40, 60))])
    expected = peer.generate(ids, attention_mask=mask.long(), max_new_tokens=60, do_sample=False)
    assert torch.equal(generate(model, ids, 60, attention_mask=mask), expected)


def test_generate_samples_the_same_from_the_same_seed(models):
    model, peer = models
    idx = random_ids(2, 9)
    torch.manual_seed(8)
    expected = peer.generate(
        idx,
        attention_mask=torch.ones_like(idx),
        max_new_tokens=60,
        do_sample=True,
        temperature=1.2,
        top_k=30,
        top_p=0.95,
    )
    torch.manual_seed(8)
    assert torch.equal(generate(model, idx, 60, temperature=1.2, top_k=30, top_p=0.95), expected)


def test_generate_ends_rows_at_the_same_place(models):
    model, peer = models
    idx = random_ids(7, 5)
    eos_id = int(generate(model, idx, 40)[3, 20])
    expected = peer.generate(
        idx,
        attention_mask=torch.ones_like(idx),
        max_new_tokens=40,
        do_sample=False,
        eos_token_id=eos_id,
        pad_token_id=eos_id,
    )
    assert torch.equal(generate(model, idx, 40, eos_id=eos_id), expected)
