"""One token without module calls: taken only where it gives what calling the modules gives."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import T, V, random_ids
from torch import nn

from llm_scratch.generation.decoding import generate
from llm_scratch.generation.reading import Reader
from llm_scratch.generation.single_token import FlatModel, is_plain
from llm_scratch.generation.texts import pad_left
from llm_scratch.model.families import passes_cache
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.layers import LayerNorm


def flat_steps(model, monkeypatch):
    """A list that grows with each token that goes the way without module calls."""
    taken = []
    original = FlatModel.__call__

    def counted(self, ids, cache, mask=None):
        taken.append(len(ids))
        return original(self, ids, cache, mask)

    monkeypatch.setattr(FlatModel, "__call__", counted)
    return taken


@pytest.mark.parametrize("rows", [1, 3])
def test_generate_takes_the_way_without_module_calls(model, monkeypatch, rows):
    taken = flat_steps(model, monkeypatch)
    generate(model, random_ids(rows, 3), 6)
    assert taken == [rows] * 5


class TwiceLinear(nn.Linear):
    """Stands for LoRA: a linear layer that computes something of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class LoudModel(GPTModel):
    def forward(self, in_idx, **options):
        return 3 - super().forward(in_idx, **options)


class OneBlockMore(TransformerBlock):
    def forward(self, x):
        return super().forward(x) + 1


class OwnSequence(nn.Sequential):
    def forward(self, x):
        return super().forward(x) / 2


def with_lora(model):
    layer = model.trf_blocks[1].att.W_value
    layer.__class__ = TwiceLinear


def with_hook_on_a_layer(model):
    model.trf_blocks[0].ff.layers[0].register_forward_hook(lambda part, args, out: 2 * out)


def with_pre_hook_on_a_norm(model):
    model.final_norm.register_forward_pre_hook(lambda part, args: (args[0] + 1,))


def with_hook_on_the_model(model):
    model.register_forward_hook(lambda part, args, out: -out)


def with_another_head(model):
    model.out_head = nn.Sequential(nn.Linear(24, 8), nn.Linear(8, V))


def with_a_replaced_call(model):
    norm = model.trf_blocks[0].norm1
    norm.forward = lambda x: LayerNorm.forward(norm, x) * 2


def with_an_embedding_that_clips(model):
    model.pos_emb.max_norm = 0.5


def with_a_longer_feed_forward(model):
    model.trf_blocks[1].ff.layers.append(nn.Tanh())


def with_two_types(model):
    model.trf_blocks[0].ff.layers[1].register_parameter("spare", nn.Parameter(torch.ones(1).half()))


CHANGES = [
    with_lora,
    with_hook_on_a_layer,
    with_pre_hook_on_a_norm,
    with_hook_on_the_model,
    with_another_head,
    with_a_replaced_call,
    with_an_embedding_that_clips,
    with_a_longer_feed_forward,
    with_two_types,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rows", [1, 2])
def test_generate_calls_the_modules_of_a_changed_model(model, monkeypatch, change, rows):
    change(model)
    taken = flat_steps(model, monkeypatch)
    idx = random_ids(rows, 3)
    assert not is_plain(model)
    assert passes_cache(model)
    assert torch.equal(generate(model, idx, 8), by_hand(model, idx, 8))
    assert taken == []


@pytest.mark.parametrize("change", ["model", "block", "blocks"])
def test_generate_gives_no_cache_to_what_may_not_take_it(model, change):
    part, kind = {
        "model": (model, LoudModel),
        "block": (model.trf_blocks[0], OneBlockMore),
        "blocks": (model.trf_blocks, OwnSequence),
    }[change]
    part.__class__ = kind
    assert not passes_cache(model)
    idx = random_ids(2, 3)
    assert torch.equal(generate(model, idx, 8), by_hand(model, idx, 8))


def by_hand(model, idx, new):
    for _ in range(new):
        with torch.no_grad():
            idx = torch.cat([idx, model(idx[:, -T:])[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return idx


def test_generate_under_a_global_hook_calls_modules(model, monkeypatch):
    taken, seen = flat_steps(model, monkeypatch), []
    handle = nn.modules.module.register_module_forward_hook(
        lambda part, args, out: seen.append(part)
    )
    try:
        generate(model, random_ids(1, 3), 4)
    finally:
        handle.remove()
    assert taken == []
    assert seen.count(model.final_norm) == 4


def test_generate_under_autocast_calls_modules(model, monkeypatch):
    taken = flat_steps(model, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        generate(model, random_ids(1, 3), 4)
    assert taken == []


def test_generate_writes_with_the_parameters_as_they_are(model):
    idx = random_ids(1, 3)
    generate(model, idx, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.3).add_(0.02)
    assert torch.equal(generate(model, idx, 5), generate(model, idx, 5, use_cache=False))


def test_generate_leaves_the_model_as_it_was(model):
    before = {name: set(vars(part)) for name, part in model.named_modules()}
    addresses = [p.data_ptr() for p in model.parameters()]
    generate(model.train(), random_ids(2, 3), 5)
    assert {name: set(vars(part)) for name, part in model.named_modules()} == before
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert all(part.training for part in model.modules())
    model(random_ids(2, 4)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_generate_reads_weights_that_lie_transposed(model):
    expected = generate(model, random_ids(1, 3), 6)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(part.weight.detach().t().contiguous().t())
    assert torch.equal(generate(model, random_ids(1, 3), 6), expected)


def step_logits(model, ids, prompt_length, **options):
    """The logits of each step of a loop that is given its ids."""
    reader = Reader(model, T, **options)
    reader.start(len(ids), prompt_length, ids.shape[1] + 1)
    steps = range(prompt_length, ids.shape[1] + 1)
    return torch.stack([reader.next_logits(ids[:, :length]) for length in steps])


@pytest.mark.parametrize("rows", [1, 2])
def test_generate_in_bfloat16_is_near_float32(model, rows):
    ids = random_ids(rows, T)
    full = step_logits(model, ids, 4)
    half = step_logits(copy.deepcopy(model).bfloat16(), ids, 4)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.02 * full.norm()  # 8 bits of mantissa


class Compiled(nn.Module):
    """Wraps a model as `torch.compile` does, which takes seconds to import."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model
        self.cfg = model.cfg


def test_generate_of_a_compiled_model_reads_once(model, monkeypatch):
    taken = flat_steps(model, monkeypatch)
    idx = random_ids(1, 3)
    ids, mask = pad_left([[1], [2, 3]])
    assert torch.equal(generate(Compiled(model), idx, 5), generate(model, idx, 5))
    assert len(taken) == 8
    assert generate(Compiled(model), ids, 2, attention_mask=mask).shape == (2, 4)
