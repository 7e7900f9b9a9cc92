"""What the GPT model stores and loads, and that a tie survives all of it."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel

TINY = GPTConfig(vocab_size=50, context_length=12, emb_dim=24, n_heads=4, n_layers=2)
IDS = torch.arange(18).view(2, 9)


def make(seed: int = 1, **changes: object) -> GPTModel:
    torch.manual_seed(seed)
    return GPTModel(replace(TINY, **changes))


def is_tied(model: GPTModel) -> bool:
    return model.out_head.weight is model.tok_emb.weight


def with_masks(model: GPTModel, length: int = 12) -> dict[str, Tensor]:
    """A state dict as the book's classes write it, keys in their order."""
    old: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if key.endswith("W_query.weight"):
            mask = torch.triu(torch.ones(length, length), diagonal=1)
            old[key.replace("W_query.weight", "mask")] = mask
        old[key] = value
    return old


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_state_dict_has_the_keys_of_the_book_in_its_order(qkv_bias):
    projections = ("W_query", "W_key", "W_value")
    kinds = ("weight", "bias") if qkv_bias else ("weight",)
    expected = ["tok_emb.weight", "pos_emb.weight"]
    for i in range(2):
        block = [f"att.{name}.{kind}" for name in projections for kind in kinds]
        block += ["att.out_proj.weight", "att.out_proj.bias"]
        block += [f"ff.layers.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")]
        block += [f"norm{n}.{name}" for n in (1, 2) for name in ("scale", "shift")]
        expected += [f"trf_blocks.{i}.{key}" for key in block]
    expected += ["final_norm.scale", "final_norm.shift", "out_head.weight"]
    assert list(make(qkv_bias=qkv_bias).state_dict()) == expected


def test_gpt_model_keeps_no_buffers():
    assert list(make().buffers()) == []


@pytest.mark.parametrize("tie_weights", [False, True])
def test_gpt_model_loads_a_state_dict_with_masks(tie_weights):
    model = make(tie_weights=tie_weights)
    old = with_masks(model, length=1024)
    keys = list(old)
    other = make(seed=2, tie_weights=tie_weights)
    result = other.load_state_dict(old, strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert_close(other(IDS), model(IDS))
    assert list(old) == keys  # the caller's dict is left alone


def test_gpt_model_still_refuses_unknown_keys():
    with pytest.raises(RuntimeError, match="Unexpected key.*W_qeury"):
        make().load_state_dict({**make().state_dict(), "trf_blocks.0.att.W_qeury": torch.zeros(1)})


@pytest.mark.parametrize("tie_weights", [False, True])
def test_empty_draws_no_random_number(tie_weights):
    state = torch.get_rng_state()
    GPTModel.empty(replace(TINY, tie_weights=tie_weights))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("tie_weights", [False, True])
def test_empty_is_the_model_once_it_is_filled(tie_weights, assign):
    model = make(tie_weights=tie_weights)
    other = GPTModel.empty(model.cfg)
    assert is_tied(other) == tie_weights
    other.load_state_dict(model.state_dict(), assign=assign)
    assert is_tied(other) == tie_weights
    assert_close(other(IDS), model(IDS), rtol=0, atol=0)
    assert list(other.state_dict()) == list(model.state_dict())


def test_empty_leaves_initialisation_as_it_was():
    GPTModel.empty(TINY)
    assert nn.Linear(100, 100).weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.1)


def test_empty_takes_the_dict_of_the_book_and_refuses_a_wrong_one():
    assert GPTModel.empty(dict(TINY)).cfg == TINY
    with pytest.raises(ValueError, match="unknown key n_head"):
        GPTModel.empty({**TINY, "n_head": 4})


def test_tied_model_has_one_matrix_for_embedding_and_head():
    model = make(tie_weights=True)
    assert is_tied(model)
    assert len(list(model.parameters())) == len(list(make().parameters())) - 1


