"""Linear layers by other kernels than PyTorch's give what PyTorch's gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_scratch.model import linear
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.linear import Linear, kernel_for, product_of

CONFIG = {"vocab_size": 61, "context_length": 12, "emb_dim": 24, "n_heads": 3, "n_layers": 2}


@pytest.fixture(params=[True, False], ids=["amd", "other"])
def processor(request, monkeypatch):
    monkeypatch.setattr(linear, "_is_amd_with_mkl", lambda: request.param)


def layers(bias):
    """Tall, wide and square ones, and one whose weights lie the other way round."""
    torch.manual_seed(3)
    for sizes in ((48, 96), (96, 48), (48, 48), (1100, 1200)):
        yield Linear(*sizes, bias=bias)
    turned = Linear(48, 96, bias=bias)
    turned.weight = nn.Parameter(turned.weight.detach().t().contiguous().t())
    yield turned


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 40])
def test_product_of_equals_the_layer(processor, rows, bias):
    for layer in layers(bias):
        x = torch.randn(rows, layer.in_features)
        with torch.no_grad():
            found = product_of(layer, rows)(x[0] if rows == 1 else x)
            expected = nn.functional.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(found.view(expected.shape), expected)
        assert found.is_contiguous()


@pytest.mark.parametrize("shape", [(48,), (1, 48), (2, 3, 48), (2, 1, 48), (0, 48), (2, 0, 48)])
def test_linear_without_gradients_equals_linear_with_them(processor, shape):
    layer, x = Linear(48, 96), torch.randn(shape)
    with torch.no_grad():
        found = layer(x)
    torch.testing.assert_close(found, layer(x).detach())
    strided = torch.randn(48, 5).t()
    with torch.no_grad():
        torch.testing.assert_close(
            layer(strided), nn.functional.linear(strided, layer.weight, layer.bias)
        )


def test_linear_refuses_another_width(processor):
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes"):
        Linear(48, 96)(torch.randn(2, 24))


def test_linear_of_rows_does_not_depend_on_the_others(processor):
    layer, x = Linear(48, 96), torch.randn(7, 48)
    with torch.no_grad():
        before = layer(x)
        x[3] = float("nan")
        after = layer(x)
    assert bool(after[3].isnan().all())
    torch.testing.assert_close(after[[0, 1, 2, 4, 5, 6]], before[[0, 1, 2, 4, 5, 6]])


def test_linear_keeps_gradients_and_autocast(processor):
    layer, x = Linear(48, 96), torch.randn(3, 48, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert x.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with torch.no_grad():
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_linear_without_onednn_falls_back(monkeypatch):
    def missing(*_):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(linear, "_is_amd_with_mkl", lambda: True)
    monkeypatch.setattr(linear, "_by_onednn", missing)
    monkeypatch.setattr(linear, "_has_onednn", linear._has_onednn.__wrapped__)
    layer, x = Linear(96, 48), torch.randn(9, 96)
    assert kernel_for(layer.weight, 9) is None
    with torch.no_grad():
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("tokens", [1, 2, 12])
def test_model_gives_the_same_logits_with_and_without_gradients(processor, tokens):
    torch.manual_seed(1)
    model = GPTModel(CONFIG).eval()
    ids = torch.randint(61, (2, tokens))
    with torch.no_grad():
        found = model(ids)
    torch.testing.assert_close(found, model(ids).detach(), atol=1e-5, rtol=1e-5)


def test_linear_is_exported_as_pytorchs_own(processor, monkeypatch):
    layer, x = Linear(96, 48).eval(), torch.randn(3, 96)
    monkeypatch.setattr(linear, "kernel_for", lambda *_: pytest.fail("another kernel was taken"))
    with torch.no_grad():
        monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
        expected = layer(x)
        monkeypatch.setattr(torch.jit, "is_tracing", lambda: False)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(layer(x), expected)


class Doubled(torch.Tensor):
    """Stands for weights of another kind, such as quantized ones, which know their own products."""


def test_linear_leaves_weights_of_another_kind_alone(monkeypatch):
    monkeypatch.setattr(linear, "_is_amd_with_mkl", lambda: True)
    assert kernel_for(torch.randn(96, 48), 1) is not None
    assert kernel_for(torch.randn(96, 48).as_subclass(Doubled), 1) is None
