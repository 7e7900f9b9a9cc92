"""Layer normalisation, GELU, the feed-forward network: by hand and fused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import TransformerBlock
from llm_scratch.model.layers import GELU, FeedForward, LayerNorm, gelu_by_hand, layer_norm_by_hand

CFG = {"vocab_size": 11, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 2}
PROJECTIONS = ("W_query", "W_key", "W_value")


def random_input(*shape: int) -> Tensor:
    shape = shape or (2, 5, 12)
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(shape, generator=generator) + 1).requires_grad_(True)


def output_and_gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), inputs)]


def test_layer_norm_by_hand_equals_the_module():
    norm, x = LayerNorm(12), random_input()
    with torch.no_grad():
        norm.scale.copy_(torch.linspace(-1, 2, 12))
        norm.shift.copy_(torch.linspace(1, -1, 12))
    inputs = [x, norm.scale, norm.shift]
    by_hand = layer_norm_by_hand(x, norm.scale, norm.shift, norm.eps)
    assert_close(output_and_gradients(by_hand, inputs), output_and_gradients(norm(x), inputs))


def test_layer_norm_gives_mean_zero_and_biased_variance_one():
    out = LayerNorm(12)(random_input())
    assert_close(out.mean(dim=-1), torch.zeros(2, 5), atol=1e-6, rtol=0)
    assert_close(out.var(dim=-1, unbiased=False), torch.ones(2, 5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", [layer_norm_by_hand, None])
def test_layer_norm_turns_a_constant_vector_into_zeros(norm):
    x, module = torch.full((2, 12), 3.0), LayerNorm(12)
    out = norm(x, module.scale, module.shift) if norm else module(x)
    assert_close(out, torch.zeros(2, 12))


def test_gelu_by_hand_equals_the_module():
    x = torch.linspace(-8, 8, 401, requires_grad=True)
    assert_close(output_and_gradients(gelu_by_hand(x), [x]), output_and_gradients(GELU()(x), [x]))


@pytest.mark.parametrize("gelu", [gelu_by_hand, GELU()])
def test_gelu_lets_large_numbers_pass_and_stops_small_ones(gelu):
    assert_close(gelu(torch.tensor([-30.0, 0.0, 30.0])), torch.tensor([0.0, 0.0, 30.0]))


def test_feed_forward_is_four_times_as_wide_inside():
    shapes = [tuple(p.shape) for p in FeedForward(CFG).parameters()]
    assert shapes == [(48, 12), (48,), (12, 48), (12,)]


def test_feed_forward_by_hand_equals_the_module():
    ff, x = FeedForward(CFG), random_input()
    first, _, second = ff.layers
    by_hand = gelu_by_hand(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    inputs = [x, *ff.parameters()]
    assert_close(output_and_gradients(by_hand, inputs), output_and_gradients(ff(x), inputs))


def test_feed_forward_treats_every_token_alike():
    ff, x = FeedForward(CFG), random_input()
    assert_close(ff(x)[1, 3], ff(x[1, 3]))


def test_transformer_block_is_two_shortcuts_around_normalised_parts():
    block, x = TransformerBlock(CFG), random_input()
    middle = x + block.att(block.norm1(x))
    assert_close(block(x), middle + block.ff(block.norm2(middle)))


def test_transformer_block_hides_the_future():
    block, x = TransformerBlock(CFG), random_input().detach()
    changed = x.clone()
    changed[:, 3:] += 1.0
    assert_close(block(x)[:, :3], block(changed)[:, :3], rtol=0, atol=0)


@pytest.mark.parametrize("module", [LayerNorm(12), GELU(), FeedForward(CFG), TransformerBlock(CFG)])
def test_layers_take_inputs_that_are_not_contiguous(module):
    x = random_input(5, 2, 12).transpose(0, 1)
    assert not x.is_contiguous()
    assert_close(module(x), module(x.contiguous()))


@pytest.mark.parametrize("make", [LayerNorm, lambda _: GELU(), FeedForward, TransformerBlock])
def test_layers_run_and_learn_in_bfloat16(make):
    module = make(12 if make is LayerNorm else CFG)
    x = random_input().detach()
    expected = module(x)
    module = module.to(torch.bfloat16)
    x = x.to(torch.bfloat16).requires_grad_(True)
    output = module(x)
    assert output.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits of a number, and several are added up.
    assert_close(output.float(), expected, atol=0.1, rtol=0.05)
    gradients = torch.autograd.grad(output.sum(), [x, *module.parameters()])
    assert all(g.dtype == torch.bfloat16 and g.isfinite().all() for g in gradients)


def test_transformer_block_has_a_rate_for_each_dropout():
    rates = {"drop_rate_emb": 0.1, "drop_rate_attn": 0.2, "drop_rate_shortcut": 0.3}
    block = TransformerBlock(CFG | rates)
    assert (block.att.dropout.p, block.drop_shortcut.p) == (0.2, 0.3)


@pytest.mark.parametrize("rate", ["drop_rate_attn", "drop_rate_shortcut"])
def test_transformer_block_drops_out_only_while_training(rate):
    block, x = TransformerBlock(GPTConfig(**CFG, **{rate: 0.5})), random_input()
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_transformer_block_draws_its_parameters_in_the_order_of_the_book(qkv_bias):
    torch.manual_seed(123)
    block = TransformerBlock(CFG | {"qkv_bias": qkv_bias})
    state = torch.get_rng_state()
    torch.manual_seed(123)
    layers = {f"att.{name}": nn.Linear(12, 12, bias=qkv_bias) for name in PROJECTIONS}
    layers["att.out_proj"] = nn.Linear(12, 12)
    layers["ff.layers.0"] = nn.Linear(12, 48)
    layers["ff.layers.2"] = nn.Linear(48, 12)
    expected = {
        f"{name}.{kind}": value
        for name, layer in layers.items()
        for kind, value in layer.state_dict().items()
    }
    drawn = {name: value for name, value in block.state_dict().items() if "norm" not in name}
    assert_close(drawn, expected, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())