def saved_and_loaded(model: GPTModel) -> GPTModel:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = GPTModel.empty(model.cfg)
    other.load_state_dict(torch.load(file, weights_only=True), assign=True)
    return other


def loaded_inside_another_module(model: GPTModel) -> GPTModel:
    outer = nn.ModuleDict({"gpt": make(seed=2, tie_weights=True)})
    state = {f"gpt.{key}": value.clone() for key, value in model.state_dict().items()}
    outer.load_state_dict(state, assign=True)
    return outer["gpt"]


def moved_over_the_meta_device(model: GPTModel) -> GPTModel:
    other = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    "way",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: copy.deepcopy(model).to(torch.float64).to(torch.float32),
        saved_and_loaded,
        loaded_inside_another_module,
        moved_over_the_meta_device,
    ],
    ids=["deepcopy", "pickle", "to", "save", "inside", "meta"],
)
def test_tied_model_stays_tied(way: Callable[[GPTModel], GPTModel]):
    model = make(tie_weights=True)
    expected = model(IDS)
    other = way(model)
    assert is_tied(other)
    assert_close(other(IDS), expected)


def test_tied_model_stays_tied_in_bfloat16():
    assert is_tied(make(tie_weights=True).to(torch.bfloat16))


@pytest.mark.parametrize("assign", [False, True])
def test_tied_model_loads_a_state_dict_without_a_head(assign):
    model = make(tie_weights=True)
    state = {key: value for key, value in model.state_dict().items() if key != "out_head.weight"}
    other = make(seed=2, tie_weights=True)
    other.load_state_dict(state, assign=assign)
    assert is_tied(other)
    assert_close(other(IDS), model(IDS))


@pytest.mark.parametrize("assign", [False, True])
def test_tied_model_loads_a_copy_of_the_embedding_as_head(assign):
    model = make(tie_weights=True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    other = make(seed=2, tie_weights=True)
    other.load_state_dict(state, assign=assign)
    assert is_tied(other)
    assert_close(other(IDS), model(IDS))


def test_tied_model_refuses_a_head_that_differs():
    model = make(tie_weights=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="head that differs.*build it with tie_weights=False"):
        model.load_state_dict(make(seed=2).state_dict())
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_tied_model_names_a_missing_embedding():
    state = make(tie_weights=True).state_dict()
    del state["tok_emb.weight"]
    with pytest.raises(RuntimeError, match="Missing key.*tok_emb.weight"):
        make(tie_weights=True).load_state_dict(state)


def test_untied_model_needs_its_head():
    state = make().state_dict()
    del state["out_head.weight"]
    with pytest.raises(RuntimeError, match="Missing key.*out_head.weight"):
        make().load_state_dict(state)


def test_tied_model_keeps_another_head_that_it_was_given():
    model, other = make(tie_weights=True), make(seed=2, tie_weights=True)
    for each in (model, other):
        each.out_head = nn.Linear(24, 3)
    other.load_state_dict(model.state_dict(), assign=True)
    assert other.out_head.weight.shape == (3, 24)
    assert_close(other(IDS), model(IDS))


def test_gpt_model_pickles_with_its_configuration():
    model = make(drop_rate=0.5)
    other = pickle.loads(pickle.dumps(model))
    assert other.cfg == model.cfg
    assert_close(other.eval()(IDS), model.eval()(IDS), rtol=0, atol=0)


def test_gpt_model_loads_masks_after_it_was_copied():
    model = pickle.loads(pickle.dumps(make()))
    copy.deepcopy(model).load_state_dict(with_masks(make(seed=2)))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_gpt_model_compiles_and_learns():
    model = make(tie_weights=True)
    compiled = torch.compile(model)
    loss = compiled(IDS).square().mean()
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    expected = model(IDS).square().mean()
    expected.backward()
    assert_close(loss, expected)
    assert_close(gradients, [p.grad for p in model.parameters()], rtol=1e-4, atol=1e-6)
