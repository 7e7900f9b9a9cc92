"""Greedy generation, as in the last section of chapter 4."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel

CFG = GPTConfig(vocab_size=50, context_length=8, emb_dim=24, n_heads=4, n_layers=2, drop_rate=0.5)


def make() -> GPTModel:
    torch.manual_seed(1)
    return GPTModel(CFG)


def prompt(batch: int = 1, length: int = 3) -> Tensor:
    return torch.randint(50, (batch, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def one_by_one(model: GPTModel, ids: Tensor, new_tokens: int, context_size: int) -> Tensor:
    """The loop as the book has it, on a model in eval mode."""
    for _ in range(new_tokens):
        logits = model(ids[:, -context_size:])[:, -1, :]
        ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
    return ids


@pytest.mark.parametrize("context_size", [8, 5, 1])
@pytest.mark.parametrize("length", [1, 3, 8, 12])
def test_generate_text_simple_equals_the_loop_of_the_book(length, context_size):
    model, ids = make(), prompt(2, length)
    written = generate_text_simple(model, ids, 10, context_size)
    assert torch.equal(written, one_by_one(model.eval(), ids, 10, context_size))


def test_generate_text_simple_keeps_the_prompt_whole():
    ids = prompt(2, 12)
    written = generate_text_simple(make(), ids, 4, 8)
    assert written.shape == (2, 16)
    assert torch.equal(written[:, :12], ids)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_generate_text_simple_does_not_mix_rows(batch):
    model, ids = make(), prompt(batch)
    alone = [generate_text_simple(model, row, 6, 8) for row in ids.split(1)]
    assert torch.equal(generate_text_simple(model, ids, 6, 8), torch.cat(alone))


def test_generate_text_simple_takes_the_context_of_the_model_by_default():
    model, ids = make(), prompt(1, 12)
    assert torch.equal(generate_text_simple(model, ids, 6), generate_text_simple(model, ids, 6, 8))


def test_generate_text_simple_of_nothing_new_is_a_copy_of_the_prompt():
    ids = prompt()
    written = generate_text_simple(make(), ids, 0, 8)
    assert torch.equal(written, ids)
    assert written.data_ptr() != ids.data_ptr()


def test_generate_text_simple_draws_no_random_number():
    model, state = make(), torch.get_rng_state()
    generate_text_simple(model, prompt(), 6, 8)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("training", [False, True])
def test_generate_text_simple_leaves_the_mode_as_found(training):
    model = make().train(training)
    model.trf_blocks[0].train(not training)
    modes = [module.training for module in model.modules()]
    generate_text_simple(model, prompt(), 2, 8)
    assert [module.training for module in model.modules()] == modes


def test_generate_text_simple_leaves_the_mode_as_found_after_an_error():
    model = make().train()
    with pytest.raises(ValueError, match="vocabulary of 50"):
        generate_text_simple(model, torch.tensor([[99]]), 2, 8)
    assert model.training


def test_generate_text_simple_records_no_gradients():
    recorded = []

    def watching(ids: Tensor) -> Tensor:
        recorded.append(torch.is_grad_enabled())
        return nn.functional.one_hot(ids, 50).float()

    generate_text_simple(watching, prompt(), 2, 8)
    assert recorded == [False, False]
    assert torch.is_grad_enabled()


def test_generate_text_simple_works_in_bfloat16():
    model, ids = make().to(torch.bfloat16), prompt(2)
    written = generate_text_simple(model, ids, 6, 8)
    assert written.shape == (2, 9)
    # Further tokens may differ where two are as good as equal, so only the first is compared.
    assert torch.equal(written[:, :4], one_by_one(model.eval(), ids, 1, 8))


def test_generate_text_simple_takes_any_callable():
    def counting(ids: Tensor) -> Tensor:
        return nn.functional.one_hot((ids + 1) % 10, 10).float()

    assert generate_text_simple(counting, torch.tensor([[7]]), 4, 2).tolist() == [[7, 8, 9, 0, 1]]


def test_generate_text_simple_needs_a_context_size_where_the_model_tells_none():
    with pytest.raises(ValueError, match="no cfg.*pass context_size"):
        generate_text_simple(lambda ids: ids, prompt(), 1)


@pytest.mark.parametrize("ids", [torch.tensor([1, 2]), torch.zeros(1, 0, dtype=torch.int64)])
def test_generate_text_simple_refuses_ids_without_batch_or_token(ids):
    with pytest.raises(ValueError, match=r"expected ids of shape \(batch, tokens\)"):
        generate_text_simple(make(), ids, 1, 8)


def test_generate_text_simple_refuses_numbers_out_of_range():
    with pytest.raises(ValueError, match="max_new_tokens=-1 must be 0 or more"):
        generate_text_simple(make(), prompt(), -1, 8)
    with pytest.raises(ValueError, match="context_size=0 must be 1 or more"):
        generate_text_simple(make(), prompt(), 1, 0)
