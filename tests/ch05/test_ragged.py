"""Rows with a cache each, of any lengths, a token at a time: each gets what it gets alone."""

from __future__ import annotations

import pytest
import torch
from llama_models import random_llama
from tiny_models import CONFIG, T
from torch.testing import assert_close

from llm_scratch.generation.decoding import generate
from llm_scratch.generation.quantized import quantize_int8
from llm_scratch.generation.ragged import RaggedReader
from llm_scratch.generation.reading import prefill
from llm_scratch.generation.single_token import FlatModel
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.model.gpt import GPTModel

LENGTHS = (1, 4, 7, 2, 5)
NEW = 6


def gpt():
    torch.manual_seed(21)
    return GPTModel(CONFIG).eval()


def with_lora():
    model = gpt()
    replace_linear_with_lora(model, rank=2, alpha=4)
    return model


MODELS = {
    "gpt": gpt,
    "llama": lambda: random_llama(3, sliding_window=None, num_experts=0),
    "llama, yarn, a window in one layer": lambda: random_llama(
        5,
        n_layers=3,
        sliding_window=5,
        sliding_layers=(1,),
        qk_norm=True,
        num_experts=0,
        rope_freq={"kind": "yarn", "factor": 4.0, "original_context_length": 16},
    ),
    "experts, called": lambda: random_llama(
        7, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12
    ),
    "lora, called": with_lora,
}


@pytest.fixture(params=MODELS)
def ragged_model(request):
    return MODELS[request.param]().double()


def prompts(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(50, (length,), generator=generator).tolist() for length in lengths]


def read(model, prompt):
    """A cache that holds a prompt, and the likeliest id after it."""
    cache = model.new_cache(1)
    return cache, prefill(model, torch.tensor([prompt]), cache).argmax().item()


def alone(model, prompt, new=NEW):
    return generate(model, torch.tensor([prompt]), new)[0, len(prompt) :].tolist()


@torch.no_grad()
def test_ragged_rows_join_and_leave_at_every_step(ragged_model):
    """Row n joins at step n and leaves NEW steps later; what it writes is what it writes alone."""
    reader, rows, found = RaggedReader(ragged_model), {}, {}
    for step in range(len(LENGTHS) + NEW):
        if step < len(LENGTHS):
            rows[step], first = read(ragged_model, prompts()[step])
            found[step] = [first]
        rows = {n: cache for n, cache in rows.items() if len(found[n]) < NEW}
        if rows:
            logits = reader.next_logits([found[n][-1] for n in rows], list(rows.values()))
            for n, likeliest in zip(rows, logits.argmax(dim=-1).tolist(), strict=True):
                found[n].append(likeliest)
    assert [found[n] for n in sorted(found)] == [alone(ragged_model, p) for p in prompts()]


@torch.no_grad()
def test_ragged_logits_are_those_of_the_model(ragged_model):
    caches, newest = zip(*(read(ragged_model, prompt) for prompt in prompts()), strict=True)
    logits = RaggedReader(ragged_model).next_logits(newest, caches)
    assert [cache.length for cache in caches] == [length + 1 for length in LENGTHS]
    for prompt, last, row in zip(prompts(), newest, logits, strict=True):
        expected = ragged_model(torch.tensor([[*prompt, last]]))[0, -1]
        assert_close(row, expected, atol=1e-6, rtol=1e-6)  # rotary tables are float32


@torch.no_grad()
def test_ragged_rows_with_8_bit_weights_are_near_single_ones():
    model = quantize_int8(gpt())
    caches, newest = zip(*(read(model, prompt) for prompt in prompts()), strict=True)
    logits = RaggedReader(model).next_logits(newest, caches)
    expected = [
        RaggedReader(model).next_logits([last], [read(model, prompt)[0]])
        for prompt, last in zip(prompts(), newest, strict=True)
    ]
    assert (logits - torch.cat(expected)).norm() < 0.02 * logits.norm()


@torch.no_grad()
def test_ragged_caches_of_equal_length_equal_a_common_one():
    model, ids = gpt().double(), torch.tensor(prompts((3, 3, 3)))
    common, own = model.new_cache(3), [model.new_cache(1) for _ in ids]
    prefill(model, ids, common)
    for row, cache in zip(ids, own, strict=True):
        prefill(model, row[None], cache)
    flat, newest = FlatModel.of(model, 3), torch.tensor([[1], [2], [3]])
    assert_close(flat(newest, own), flat(newest, common))


@torch.no_grad()
def test_ragged_forms_are_made_once_for_each_number_of_rows(monkeypatch):
    made = []
    original = FlatModel.of.__func__
    counted = classmethod(lambda cls, model, rows: made.append(rows) or original(cls, model, rows))
    monkeypatch.setattr(FlatModel, "of", counted)
    model = gpt()
    reader = RaggedReader(model)
    for rows in (1, 2, 1, 3, 2, 1):
        caches, newest = zip(*(read(model, p) for p in prompts()[:rows]), strict=True)
        reader.next_logits(newest, caches)
    assert made == [1, 2, 3]


@torch.no_grad()
def test_ragged_rows_refuse_what_does_not_fit():
    model, reader = gpt(), RaggedReader(gpt())
    caches = [read(model, prompt)[0] for prompt in prompts((2, T))]
    with pytest.raises(ValueError, match="13 tokens does not fit a context_length of 12"):
        reader.next_logits([1, 2], caches)
    assert [cache.length for cache in caches] == [2, T]
    with pytest.raises(ValueError, match="3 rows and 2 caches"):
        reader.next_logits([1, 2, 3], caches)
    with pytest.raises(ValueError, match="1 rows do not fit a cache made for 2"):
        reader.next_logits([1, 2], [caches[0], model.new_cache(2)])
    small = model.new_cache(1, 2)
    prefill(model, torch.tensor([[1, 2]]), small)
    with pytest.raises(ValueError, match=r"2 \+ 1 tokens do not fit a cache made for 2"):
        reader.next_logits([1, 2], [caches[0], small])
