"""Padded rows and tokens that were read before, which the model must not notice."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_ids
from torch.nn import functional as F
from torch.testing import assert_close

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel

TINY = GPTConfig(vocab_size=50, context_length=12, emb_dim=24, n_heads=4, n_layers=3)


def make() -> GPTModel:
    torch.manual_seed(1)
    return GPTModel(TINY)


def test_gpt_model_reads_padded_rows_as_if_they_were_alone():
    model, ids = make(), random_ids(2, 6)
    real = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    logits = model(ids, attention_mask=real)
    assert_close(logits[:1, 2:], model(ids[:1, 2:]))
    assert_close(logits[1:], model(ids[1:]))


def test_gpt_model_learns_from_rows_of_padding_without_nan():
    model, ids = make(), random_ids(2, 6)
    real = torch.tensor([[0] * 6, [0, 0, 0, 1, 1, 1]])
    logits = model(ids, attention_mask=real)
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_gpt_model_takes_an_attention_mask_of_any_type(dtype):
    model, ids = make(), random_ids(2, 6)
    assert_close(model(ids, attention_mask=torch.ones(2, 6, dtype=dtype)), model(ids))


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (1, 6), (6,)])
def test_gpt_model_refuses_an_attention_mask_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"attention_mask of shape .* \(2, 6\) is needed"):
        make()(random_ids(2, 6), attention_mask=torch.ones(shape))


@pytest.mark.parametrize("pieces", [(4, 1, 1), (1, 5), (6,), (2, 4)])
def test_gpt_model_reads_on_from_a_cache(pieces):
    model, ids = make(), random_ids(2, 6)
    cache = model.new_cache(batch=2)
    logits = [model(piece, cache=cache) for piece in ids.split(pieces, dim=1)]
    assert_close(torch.cat(logits, dim=1), model(ids))
