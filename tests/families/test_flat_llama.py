"""One token through a Llama without module calls: what the modules give, in every variant."""

from __future__ import annotations

import copy
import dataclasses
import random

import pytest
import torch
from llama_models import CONTEXT, random_ids, random_llama
from torch import nn
from torch.testing import assert_close

from llm_scratch.generation.decoding import generate
from llm_scratch.generation.quantized import Int8Linear, Int8Part, quantize_int8
from llm_scratch.generation.single_token import FlatModel, is_plain
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.model.llama_layers import RMSNorm
from llm_scratch.model.together import MOST_BYTES, laid_together, lay_together, outputs_of
from llm_scratch.weights.folder import load_model, save_model

SEEDS = range(24)


def plain_llama(seed, **options):
    return random_llama(seed, num_experts=0, **options)


def flat_and_modules(model, rows, prompt, steps, mask=None, seed=0):
    """The logits of some steps by the flat form and by calling the modules: (steps, B, V) each."""
    ids = random_ids(rows, prompt + steps, seed)
    caches = model.new_cache(rows), model.new_cache(rows)
    flat = FlatModel.of(model, rows)
    assert flat is not None
    found, expected = [], []
    with torch.no_grad():
        for cache in caches:
            model(ids[:, :prompt], cache=cache, attention_mask=mask)
        for place in range(prompt, prompt + steps):
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
            newest = ids[:, place : place + 1]
            found.append(flat(newest, caches[0], mask))
            expected.append(model(newest, cache=caches[1], attention_mask=mask)[:, -1])
    assert caches[0].length == caches[1].length == prompt + steps
    return torch.stack(found), torch.stack(expected)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_flat_steps_equal_those_of_the_modules(rows):
    """Every switch, also beyond a sliding window."""
    for seed in SEEDS:
        found, expected = flat_and_modules(plain_llama(seed), rows, 4, CONTEXT - 4, seed=seed)
        assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_flat_steps_of_padded_rows_equal_those_of_the_modules():
    lengths = torch.tensor([2, 9, 5])
    for seed in SEEDS:
        mask = torch.arange(9) >= 9 - lengths[:, None]
        found, expected = flat_and_modules(plain_llama(seed), 3, 9, CONTEXT - 9, mask, seed)
        assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_flat_steps_in_other_types_are_near_those_of_the_modules(dtype, rows):
    for seed in range(6):
        found, expected = flat_and_modules(plain_llama(seed).to(dtype), rows, 4, 12)
        assert found.dtype == dtype
        apart = (found - expected).float().norm() / expected.float().norm()
        assert apart < {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float64: 1e-7}[dtype]


@pytest.mark.parametrize("rows", [1, 3])
def test_flat_steps_with_8_bit_weights_equal_those_of_the_modules(rows):
    for seed in SEEDS:
        model = quantize_int8(plain_llama(seed))
        found, expected = flat_and_modules(model, rows, 4, 12)
        # A number on the border between two whole ones may be rounded to either.
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_generate_takes_the_flat_form(monkeypatch):
    taken = []
    original = FlatModel.__call__
    monkeypatch.setattr(FlatModel, "__call__", lambda *args: taken.append(1) or original(*args))
    generate(plain_llama(3), random_ids(2, 3), 6)
    assert len(taken) == 5


def with_lora(model):
    replace_linear_with_lora(model, rank=2, alpha=4)


def with_hook_on_a_key(model):
    model.trf_blocks[0].att.W_key.register_forward_hook(lambda part, args, out: 2 * out)


def with_another_norm(model):
    class Twice(RMSNorm):
        def forward(self, x):
            return -super().forward(x)

    model.final_norm.__class__ = Twice


def with_a_replaced_gate(model):
    gate = model.trf_blocks[0].ff.fc1
    gate.forward = lambda x: type(gate).forward(gate, x) + 1


@pytest.mark.parametrize(
    "change", [with_lora, with_hook_on_a_key, with_another_norm, with_a_replaced_gate]
)
@pytest.mark.parametrize("quantized", [False, True])
def test_a_changed_model_is_called_module_by_module(change, quantized):
    if quantized and change is with_lora:
        pytest.skip("LoRA is of float layers")
    model = plain_llama(5)
    model = quantize_int8(model) if quantized else model
    before = generate(model, random_ids(1, 4), 8)
    change(model)
    if change is with_lora:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
    assert not is_plain(model)
    assert FlatModel.of(model, 1) is None
    found = generate(model, random_ids(1, 4), 8)
    assert torch.equal(found, generate(model, random_ids(1, 4), 8, use_cache=False))
    assert not torch.equal(found, before)


def test_experts_are_called_module_by_module():
    experts = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    assert FlatModel.of(random_llama(1, **experts), 1) is None


def groups(model):
    for block in model.trf_blocks:
        yield [block.att.W_query, block.att.W_key, block.att.W_value]
        yield [block.ff.fc1, block.ff.fc2]


def all_together(model):
    return all(laid_together(layers) is not None for layers in groups(model))


def test_weights_of_one_input_lie_together(tmp_path):
    """In a new model, a converted and a loaded one."""
    for seed in range(4):
        model = plain_llama(seed, qkv_bias=True)
        save_model(model, tmp_path / str(seed))
        loaded, _ = load_model(tmp_path / str(seed))
        for other in (model, loaded, copy.deepcopy(model).double()):
            assert all_together(other)
            for layers in groups(other):
                weight, bias = laid_together(layers)
                assert torch.equal(weight, torch.cat([layer.weight for layer in layers]))
                if bias is not None:
                    assert torch.equal(bias, torch.cat([layer.bias for layer in layers]))


