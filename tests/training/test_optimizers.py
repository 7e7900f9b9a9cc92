"""Which parameters an optimizer gets, and what Muon does with matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_scratch.training.muon import Muon, orthogonalised
from llm_scratch.training.optimizers import (
    build_optimizers,
    describe_groups,
    parameter_groups,
    set_learning_rate,
)


def test_parameter_groups_decay_matrices_only(build):
    model = build()
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in others["params"]} == {1}


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_groups_list_every_parameter_once(build, tied):
    model = build(tie_weights=tied)
    listed = [id(p) for group in parameter_groups(model) for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters()}


def test_parameter_groups_leave_out_frozen_parameters(build):
    model = build()
    model.pos_emb.weight.requires_grad_(False)
    listed = [id(p) for group in parameter_groups(model) for p in group["params"]]
    assert id(model.pos_emb.weight) not in listed


def test_parameter_groups_refuse_a_model_that_is_all_frozen(build):
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        parameter_groups(build().requires_grad_(False))


def test_parameter_groups_refuse_gaps_in_memory(build):
    model = build()
    wide = torch.randn(16, 48)
    model.trf_blocks[0].att.W_key.weight = nn.Parameter(wide[:, 16:32])
    with pytest.raises(ValueError, match=r"trf_blocks.0.att.W_key.weight .* strides \(48, 1\)"):
        parameter_groups(model)


def test_parameter_groups_take_a_transposed_matrix(build):
    model = build()
    model.trf_blocks[0].att.W_key.weight = nn.Parameter(torch.randn(16, 16).T)
    assert len(parameter_groups(model)) == 2


def test_describe_groups_counts_tensors_and_numbers(build):
    text = describe_groups(parameter_groups(build(), 0.1))
    assert text.startswith("14 tensors, 7,200 numbers, weight decay 0.1; ")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_build_optimizers_train_every_parameter_once(build, name):
    model = build()
    optimizers = build_optimizers(model, 0.01, name=name)
    held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_build_optimizers_fused_steps_equal_the_default_ones(build):
    model, other = build(), build()
    fused = build_optimizers(model, 0.01, weight_decay=0.1)
    default = torch.optim.AdamW(parameter_groups(other, 0.1), lr=0.01, betas=(0.9, 0.95))
    ids = torch.arange(12).reshape(2, 6)
    for _ in range(3):
        for each, optimizer in ((model, fused[0]), (other, default)):
            each(ids).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_build_optimizers_refuse_an_unknown_name(build):
    with pytest.raises(ValueError, match="'sgd' is not known; there are adamw, muon"):
        build_optimizers(build(), 0.01, name="sgd")


def test_set_learning_rate_reaches_every_group(build):
    optimizers = build_optimizers(build(), 0.01, name="muon")
    set_learning_rate(optimizers, 0.5)
    assert {group["lr"] for o in optimizers for group in o.param_groups} == {0.5}


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 12), (2, 12, 4)])
def test_orthogonalised_brings_singular_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    values = torch.linalg.svdvals(orthogonalised(x))
    assert 0.3 < values.min() < values.max() < 1.3


def test_muon_step_equals_the_one_of_pytorch():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon; 2.9 and later have")
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(8, 8, generator=generator), torch.randn(8, 16, generator=generator)]
    mine, theirs = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    optimizers = (
        Muon(mine, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(mine, theirs, strict=True):
        # PyTorch's iteration runs in bfloat16.
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_muon_refuses_a_vector():
    with pytest.raises(ValueError, match=r"takes matrices, got a parameter of shape \(4,\)"):
        Muon([nn.Parameter(torch.zeros(4))])
