"""The copy of a model with 8-bit weights: near the float model, row by row."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CONFIG, T, random_ids
from torch import nn

from llm_scratch.generation import quantized as int8
from llm_scratch.generation.decoding import generate
from llm_scratch.generation.quantized import Int8Linear, quantize_int8
from llm_scratch.generation.single_token import FlatModel
from llm_scratch.model.gpt import GPTModel


@pytest.fixture
def quantized(model):
    return quantize_int8(model)


def test_quantize_int8_is_near_the_float_model(model, quantized):
    ids = random_ids(3, T)
    with torch.no_grad():
        expected, found = model(ids), quantized(ids)
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()


def test_quantize_int8_leaves_the_model_and_shares_its_embeddings(model):
    before = {name: p.clone() for name, p in model.state_dict().items()}
    model.train()
    quantized = quantize_int8(model)
    quantized.trf_blocks[0].register_forward_hook(lambda part, args, out: out)
    assert all(part.training for part in model.modules())
    assert not model.trf_blocks[0]._forward_hooks
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert quantized.tok_emb.weight is model.tok_emb.weight
    assert (
        sum(isinstance(part, Int8Linear) for part in quantized.modules()) == 2 * 4 + 1
    )  # queries, keys and values are one


def test_quantize_int8_rows_do_not_mix(quantized):
    quiet, loud = torch.randn(1, 5, 24), 100 * torch.randn(1, 5, 24)
    layer = quantized.trf_blocks[0].ff.layers[0]
    assert torch.equal(layer(torch.cat([quiet, loud]))[:1], layer(quiet))


def test_quantize_int8_model_generates_alike_with_and_without_cache(quantized, monkeypatch):
    taken = []
    original = FlatModel.__call__
    monkeypatch.setattr(FlatModel, "__call__", lambda *args: taken.append(1) or original(*args))
    for idx in (random_ids(1, 3), random_ids(3, 5)):
        assert torch.equal(
            generate(quantized, idx, 20), generate(quantized, idx, 20, use_cache=False)
        )
    assert len(taken) == 9 + 7


def test_quantize_int8_of_a_tied_model_in_bfloat16():
    torch.manual_seed(2)
    model = GPTModel({**CONFIG, "tie_weights": True}).bfloat16()
    with torch.no_grad():
        logits = quantize_int8(model)(random_ids(2, 4))
    assert logits.dtype == torch.bfloat16


@pytest.mark.parametrize("x", [torch.zeros(2, 24), torch.full((1, 24), -3.0), torch.eye(24)])
def test_int8_linear_takes_rows_of_one_number(model, quantized, x):
    layer, expected = (m.trf_blocks[0].att.out_proj for m in (quantized, model))
    with torch.no_grad():
        assert (layer(x) - expected(x)).abs().max() < 0.02


@pytest.mark.parametrize("kernel", [True, False])
def test_int8_linear_without_the_dynamic_kernel(model, monkeypatch, kernel):
    monkeypatch.setattr(int8, "_has_dynamic_kernel", lambda device: False)
    if not kernel:
        monkeypatch.setattr(int8, "_has_weight_only_kernel", lambda device: False)
    layer = model.trf_blocks[0].ff.layers[2]
    x = torch.randn(3, 96)
    with torch.no_grad():
        expected = layer(x)
    found = Int8Linear(layer)(x)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_int8_kernels_are_found_wanting_when_they_raise(monkeypatch):
    def fail(*args):
        raise RuntimeError("no engine")

    monkeypatch.setattr(int8, "_pack", fail)
    check = int8._has_dynamic_kernel.__wrapped__
    assert check(torch.device("cpu")) is False
    assert check(torch.device("meta")) is False


def test_quantize_int8_refuses_another_model():
    with pytest.raises(TypeError, match="expected a model of this library.*, got a Linear"):
        quantize_int8(nn.Linear(2, 2))
