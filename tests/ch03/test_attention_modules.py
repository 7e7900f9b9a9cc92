"""The attention classes: what they compute, what they refuse, what they store."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from llm_scratch.model.attention import (
    CausalAttention,
    MultiHeadAttention,
    MultiHeadAttentionWrapper,
    SelfAttention_v1,
    SelfAttention_v2,
    attention_by_hand,
    causal_mask,
)

D_IN, D_OUT, CONTEXT, HEADS = 6, 8, 10, 4


def plain() -> dict[str, nn.Module]:
    return {
        "SelfAttention_v1": SelfAttention_v1(D_IN, D_OUT),
        "SelfAttention_v2": SelfAttention_v2(D_IN, D_OUT),
    }


def causal(dropout: float = 0.0) -> dict[str, nn.Module]:
    return {
        "CausalAttention": CausalAttention(D_IN, D_OUT, CONTEXT, dropout),
        "MultiHeadAttentionWrapper": MultiHeadAttentionWrapper(D_IN, 2, CONTEXT, dropout, HEADS),
        "MultiHeadAttention": MultiHeadAttention(D_IN, D_OUT, CONTEXT, dropout, HEADS),
    }


CAUSAL = sorted(causal())
ALL = CAUSAL + sorted(plain())


def make(name: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return (plain() | causal(dropout))[name]


def random_input(batch: int = 2, length: int = 7) -> Tensor:
    return torch.randn(batch, length, D_IN, generator=torch.Generator().manual_seed(2))


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    output = module(x)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return list(torch.autograd.grad((output * weights).sum(), list(module.parameters())))


@pytest.mark.parametrize("name", ALL)
def test_attention_gives_one_vector_a_token(name):
    assert make(name)(random_input(2, 7)).shape == (2, 7, D_OUT)


@pytest.mark.parametrize("name", [*sorted(plain()), "CausalAttention"])
def test_attention_takes_a_single_sequence_like_the_book(name):
    module, x = make(name), random_input(1)
    assert_close(module(x[0]), module(x)[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_hides_the_future(name):
    module, x = make(name), random_input()
    changed = x.clone()
    changed[:, 4:] += 1.0
    before, after = module(x), module(changed)
    assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_passes_no_gradient_to_the_future(name):
    x = random_input().requires_grad_(True)
    make(name)(x)[:, 3].sum().backward()
    assert (x.grad[:, 4:] == 0).all()
    assert (x.grad[:, :4] != 0).any(dim=-1).all()


@pytest.mark.parametrize("name", sorted(plain()))
def test_self_attention_looks_at_the_future_too(name):
    module, x = make(name), random_input()
    changed = x.clone()
    changed[:, -1] += 1.0
    assert not torch.allclose(module(x)[:, 0], module(changed)[:, 0])


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("name", ALL)
def test_attention_does_not_mix_rows(name, batch):
    module, x = make(name), random_input(batch)
    assert_close(module(x), torch.cat([module(row) for row in x.split(1)]))


@pytest.mark.parametrize("length", [1, 5, CONTEXT])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_does_not_depend_on_the_longest_length(name, length):
    module, x = make(name), random_input(2, CONTEXT)
    assert_close(module(x[:, :length]), module(x)[:, :length])


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_refuses_a_sequence_beyond_its_context(name):
    with pytest.raises(ValueError, match="sequence of 11 tokens.* context_length of 10"):
        make(name)(random_input(1, CONTEXT + 1))


@pytest.mark.parametrize("shape", [(7, D_IN), (1, 2, 7, D_IN)])
def test_multi_head_attention_refuses_other_than_three_dimensions(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, tokens, d_in\)"):
        make("MultiHeadAttention")(torch.zeros(shape))


@pytest.mark.parametrize("num_heads", [3, 0, -4])
def test_multi_head_attention_refuses_heads_that_do_not_divide_the_width(num_heads):
    with pytest.raises(ValueError, match=f"d_out=8 must be divisible by num_heads={num_heads}"):
        MultiHeadAttention(D_IN, D_OUT, CONTEXT, 0.0, num_heads)


def test_multi_head_attention_error_is_an_assertion_error_as_in_the_book():
    with pytest.raises(AssertionError):
        MultiHeadAttention(D_IN, D_OUT, CONTEXT, 0.0, 3)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_repeats_itself_in_eval_mode(name):
    module, x = make(name, dropout=0.5).eval(), random_input()
    assert torch.equal(module(x), module(x))
    assert_close(module(x), make(name, dropout=0.0)(x))


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_drops_out_while_training(name):
    module, x = make(name, dropout=0.5), random_input()
    assert not torch.equal(module(x), module(x))


@pytest.mark.parametrize("name", ["CausalAttention", "MultiHeadAttention"])
def test_causal_attention_obeys_its_dropout_layer(name):
    module, x = make(name, dropout=0.5), random_input()
    module.dropout.eval()  # switched off alone, while the rest trains
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize("name", ALL)
def test_attention_takes_inputs_that_are_not_contiguous(name):
    module = make(name)
    x = random_input(7, 2).transpose(0, 1)
    assert not x.is_contiguous()
    assert_close(module(x), module(x.contiguous()))


@pytest.mark.parametrize("name", ALL)
def test_attention_leaves_its_input_alone(name):
    x = random_input()
    kept = x.clone()
    make(name)(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ALL)
def test_attention_runs_and_learns_in_bfloat16(name):
    module, x = make(name), random_input()
    half = copy.deepcopy(module).to(torch.bfloat16)
    output = half(x.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits of a number, and several are added up.
    assert_close(output.float(), module(x), atol=0.05, rtol=0.05)
    for gradient in gradients(half, x.to(torch.bfloat16)):
        assert gradient.dtype == torch.bfloat16
        assert gradient.isfinite().all()


def split_heads(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(HEADS, dim=-1), dim=1)  # (B, H, T, D)


def by_hand(module: MultiHeadAttention, x: Tensor) -> Tensor:
    """Multi-head attention written out with `attention_by_hand`."""
    queries, keys, values = (
        split_heads(projection(x)) for projection in (module.W_query, module.W_key, module.W_value)
    )
    heads = attention_by_hand(queries, keys, values, mask=causal_mask(x.shape[1]))
    return module.out_proj(torch.cat(heads.unbind(dim=1), dim=-1))


class ByHand(nn.Module):
    def __init__(self, module: MultiHeadAttention) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return by_hand(self.module, x)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_multi_head_attention_equals_the_formula(qkv_bias):
    torch.manual_seed(3)
    module, x = MultiHeadAttention(D_IN, D_OUT, CONTEXT, 0.0, HEADS, qkv_bias), random_input()
    assert_close(module(x), by_hand(module, x))
    assert_close(gradients(module, x), gradients(ByHand(module), x))


def test_self_attention_versions_agree_with_the_same_weights():
    first, second, x = make("SelfAttention_v1"), make("SelfAttention_v2"), random_input()
    with torch.no_grad():
        for name in ("W_query", "W_key", "W_value"):
            getattr(first, name).copy_(getattr(second, name).weight.T)
    assert_close(first(x), second(x))


def test_wrapper_equals_multi_head_attention_with_the_same_weights():
    wrapper, x = make("MultiHeadAttentionWrapper"), random_input()
    module = make("MultiHeadAttention")
    blocks = torch.randn(HEADS, 2, 2, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        for name in ("W_query", "W_key", "W_value"):
            stacked = torch.cat([getattr(head, name).weight for head in wrapper.heads])
            getattr(module, name).weight.copy_(stacked)
        module.out_proj.weight.copy_(torch.block_diag(*blocks))  # each head on its own
        module.out_proj.bias.zero_()
    heads = wrapper(x).chunk(HEADS, dim=-1)
    projected = [head @ block.T for head, block in zip(heads, blocks, strict=True)]
    assert_close(module(x), torch.cat(projected, dim=-1))


@pytest.mark.parametrize("name", ["CausalAttention", "MultiHeadAttention"])
def test_causal_attention_shows_the_mask_of_the_book(name):
    mask = make(name).mask
    assert mask.dtype == torch.float32
    assert torch.equal(mask, torch.triu(torch.ones(CONTEXT, CONTEXT), diagonal=1))


PROJECTIONS = ["W_query.weight", "W_key.weight", "W_value.weight"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("SelfAttention_v1", ["W_query", "W_key", "W_value"]),
        ("SelfAttention_v2", PROJECTIONS),
        ("CausalAttention", PROJECTIONS),
        ("MultiHeadAttention", [*PROJECTIONS, "out_proj.weight", "out_proj.bias"]),
        (
            "MultiHeadAttentionWrapper",
            [f"heads.{i}.{key}" for i in range(HEADS) for key in PROJECTIONS],
        ),
    ],
)
def test_attention_state_dict_has_the_keys_of_the_book(name, keys):
    assert list(make(name).state_dict()) == keys


def test_attention_state_dict_has_the_biases_where_the_book_has_them():
    keys = list(MultiHeadAttention(D_IN, D_OUT, CONTEXT, 0.0, HEADS, qkv_bias=True).state_dict())
    names = ("W_query", "W_key", "W_value", "out_proj")
    assert keys == [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_loads_a_state_dict_with_masks(name):
    module, x = make(name), random_input()
    prefixes = [f"heads.{i}." for i in range(HEADS)] if "Wrapper" in name else [""]
    mask = torch.triu(torch.ones(1024, 1024), diagonal=1)  # of another context length
    old = {prefix + "mask": mask for prefix in prefixes} | module.state_dict()
    torch.manual_seed(9)
    other = causal()[name]
    other.load_state_dict(old, strict=True)
    assert_close(other(x), module(x))
    assert prefixes[0] + "mask" in old  # the caller's dict is left alone


def test_causal_attention_still_refuses_unknown_keys():
    module = make("CausalAttention")
    with pytest.raises(RuntimeError, match="Unexpected key.*maks"):
        module.load_state_dict(module.state_dict() | {"maks": torch.zeros(1)})


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("cls", [CausalAttention, MultiHeadAttention, SelfAttention_v2])
def test_attention_draws_its_parameters_in_the_order_of_the_book(cls, qkv_bias):
    arguments = {
        SelfAttention_v2: (D_IN, D_OUT),
        CausalAttention: (D_IN, D_OUT, CONTEXT, 0.0),
        MultiHeadAttention: (D_IN, D_OUT, CONTEXT, 0.0, HEADS),
    }[cls]
    torch.manual_seed(123)
    module = cls(*arguments, qkv_bias=qkv_bias)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    layers = {
        name: nn.Linear(D_IN, D_OUT, bias=qkv_bias) for name in ("W_query", "W_key", "W_value")
    }
    if cls is MultiHeadAttention:
        layers["out_proj"] = nn.Linear(D_OUT, D_OUT)
    expected = nn.ModuleDict(layers).state_dict()
    assert_close(dict(module.state_dict()), dict(expected), rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())


def test_self_attention_v1_draws_its_parameters_in_the_order_of_the_book():
    torch.manual_seed(123)
    module = SelfAttention_v1(D_IN, D_OUT)
    torch.manual_seed(123)
    expected = {name: torch.rand(D_IN, D_OUT) for name in ("W_query", "W_key", "W_value")}
    assert_close(dict(module.state_dict()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attention_is_a_running_mean_of_values_without_scores(name):
    module, x = make(name), random_input()
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "W_query" in key:
                parameter.zero_()
    heads = module.heads if "Wrapper" in name else [module]
    values = torch.cat([head.W_value(x) for head in heads], dim=-1)
    means = values.cumsum(dim=1) / torch.arange(1, 8).view(1, 7, 1)
    expected = module.out_proj(means) if name == "MultiHeadAttention" else means
    assert_close(module(x), expected)


def test_attention_scales_by_the_width_of_one_head():
    module = MultiHeadAttention(8, 8, 2, 0.0, num_heads=2)
    with torch.no_grad():
        for projection in (module.W_query, module.W_key, module.W_value, module.out_proj):
            projection.weight.copy_(torch.eye(8))
        module.out_proj.bias.zero_()
    x = torch.zeros(1, 2, 8)
    x[0, 0, 0], x[0, 1, 0] = 2.0, 1.0
    # The second token's scores are 1 * 2 and 1 * 1, over the square root of a head's 4 numbers.
    share = 1 / (1 + math.exp((1 - 2) / 2))
    assert_close(module(x)[0, 1, 0].item(), share * 2 + (1 - share) * 1)
