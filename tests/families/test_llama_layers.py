"""The parts of a Llama: each formula and the kernel that computes it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from llama_models import random_config
from torch.testing import assert_close

from llm_scratch.model.attention import attention_by_hand, causal_mask
from llm_scratch.model.config import ConfigError
from llm_scratch.model.grouped_attention import GroupedQueryAttention, window_mask
from llm_scratch.model.llama_config import LlamaConfig, RopeScaling, as_llama_config
from llm_scratch.model.llama_layers import (
    ExpertsFeedForward,
    GatedFeedForward,
    RMSNorm,
    rms_norm_by_hand,
    swiglu_by_hand,
)
from llm_scratch.model.llama_sizes import LLAMA32_CONFIG_1B, QWEN_CONFIG_06_B
from llm_scratch.model.rope import apply_rope, frequencies, rope_by_hand, rope_tables

SIZES = {"vocab_size": 9, "context_length": 32, "emb_dim": 24, "n_heads": 6, "n_layers": 1,
         "hidden_dim": 40, "n_kv_groups": 2}  # fmt: skip
CFG = LlamaConfig(**SIZES)


def assert_same(found, expected, *inputs):
    """Outputs, and the gradients of a random sum of them."""
    assert_close(found, expected, atol=1e-6, rtol=1e-5)
    weights = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, atol=1e-5, rtol=1e-4)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_rms_norm_is_its_formula():
    norm = RMSNorm(24, 1e-5)
    x, scale = randn(2, 5, 24), randn(24, seed=1)
    norm.scale.data.copy_(scale.detach())
    found = norm(x)
    assert_same(found, rms_norm_by_hand(x, norm.scale, 1e-5), x, norm.scale)
    ones = rms_norm_by_hand(x, torch.ones(24), eps=0).square().mean(-1)
    assert_close(ones, torch.ones_like(ones))


def test_gated_network_is_its_formula():
    torch.manual_seed(0)
    layer, x = GatedFeedForward(24, 40), randn(2, 5, 24)
    weights = layer.fc1.weight, layer.fc2.weight, layer.fc3.weight
    assert_same(layer(x), swiglu_by_hand(x, *weights), x, *weights)


@pytest.mark.parametrize("shape", [(1, 1, 7, 4), (2, 6, 7, 4)])
def test_rope_is_its_formula(shape):
    x = randn(*shape)
    angles = torch.arange(7)[:, None] * frequencies(CFG)
    found = apply_rope(x, rope_tables(CFG, slice(0, 7), x.device))
    assert_same(found, rope_by_hand(x, angles), x)


def test_rope_of_the_first_position_changes_nothing_and_lengths_stay():
    x = randn(1, 2, 9, 4).detach()
    turned = apply_rope(x, rope_tables(CFG, slice(0, 9), x.device))
    assert torch.equal(turned[..., 0, :], x[..., 0, :])
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_rope_makes_scores_depend_on_the_distance_alone():
    query, key = randn(1, 1, 1, 4).detach(), randn(1, 1, 1, 4, seed=1).detach()

    def score(place, other):
        tables = (rope_tables(CFG, slice(n, n + 1), query.device) for n in (place, other))
        return (apply_rope(query, next(tables)) * apply_rope(key, next(tables))).sum()

    assert_close(score(20, 17), score(3, 0), atol=1e-5, rtol=1e-4)
    assert abs(float(score(20, 17) - score(20, 12))) > 1e-3


def test_rope_tables_of_rows_of_positions():
    positions = torch.tensor([[0, 1, 2], [5, 6, 9]])
    cos, sin = rope_tables(CFG, positions, positions.device)
    assert cos.shape == sin.shape == (2, 1, 3, 4)
    assert torch.equal(cos[1, 0, 2], rope_tables(CFG, slice(9, 10), positions.device)[0][0])


def test_llama3_scaling_keeps_fast_waves_and_stretches_slow_ones():
    cfg = as_llama_config(LLAMA32_CONFIG_1B)
    plain = frequencies(dataclasses.replace(cfg, rope_freq=None))
    waves = 2 * math.pi / plain
    ratio = plain / frequencies(cfg)
    assert_close(ratio[waves < 8192 / 4], torch.ones_like(ratio[waves < 8192 / 4]))
    assert_close(ratio[waves > 8192], torch.full_like(ratio[waves > 8192], 32.0))
    middle = ratio[(waves > 8192 / 4) & (waves < 8192)]
    assert ((middle > 1) & (middle < 32)).all()
    assert middle.numel()


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_grouped_attention_is_attention_on_repeated_keys(groups):
    torch.manual_seed(3)
    cfg = dataclasses.replace(CFG, n_kv_groups=groups)
    layer, x = GroupedQueryAttention(cfg), randn(2, 7, 24)
    rope = rope_tables(cfg, slice(0, 7), x.device)

    def heads(projection):
        return projection(x).view(2, 7, -1, 4).transpose(1, 2)

    queries, keys = apply_rope(heads(layer.W_query), rope), apply_rope(heads(layer.W_key), rope)
    keys, values = (
        part.repeat_interleave(6 // groups, dim=1) for part in (keys, heads(layer.W_value))
    )
    context = attention_by_hand(queries, keys, values, causal_mask(7))
    expected = layer.out_proj(context.transpose(1, 2).reshape(2, 7, 24))
    assert_same(layer(x), expected, x, *layer.parameters())


def test_window_mask_is_the_last_few_tokens():
    mask = window_mask(4, 2, past=3)
    seen = [row.nonzero().flatten().tolist() for row in mask]
    assert seen == [[2, 3], [3, 4], [4, 5], [5, 6]]
    assert torch.equal(window_mask(5, 5), causal_mask(5))


def test_experts_are_the_weighted_sum_of_those_chosen():
    torch.manual_seed(1)
    cfg = LlamaConfig(**{**SIZES, "num_experts": 5, "num_experts_per_tok": 2,
                         "moe_intermediate_size": 8})  # fmt: skip
    layer, x = ExpertsFeedForward(cfg), randn(2, 3, 24)
    expected = torch.zeros(2, 3, 24)
    for row in range(2):
        for place in range(3):
            token = x[row, place]
            shares, chosen = layer.gate(token).softmax(-1).topk(2)
            for share, n in zip(shares / shares.sum(), chosen.tolist(), strict=True):
                parts = layer.fc1[n].weight, layer.fc2[n].weight, layer.fc3[n].weight
                expected[row, place] += share.detach() * swiglu_by_hand(token, *parts).detach()
    assert_close(layer(x), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_config_reads_like_a_dict_and_comes_back_from_one(name):
    cfg = as_llama_config({"llama": LLAMA32_CONFIG_1B, "qwen": QWEN_CONFIG_06_B}[name])
    assert as_llama_config(dataclasses.asdict(cfg)) == cfg == as_llama_config({**cfg})
    assert cfg["emb_dim"] == cfg.emb_dim
    assert cfg.n_kv_heads == 8
    assert cfg.norm_eps == {"llama": 1e-5, "qwen": 1e-6}[name]
    assert cfg.head_dim == {"llama": 64, "qwen": 128}[name]


def test_config_takes_a_dtype_of_torch():
    assert LlamaConfig(**SIZES, dtype=torch.bfloat16).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_groups": 4}, "n_heads=6 must be divisible by n_kv_groups=4"),
        ({"emb_dim": 25}, "emb_dim=25 is not divisible by n_heads=6; pass head_dim"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
        ({"hidden_dim": 0}, "hidden_dim=0 must be a positive integer"),
        ({"qk_norm": 1}, "qk_norm=1 must be True or False"),
        ({"rope_base": -1}, "rope_base=-1 must be a positive number"),
        ({"rope_freq": {"factor": 2}}, "needs original_context_length"),
        ({"rope_freq": {"factor": 2, "speed": 1}}, "unknown key speed of rope_freq"),
        ({"rope_freq": {"kind": "longrope", "factor": 2}}, "RoPE of kind 'longrope' is unknown"),
        ({"rope_freq": {"kind": "linear"}}, "rope_freq lacks factor"),
        ({"rope_freq": 3}, "must be a RopeScaling or a dict"),
        ({"dtype": "int8"}, "dtype='int8' must be one of float32"),
        ({"sliding_window": 0}, "sliding_window=0 must be a positive integer"),
        ({"sliding_layers": (1,)}, r"sliding_layers=\(1,\) must be 0 to 0"),
        ({"num_experts": 2, "num_experts_per_tok": 3, "moe_intermediate_size": 4}, "3 of 2 expert"),
        ({"num_experts": 2}, "num_experts_per_tok=0 must be a positive integer"),
    ],
)
def test_config_refuses_what_does_not_fit(change, message):
    with pytest.raises(ConfigError, match=message):
        LlamaConfig(**{**SIZES, **change})


def test_config_names_unknown_and_missing_keys():
    with pytest.raises(ConfigError, match="unknown key drop_rate; known are vocab_size"):
        as_llama_config({**SIZES, "drop_rate": 0.1})
    with pytest.raises(ConfigError, match="lacks n_heads"):
        as_llama_config({key: value for key, value in SIZES.items() if key != "n_heads"})
    with pytest.raises(TypeError, match="a LlamaConfig or a dict, got list"):
        as_llama_config([1])
    with pytest.raises(ConfigError, match="factor=0 of RoPE must be a positive number"):
        RopeScaling(0, "linear")


def test_random_configurations_differ():
    assert len({random_config(seed) for seed in range(20)}) == 20
