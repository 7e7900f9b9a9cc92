"""The cache of keys and values: the model that reads on equals the model that reads all."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_ids
from torch.testing import assert_close

from llm_scratch.model.gpt import GPTModel

V, CONTEXT = 53, 16
CONFIG = {
    "vocab_size": V,
    "context_length": CONTEXT,
    "emb_dim": 24,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": True,
}


@pytest.fixture
def model():
    torch.manual_seed(11)
    return GPTModel(CONFIG).eval()


def read(model, cache, *chunks):
    """The logits of several chunks read one after the other, side by side."""
    with torch.no_grad():
        return torch.cat([model(chunk, cache=cache) for chunk in chunks], dim=1)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(16,), (1,) * 16, (5, 11), (7, 1, 1, 6, 1), (15, 1)])
def test_model_with_cache_in_chunks_equals_whole(model, batch, sizes):
    ids = random_ids(batch, sum(sizes))
    cache = model.new_cache(batch)
    found = read(model, cache, *ids.split(list(sizes), dim=1))
    with torch.no_grad():
        assert_close(found, model(ids), atol=1e-5, rtol=1e-5)
    assert cache.length == sum(sizes)


def test_model_with_cache_and_padding_in_chunks_equals_whole(model):
    ids = random_ids(3, 10)
    mask = torch.arange(10) >= torch.tensor([[0], [2], [6]])
    cache = model.new_cache(3)
    with torch.no_grad():
        parts = [
            model(ids[:, start:end], cache=cache, attention_mask=mask[:, :end])
            for start, end in ((0, 4), (4, 5), (5, 10))
        ]
        whole = model(ids, attention_mask=mask)
    assert_close(torch.cat(parts, dim=1)[mask], whole[mask], atol=1e-5, rtol=1e-5)


def test_cache_truncated_forgets_what_came_after(model):
    ids, other = random_ids(2, 9), random_ids(2, 5, seed=6)
    cache = model.new_cache(2)
    read(model, cache, ids)
    cache.truncate(4)
    assert_close(
        read(model, cache, other), read(model, None, torch.cat([ids[:, :4], other], 1))[:, 4:]
    )
    cache.truncate(0)
    assert_close(read(model, cache, other), read(model, None, other))


def test_cache_repeated_holds_each_row_several_times(model):
    prompts, samples = random_ids(2, 6), random_ids(6, 3, seed=7)
    cache = model.new_cache(2)
    read(model, cache, prompts)
    found = read(model, cache.repeat(3), samples)
    whole = torch.cat([prompts.repeat_interleave(3, dim=0), samples], dim=1)
    assert_close(found, read(model, None, whole)[:, 6:])


def test_cache_copy_and_original_do_not_meet(model):
    prompt, one, two = random_ids(1, 4), random_ids(1, 3, seed=8), random_ids(1, 3, seed=9)
    cache = model.new_cache(1)
    read(model, cache, prompt)
    copy = cache.copy()
    found = read(model, copy, one), read(model, cache, two)
    for ids, logits in zip((one, two), found, strict=True):
        assert_close(logits, read(model, None, torch.cat([prompt, ids], dim=1))[:, 4:])


def test_cache_of_the_last_batch_is_not_seen_by_the_next(model):
    ids = random_ids(2, 8)
    read(model, model.new_cache(2), random_ids(2, 8, seed=1))
    assert_close(read(model, model.new_cache(2), ids), read(model, None, ids))


def test_cache_is_no_part_of_the_model(model):
    names = list(model.state_dict())
    attributes = {name: set(vars(part)) for name, part in model.named_modules()}
    read(model, model.new_cache(1), random_ids(1, 4))
    assert list(model.state_dict()) == names
    assert {name: set(vars(part)) for name, part in model.named_modules()} == attributes


def test_cache_gives_gradients_of_the_tokens_read_with_it(model):
    ids = random_ids(2, 6)
    weight = model.trf_blocks[0].att.W_key.weight
    (expected,) = torch.autograd.grad(model(ids).square().sum(), weight)
    cache = model.new_cache(2)
    (found,) = torch.autograd.grad(model(ids, cache=cache).square().sum(), weight)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)  # two kernels, summed over all logits
    assert cache.length == 6


def test_cache_holds_no_graph(model):
    cache = model.new_cache(1)
    model(random_ids(1, 4), cache=cache)
    keys, values = cache.update(0, torch.zeros(1, 3, 1, 8), torch.zeros(1, 3, 1, 8))
    assert not keys.requires_grad
    assert not values.requires_grad


def test_cache_of_model_takes_its_type_sizes_and_place(model):
    cache = model.bfloat16().new_cache(batch=3, length=10)
    assert (cache.batch, cache.capacity, cache.length) == (3, 10, 0)
    assert cache.num_bytes == 2 * 2 * 3 * 3 * 10 * 8 * 2
    assert model.new_cache(1).capacity == CONTEXT
    assert model.new_cache(1, dtype=torch.float32).num_bytes == 2 * 2 * 3 * 16 * 8 * 4


def test_cache_in_float32_under_autocast_is_near(model):
    ids = random_ids(1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = read(model, model.new_cache(1), ids[:, :5], ids[:, 5:6], ids[:, 6:])
        expected = read(model, None, ids)
    assert_close(found, expected, atol=0.05, rtol=0.05)  # bfloat16 has three digits


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, c: m(random_ids(3, 1), cache=c), "3 rows do not fit a cache made for 2"),
        (lambda m, c: m(random_ids(2, 5), cache=c), r"4 \+ 5 tokens do not fit a cache made for 8"),
        (lambda m, c: m(random_ids(2, 13), cache=c), "17 tokens does not fit a context_length of"),
        (lambda m, c: c.truncate(5), "cannot cut 4 tokens to 5"),
        (lambda m, c: c.truncate(-1), "cannot cut 4 tokens to -1"),
        (lambda m, c: c.repeat(0), "times=0 must be 1 or more"),
        (lambda m, c: m.new_cache(1, 17), "17 tokens does not fit a context_length of 16"),
        (lambda m, c: m.new_cache(0), "no room"),
    ],
)
def test_cache_refuses_what_does_not_fit(model, call, message):
    cache = model.new_cache(2, length=8)
    read(model, cache, random_ids(2, 4))
    with pytest.raises(ValueError, match=message):
        call(model, cache)
    assert cache.length == 4
