"""Our layers against PyTorch's own, outputs and gradients, with the same weights."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from llm_scratch.model.attention import MultiHeadAttention
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import TransformerBlock
from llm_scratch.model.layers import GELU, FeedForward, LayerNorm

B, T, C, H = 3, 7, 24, 4
CFG = GPTConfig(vocab_size=11, context_length=T, emb_dim=C, n_heads=H, n_layers=1, qkv_bias=True)


def random_input() -> Tensor:
    return torch.randn(B, T, C, generator=torch.Generator().manual_seed(0)).requires_grad_(True)


def output_and_gradients(output: Tensor, inputs: Iterable[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), list(inputs))]


@torch.no_grad()
def randomize(module: nn.Module) -> None:
    """Set every parameter, so that none stays at its 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.normal_(0.0, 0.3, generator=generator)


@torch.no_grad()
def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    projections = (ours.W_query, ours.W_key, ours.W_value)
    theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in projections]))
    biases = [torch.zeros(C) if layer.bias is None else layer.bias for layer in projections]
    theirs.in_proj_bias.copy_(torch.cat(biases))
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def future(length: int) -> Tensor:
    """PyTorch's layers take the mask the other way round: True where nobody may look."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_multi_head_attention_equals_torch(qkv_bias):
    ours = MultiHeadAttention(C, C, T, 0.0, H, qkv_bias)
    randomize(ours)
    theirs = nn.MultiheadAttention(C, H, batch_first=True)
    copy_attention(ours, theirs)
    x = random_input()
    expected, _ = theirs(x, x, x, attn_mask=future(T), need_weights=False)
    assert_close(
        output_and_gradients(ours(x), [x, ours.out_proj.weight, ours.out_proj.bias]),
        output_and_gradients(expected, [x, theirs.out_proj.weight, theirs.out_proj.bias]),
    )


def test_multi_head_attention_has_the_gradients_of_torch():
    ours = MultiHeadAttention(C, C, T, 0.0, H, qkv_bias=True)
    randomize(ours)
    theirs = nn.MultiheadAttention(C, H, batch_first=True)
    copy_attention(ours, theirs)
    x = random_input()
    projections = (ours.W_query, ours.W_key, ours.W_value)
    _, *weights = output_and_gradients(ours(x), [layer.weight for layer in projections])
    _, *biases = output_and_gradients(ours(x), [layer.bias for layer in projections])
    attended, _ = theirs(x, x, x, attn_mask=future(T), need_weights=False)
    _, weight, bias = output_and_gradients(attended, [theirs.in_proj_weight, theirs.in_proj_bias])
    assert_close(torch.cat(weights), weight)
    assert_close(torch.cat(biases), bias)


def test_layer_norm_equals_torch():
    ours, theirs, x = LayerNorm(C), nn.LayerNorm(C), random_input()
    randomize(ours)
    with torch.no_grad():
        theirs.weight.copy_(ours.scale)
        theirs.bias.copy_(ours.shift)
    assert ours.eps == theirs.eps
    assert_close(
        output_and_gradients(ours(x), [x, ours.scale, ours.shift]),
        output_and_gradients(theirs(x), [x, theirs.weight, theirs.bias]),
    )


def test_gelu_equals_torch():
    x = torch.linspace(-8, 8, 401, requires_grad=True)
    theirs = nn.GELU(approximate="tanh")
    assert_close(output_and_gradients(GELU()(x), [x]), output_and_gradients(theirs(x), [x]))


def test_gelu_differs_from_the_exact_one_by_little():
    x = torch.linspace(-8, 8, 401)
    difference = (GELU()(x) - F.gelu(x)).abs().max().item()
    assert 1e-4 < difference < 4.8e-4


def test_feed_forward_equals_torch():
    ours, x = FeedForward(CFG), random_input()
    theirs = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(approximate="tanh"), nn.Linear(4 * C, C))
    theirs.load_state_dict(ours.layers.state_dict())
    assert_close(
        output_and_gradients(ours(x), [x, *ours.parameters()]),
        output_and_gradients(theirs(x), [x, *theirs.parameters()]),
    )


def test_transformer_block_equals_torch():
    ours, x = TransformerBlock(CFG), random_input()
    randomize(ours)
    theirs = nn.TransformerEncoderLayer(
        C,
        H,
        dim_feedforward=4 * C,
        dropout=0.0,
        activation=nn.GELU(approximate="tanh"),
        batch_first=True,
        norm_first=True,
    )
    copy_attention(ours.att, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.ff.layers[0].state_dict())
    theirs.linear2.load_state_dict(ours.ff.layers[2].state_dict())
    with torch.no_grad():
        for mine, other in ((ours.norm1, theirs.norm1), (ours.norm2, theirs.norm2)):
            other.weight.copy_(mine.scale)
            other.bias.copy_(mine.shift)
    expected = theirs(x, src_mask=future(T))
    assert_close(
        output_and_gradients(ours(x), [x, ours.norm1.scale, ours.norm2.shift]),
        output_and_gradients(expected, [x, theirs.norm1.weight, theirs.norm2.bias]),
    )