def test_weights_that_lie_together_learn_alone():
    """A fused optimizer walks through memory: the steps are those of weights that lie apart."""
    model = plain_llama(2, tie_weights=False)
    apart = copy.deepcopy(model)
    for parameter in apart.parameters():
        parameter.data = parameter.data.clone()
    assert all_together(model)
    assert not all_together(apart)
    ids = random_ids(2, 9)
    for fused in (True, False):
        for each in (model, apart):
            optimizer = torch.optim.AdamW(each.parameters(), lr=0.01, fused=fused)
            for _ in range(3):
                optimizer.zero_grad()
                each(ids).square().mean().backward()
                optimizer.step()
    for a, b in zip(model.parameters(), apart.parameters(), strict=True):
        assert torch.equal(a, b)


def test_large_weights_stay_where_they_are():
    layers = nn.ModuleDict({n: nn.Linear(1024, MOST_BYTES // 4096, bias=False) for n in "ab"})
    kind = type("Pair", (nn.ModuleDict,), {"one_input": ("a", "b")})
    layers.__class__ = kind
    places = [layers[n].weight.data_ptr() for n in "ab"]
    for n in "ab":
        setattr(kind, n, property(lambda self, n=n: self[n]))
    lay_together(layers)
    assert [layers[n].weight.data_ptr() for n in "ab"] == places
    assert laid_together([layers["a"], layers["b"]]) is None


def test_a_model_with_lora_can_be_moved():
    model = plain_llama(4)
    replace_linear_with_lora(model, 2, 2)
    assert model.to(torch.float64)(torch.zeros(1, 3, dtype=torch.int64)).dtype == torch.float64


def test_generate_leaves_weights_where_they_are():
    for apart in (False, True):
        model = plain_llama(4)
        if apart:
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()
        places = [parameter.data_ptr() for parameter in model.parameters()]
        expected = generate(model, random_ids(1, 4), 8, use_cache=False)
        assert torch.equal(generate(model, random_ids(1, 4), 8), expected)
        assert [parameter.data_ptr() for parameter in model.parameters()] == places


def test_8_bit_layers_of_one_input_are_one_product():
    model = plain_llama(3)
    quantized = quantize_int8(model)
    attention = quantized.trf_blocks[0].att
    parts = [attention.W_query, attention.W_key, attention.W_value]
    assert [type(part) for part in parts] == [Int8Part] * 3
    assert type(parts[0].whole) is Int8Linear
    assert len({id(part.whole) for part in parts}) == 1
    x = torch.randn(2, 3, model.cfg.emb_dim)
    with torch.no_grad():
        for made, part in zip(outputs_of(parts, x), parts, strict=True):
            assert torch.equal(made, part(x))
        reordered = outputs_of(parts[::-1], x)
        assert torch.equal(reordered[0], parts[2](x))
    own = model.trf_blocks[0].att.W_key
    with torch.no_grad():
        apart = (parts[1](x) - own(x)).norm() / own(x).norm()
    assert apart < 0.02


def test_two_generations_side_by_side_do_not_meet():
    from llm_scratch.generation.decoding import stream

    model, source = plain_llama(6), random.Random(0)
    expected = [generate(model, random_ids(1, 4, seed), 10)[0, 4:].tolist() for seed in (0, 1)]
    running = [stream(model, random_ids(1, 4, seed), 10) for seed in (0, 1)]
    found: list[list[int]] = [[], []]
    while any(len(each) < 10 for each in found):
        which = source.choice([n for n in (0, 1) if len(found[n]) < 10])
        found[which].append(int(next(running[which])))
    assert found == expected


def test_gradients_equal_those_of_the_formulas():
    """The backward passes that keep less are exact, once and twice, and alike in half precision."""
    from llm_scratch.model.llama_layers import GatedFeedForward

    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    norm, gated = RMSNorm(8).double(), GatedFeedForward(8, 12).double()
    with torch.no_grad():
        norm.scale.normal_()

    def normed(x, scale):
        return torch.func.functional_call(norm, {"scale": scale}, (x,))

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(normed, (x, norm.scale))
        assert check(gated, (x,))
    half = x.detach().bfloat16().requires_grad_()
    norm.bfloat16()(half).square().sum().backward()
    expected = x.detach().requires_grad_()
    torch.nn.functional.rms_norm(
        expected, (8,), norm.scale.double(), norm.eps
    ).square().sum().backward()
    assert half.grad.dtype == norm.scale.grad.dtype == torch.bfloat16
    assert (half.grad - expected.grad).norm() < 0.05 * expected.grad.norm()


def test_training_keeps_less_than_pytorchs_own_operations():
    """Tensors kept for the backward pass: a block keeps 2 of C and 3 of F less a token."""
    model = plain_llama(1, qkv_bias=False, qk_norm=False)
    x = random_ids(1, 16)

    def kept():
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            model(x)
        return sum(sizes)

    from llm_scratch.model import llama_layers

    ours = kept()
    recorded = llama_layers.recorded
    try:
        llama_layers.recorded = lambda: True  # PyTorch's own
        theirs = kept()
    finally:
        llama_layers.recorded = recorded
    cfg = model.cfg
    assert theirs - ours >= 16 * cfg.n_layers * (cfg.hidden_dim + cfg.emb_dim)


def test_windows_of_the_layers_are_those_of_the_configuration():
    model = plain_llama(7, n_layers=3, sliding_window=5, sliding_layers=(1,))
    assert FlatModel.of(model, 1)._windows == [None, 5, None]
    other = dataclasses.replace(model.cfg, sliding_window=None, sliding_layers=None)
    assert other.window_of(1) is None
