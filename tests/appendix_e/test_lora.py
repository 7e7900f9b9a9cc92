"""LoRA layers, putting them in, and merging them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from llm_scratch.generation.decoding import generate
from llm_scratch.generation.single_token import is_plain
from llm_scratch.lora.layers import (
    LinearWithLoRA,
    LinearWithLoRAMerged,
    LoRALayer,
    freeze,
    lora_layers,
    merge_lora,
    replace_linear_with_lora,
    trainable_parameters,
    unmerge_lora,
)
from llm_scratch.model.gpt import GPTModel
from llm_scratch.weights.folder import load_model, save_model

SIZES = {"vocab_size": 50, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
IDS = torch.tensor([[1, 7, 3, 9, 22], [4, 4, 8, 0, 49]])


def build(**options):
    torch.manual_seed(1)
    return GPTModel({**SIZES, "drop_rate": 0.0, "qkv_bias": True, **options}).eval()


def with_learned_lora(model, targets=None, scale=0.3):
    """A model with LoRA that changes what it says, as if it had been trained."""
    replace_linear_with_lora(model, 4, 8, targets=targets, freeze_base=True)
    torch.manual_seed(2)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora.B, std=scale)
    return model


def assert_same(logits, before):
    """Equal to a millionth of the largest logit: float32 sums in another order."""
    assert_close(logits, before, rtol=0, atol=1e-6 * before.abs().max().item())


def names_of(model):
    return list(lora_layers(model))


def test_loralayer_is_the_scaled_product_of_its_matrices():
    layer = LoRALayer(3, 5, rank=2, alpha=6)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 7, 3)
    assert layer.A.shape == (3, 2)
    assert layer.B.shape == (2, 5)
    assert_close(layer(x), 3 * (x @ layer.A @ layer.B))


def test_loralayer_starts_with_the_books_draws():
    torch.manual_seed(123)
    layer = LoRALayer(6, 4, rank=2, alpha=2)
    torch.manual_seed(123)
    expected = nn.init.kaiming_uniform_(torch.empty(6, 2), a=math.sqrt(5))
    assert torch.equal(layer.A, expected)
    assert not layer.B.any()


@pytest.mark.parametrize("rank", [4, 8])
def test_loralayer_weighs_alpha_by_the_rank(rank):
    layer = LoRALayer(8, 8, rank=rank, alpha=8)
    nn.init.ones_(layer.A)
    nn.init.ones_(layer.B)
    assert_close(layer(torch.ones(1, 8)), torch.full((1, 8), 64.0))  # 8 / rank * 8 * rank


@pytest.mark.parametrize("rank", [0, -1, 2.0, True])
def test_loralayer_refuses_a_rank_that_is_none(rank):
    with pytest.raises(ValueError, match=f"rank={rank} must be 1 or more"):
        LoRALayer(4, 4, rank, 4)


@pytest.mark.parametrize("alpha", [0, -1.0, math.inf, math.nan])
def test_loralayer_refuses_an_alpha_that_does_nothing(alpha):
    with pytest.raises(ValueError, match="must be above 0"):
        LoRALayer(4, 4, 2, alpha)


@pytest.mark.parametrize("kind", [LinearWithLoRA, LinearWithLoRAMerged])
def test_linear_with_lora_starts_as_the_layer_and_learns(kind):
    linear = nn.Linear(4, 3)
    layer = kind(linear, rank=2, alpha=2)
    assert [name for name, _ in layer.named_children()] == ["linear", "lora"]
    x = torch.randn(5, 4)
    assert_close(layer(x), linear(x))
    optimizer = torch.optim.SGD([layer.lora.A, layer.lora.B], lr=0.1)
    layer(x).square().sum().backward()
    assert layer.lora.B.grad.any()
    assert not layer.lora.A.grad.any()  # B is zero still
    optimizer.step()
    assert (layer(x) - linear(x)).abs().max() > 1e-3


def test_both_forms_of_linear_with_lora_agree():
    linear = nn.Linear(4, 3)
    one, other = LinearWithLoRA(linear, 2, 4), LinearWithLoRAMerged(linear, 2, 4)
    nn.init.normal_(one.lora.B)
    other.lora.load_state_dict(one.lora.state_dict())
    x = torch.randn(6, 4)
    assert_close(one(x), other(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_linear_with_lora_takes_the_type_of_the_layer(dtype):
    layer = LinearWithLoRA(nn.Linear(4, 3).to(dtype), rank=2, alpha=2)
    assert {p.dtype for p in layer.parameters()} == {dtype}


def test_linear_with_lora_takes_the_device_of_the_layer():
    layer = LinearWithLoRA(nn.Linear(4, 3).to("meta"), rank=2, alpha=2)
    assert {p.device.type for p in layer.parameters()} == {"meta"}


def test_replace_changes_nothing_that_the_model_says():
    model = build()
    before = model(IDS)
    replace_linear_with_lora(model, 4, 4)
    assert_close(model(IDS), before, rtol=0, atol=0)


def test_replace_wraps_every_linear_layer_and_the_head():
    model = build()
    linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    replace_linear_with_lora(model, 4, 4)
    assert names_of(model) == linears
    assert "out_head.lora.A" in model.state_dict()
    assert "trf_blocks.0.att.W_query.linear.weight" in model.state_dict()


def test_replace_draws_the_matrices_in_the_order_of_the_model():
    model = build()
    torch.manual_seed(5)
    replace_linear_with_lora(model, 4, 4)
    torch.manual_seed(5)
    for layer in lora_layers(model).values():
        expected = LoRALayer(layer.linear.in_features, layer.linear.out_features, 4, 4)
        assert torch.equal(layer.lora.A, expected.A)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("W_query", ["trf_blocks.0.att.W_query", "trf_blocks.1.att.W_query"]),
        (
            ["out_head", "trf_blocks.1.ff"],
            ["trf_blocks.1.ff.layers.0", "trf_blocks.1.ff.layers.2", "out_head"],
        ),
        (["layers.0"], [f"trf_blocks.{i}.ff.layers.0" for i in (0, 1)]),
    ],
)
def test_replace_takes_the_targets_by_name(targets, expected):
    model = build()
    replace_linear_with_lora(model, 2, 2, targets=targets)
    assert names_of(model) == expected


@pytest.mark.parametrize("targets", [["W_queries"], ["W_query", "tok_emb"], ["query"], []])
def test_replace_lists_the_targets_there_are(targets):
    model = build()
    known = "trf_blocks, att, W_query, W_key, W_value, out_proj, ff, layers, out_head"
    with pytest.raises(ValueError, match=f"names? no linear layer; there are {known}"):
        replace_linear_with_lora(model, 2, 2, targets=targets)
    assert not names_of(model)


def test_replace_refuses_layers_that_have_a_lora():
    model = build()
    replace_linear_with_lora(model, 2, 2, targets="W_query")
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"att.W_query and 1 more layers have LoRA already"):
        replace_linear_with_lora(model, 2, 2)
    assert list(model.state_dict()) == before
    replace_linear_with_lora(model, 2, 2, targets="W_value")
    assert len(names_of(model)) == 4


def test_replace_passes_over_a_head_that_is_the_embedding():
    model = build(tie_weights=True)
    with pytest.warns(UserWarning, match="out_head is tied to the token embedding"):
        replace_linear_with_lora(model, 2, 2)
    assert len(names_of(model)) == 12
    assert "out_head" not in names_of(model)
    with pytest.raises(ValueError, match="no linear layer but out_head"):
        replace_linear_with_lora(build(tie_weights=True), 2, 2, targets="out_head")


def test_replace_refuses_a_bad_rank_before_it_changes_anything():
    model = build()
    with pytest.raises(ValueError, match="rank=0"):
        replace_linear_with_lora(model, 0, 4)
    assert not names_of(model)


def test_replace_freezes_the_base_when_asked():
    model = build()
    replace_linear_with_lora(model, 4, 4, freeze_base=True)
    assert set(trainable_parameters(model)) == {
        f"{name}.lora.{matrix}" for name in names_of(model) for matrix in "AB"
    }


def test_freeze_leaves_nothing_to_train():
    model = build()
    assert len(trainable_parameters(model)) == len(list(model.parameters()))
    freeze(model)
    assert trainable_parameters(model) == {}


def test_replace_keeps_the_modes_of_the_layers():
    model = build()
    model.trf_blocks[1].train()
    replace_linear_with_lora(model, 2, 2)
    assert not model.trf_blocks[0].att.W_query.lora.training
    assert model.trf_blocks[1].att.W_query.lora.training


def test_init_weights_leaves_the_matrices_alone():
    model = with_learned_lora(build())
    before = {n: p.clone() for n, p in trainable_parameters(model).items()}
    model.init_weights()
    assert all(torch.equal(p, before[n]) for n, p in trainable_parameters(model).items())


def test_training_changes_the_matrices_and_nothing_else():
    model = build()
    replace_linear_with_lora(model, 4, 4, freeze_base=True)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(IDS).logsumexp(-1).sum().backward()
        optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(trainable_parameters(model))


def test_merge_keeps_what_the_model_says():
    model = with_learned_lora(build())
    base, before = build()(IDS), model(IDS)
    assert (before - base).abs().max() > 0.1
    merge_lora(model)
    assert_same(model(IDS), before)
    assert not torch.equal(model(IDS), before)  # it was computed the other way
    merge_lora(model)
    assert_same(model(IDS), before)


def test_unmerge_gives_back_the_base_and_the_outputs_bit_by_bit():
    model = with_learned_lora(build())
    state, before = {n: t.clone() for n, t in model.state_dict().items()}, model(IDS)
    merge_lora(model)
    assert model.state_dict().keys() == state.keys()
    unmerge_lora(model)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert torch.equal(model(IDS), before)


def test_merged_model_refuses_to_learn():
    model = with_learned_lora(build())
    merge_lora(model)
    model.train()
    with pytest.raises(ValueError, match="unmerge_lora"):
        model(IDS)


def test_loading_a_state_dict_ends_the_merge():
    model, other = with_learned_lora(build()), with_learned_lora(build(), scale=0.5)
    merge_lora(model)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(IDS), other(IDS))


def test_unwrapped_model_is_plain_and_says_the_same(tmp_path):
    model = with_learned_lora(build())
    before = model(IDS)
    assert not is_plain(model)
    merge_lora(model, unwrap=True)
    assert is_plain(model)
    assert model.state_dict().keys() == build().state_dict().keys()
    assert_same(model(IDS), before)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)[0]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    # Not bit for bit: a product may depend on where in memory its weights begin.
    assert_same(loaded(IDS), model(IDS))


def test_model_with_lora_generates_what_the_unwrapped_one_does():
    model = with_learned_lora(build())
    written = generate(model, IDS, max_new_tokens=8)
    merge_lora(model, unwrap=True)
    assert torch.equal(generate(model, IDS, max_new_tokens=8), written)


def test_unwrapped_tied_model_stays_tied():
    model = build(tie_weights=True)
    with pytest.warns(UserWarning, match="out_head"):
        with_learned_lora(model)
    merge_lora(model, unwrap=True)
    assert model.out_head.weight is model.tok_emb.weight


def test_merge_sums_small_types_in_float32():
    model = with_learned_lora(build().to(torch.bfloat16), targets="W_query")
    layer = model.trf_blocks[0].att.W_query
    product = layer.lora.A.float() @ layer.lora.B.float() * layer.lora.scaling
    expected = (layer.linear.weight.float() + product.T).to(torch.bfloat16)
    merge_lora(model, unwrap=True)
    assert torch.equal(model.trf_blocks[0].att.W_query.weight, expected)


@pytest.mark.parametrize("function", [merge_lora, unmerge_lora])
def test_merge_and_unmerge_say_when_there_is_no_lora(function):
    with pytest.raises(ValueError, match="add it with replace_linear_with_lora"):
        function(build())
