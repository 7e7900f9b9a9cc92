"""`load_gpt2` on state dicts in the book's names, in every form that its chapters save them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from llm_scratch.model.config import GPT2_CONFIGS, GPTConfig
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_names import BOOK, HUGGING_FACE
from llm_scratch.weights.parts import Part
from llm_scratch.weights.source import Source, config_of

CFG = GPTConfig(vocab_size=30, context_length=10, emb_dim=12, n_heads=3, n_layers=2, qkv_bias=True)


def random_model(cfg=CFG):
    torch.manual_seed(7)
    model = GPTModel(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def assert_same(loaded, model):
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def saved(state, tmp_path, name="model.pth", **options):
    torch.save(state, tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_load_gpt2_reads_the_books_state_dict(tmp_path, qkv_bias, zipped):
    model = random_model(replace(CFG, qkv_bias=qkv_bias))
    path = saved(model.state_dict(), tmp_path, _use_new_zipfile_serialization=zipped)
    loaded = load_gpt2(path, config=model.cfg)
    assert_same(loaded, model)
    assert loaded.cfg == model.cfg
    assert not loaded.training


def test_load_gpt2_drops_the_books_masks(tmp_path):
    model = random_model()
    state = OrderedDict()
    for name, tensor in model.state_dict().items():
        if name.endswith("att.W_query.weight"):
            prefix = name.removesuffix("W_query.weight")
            state[f"{prefix}mask"] = torch.triu(torch.ones(10, 10), diagonal=1)
        state[name] = tensor
    assert_same(load_gpt2(saved(state, tmp_path), config=CFG), model)


def test_load_gpt2_reads_the_model_out_of_a_checkpoint(tmp_path):
    model = random_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 2, dtype=torch.long)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    assert_same(load_gpt2(saved(checkpoint, tmp_path), config=CFG), model)


def test_load_gpt2_reads_the_fast_model(tmp_path):
    """One matrix for queries, keys and values, other names for projection and norms."""
    model = random_model()
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("out_proj", "proj")
        name = name.replace(".scale", ".weight").replace(".shift", ".bias")
        state[name] = tensor
    for block in range(2):
        prefix = f"trf_blocks.{block}.att."
        for kind in ("weight", "bias"):
            parts = [
                state.pop(f"{prefix}{name}.{kind}") for name in ("W_query", "W_key", "W_value")
            ]
            state[f"{prefix}qkv.{kind}"] = torch.cat(parts)
    assert_same(load_gpt2(saved(state, tmp_path), config=CFG), model)


def test_load_gpt2_joins_single_heads(tmp_path):
    model = random_model()
    state = dict(model.state_dict())
    for block in range(2):
        for layer in ("W_query", "W_key", "W_value"):
            for kind in ("weight", "bias"):
                whole = state.pop(f"trf_blocks.{block}.att.{layer}.{kind}")
                for head, part in enumerate(whole.chunk(3)):
                    prefix = f"trf_blocks.{block}.att.heads.{head}."
                    state[f"{prefix}{layer}.{kind}"] = part.clone()
                    state[f"{prefix}mask"] = torch.ones(10, 10)
    assert_same(load_gpt2(saved(state, tmp_path), config=CFG), model)
    del state["trf_blocks.1.att.heads.1.W_key.weight"]
    with pytest.raises(WeightsError, match=r"heads for trf_blocks\.1\.att\.W_key.* not complete"):
        load_gpt2(saved(state, tmp_path), config=CFG)


def with_lora(model, rank, scale):
    """The book's LoRA layers around every linear one, and what they add to the weights."""
    state, added = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            state[f"{name}.lora.A"] = A = torch.randn(module.in_features, rank)
            state[f"{name}.lora.B"] = B = torch.randn(rank, module.out_features) * scale
            added[f"{name}.weight"] = (A @ B).t()
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        inner = f"{layer}.linear.{kind}" if f"{layer}.lora.A" in state else name
        state[inner] = tensor
    return state, added


def test_load_gpt2_merges_lora(tmp_path):
    model = random_model()
    state, added = with_lora(model, rank=2, scale=0.1)
    path = saved(state, tmp_path)
    with pytest.raises(WeightsError, match=r"rank 2, but not their alpha; give lora_alpha"):
        load_gpt2(path, config=CFG)
    merged = load_gpt2(path, config=CFG, lora_alpha=8).state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor + 8 / 2 * added[name] if name in added else tensor
        torch.testing.assert_close(merged[name], expected)


def test_load_gpt2_needs_no_alpha_for_lora_at_its_start(tmp_path):
    model = random_model()
    state, _ = with_lora(model, rank=2, scale=0.0)
    assert_same(load_gpt2(saved(state, tmp_path), config=CFG), model)


def test_load_gpt2_refuses_lora_that_does_not_fit(tmp_path):
    state, _ = with_lora(random_model(), rank=2, scale=0.1)
    state["out_head.lora.B"] = torch.ones(3, 30)
    with pytest.raises(WeightsError, match="LoRA matrices of out_head do not fit"):
        load_gpt2(saved(state, tmp_path), config=CFG, lora_alpha=1)


def test_load_gpt2_reads_a_head_for_classes(tmp_path):
    model = random_model()
    model.out_head = nn.Linear(12, 2)
    loaded = load_gpt2(saved(model.state_dict(), tmp_path), config=CFG)
    assert_same(loaded, model)
    ids = torch.zeros(1, 4, dtype=torch.long)
    torch.testing.assert_close(loaded(ids), model(ids))
    with pytest.raises(WeightsError, match="has 2 classes"):
        load_gpt2(tmp_path / "model.pth", config=CFG, tie_weights=True)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."]
)
def test_load_gpt2_strips_wrappers(tmp_path, prefix):
    model = random_model()
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    assert_same(load_gpt2(saved(state, tmp_path), config=CFG), model)


def test_load_gpt2_sees_the_sizes_of_a_released_model(tmp_path):
    """The heads of GPT-2 of this width and depth are taken, and said; of no other depth."""
    cfg = replace(GPT2_CONFIGS["124M"], vocab_size=20, context_length=4)
    path = saved(GPTModel.empty(cfg).state_dict(), tmp_path)
    with pytest.warns(UserWarning, match="how many attention heads it has; 12 are assumed, as in"):
        assert load_gpt2(path).cfg == cfg
    state = torch.load(path, weights_only=True)
    shallow = {n: t for n, t in state.items() if not n.startswith("trf_blocks.11.")}
    with pytest.raises(WeightsError, match="nothing says how many attention heads"):
        load_gpt2(saved(shallow, tmp_path))


@pytest.mark.filterwarnings("error")
def test_only_the_released_files_have_the_heads_of_gpt2_without_a_word(tmp_path):
    shapes = parameter_shapes(GPT2_CONFIGS["355M"])
    parts = {n: Part(Stored(torch.empty(s, device="meta"), tmp_path)) for n, s in shapes.items()}
    assert config_of(Source(tmp_path, HUGGING_FACE, parts)).n_heads == 16
    with pytest.raises(UserWarning, match="how many attention heads it has; 16 are assumed"):
        config_of(Source(tmp_path, BOOK, parts))
