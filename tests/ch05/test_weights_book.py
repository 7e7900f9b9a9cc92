"""The book's own functions for GPT-2's weights, without TensorFlow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.weights import gpt2_files
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.openai import (
    assign,
    download_and_load_gpt2,
    load_gpt2_params_from_tf_ckpt,
    load_weights_into_gpt,
)

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow" / "gpt2_tiny"
SETTINGS = json.loads((FIXTURE / "hparams.json").read_text(encoding="utf-8"))
CFG = GPTConfig(vocab_size=30, context_length=12, emb_dim=8, n_heads=2, n_layers=2, qkv_bias=True)


@pytest.fixture
def params():
    return load_gpt2_params_from_tf_ckpt(FIXTURE / "model.ckpt", SETTINGS)


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_holds_the_fixture(model):
    expected = load_gpt2(FIXTURE, tie_weights=False).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.float(), expected[name].to(tensor.dtype).float()), name


def test_params_are_nested_as_in_the_book(params):
    assert set(params) == {"wte", "wpe", "g", "b", "blocks"}
    assert params["wte"].shape == (30, 8)
    assert len(params["blocks"]) == 2
    block = params["blocks"][1]
    assert set(block) == {"attn", "mlp", "ln_1", "ln_2"}
    assert block["attn"]["c_attn"]["w"].shape == (8, 24)  # OpenAI's leading 1 is gone
    assert block["mlp"]["c_proj"]["w"].shape == (32, 8)
    assert block["ln_2"]["g"].shape == (8,)


def test_params_refuse_settings_of_another_model():
    with pytest.raises(WeightsError, match="holds 2 blocks, the settings say 3"):
        load_gpt2_params_from_tf_ckpt(FIXTURE, {**SETTINGS, "n_layer": 3})
    with pytest.raises(ValueError, match="n_layer"):
        load_gpt2_params_from_tf_ckpt(FIXTURE, {})


@pytest.mark.parametrize("tied", [True, False])
def test_load_weights_into_gpt_fills_the_model(params, tied):
    model = GPTModel(replace(CFG, tie_weights=tied))
    load_weights_into_gpt(model, params)
    assert_holds_the_fixture(model)
    assert (model.out_head.weight is model.tok_emb.weight) == tied


def test_load_weights_into_gpt_fills_the_readers_own_class(params):
    class Readers(nn.Module):
        """Only the names of the parameters count."""

        def __init__(self):
            super().__init__()
            inner = GPTModel(CFG)
            for name, child in inner.named_children():
                self.add_module(name, child)
            self.trf_blocks[0].att.register_buffer("a_mask", torch.ones(12, 12))

    model = Readers()
    load_weights_into_gpt(model, params)
    assert torch.equal(model.trf_blocks[0].att.a_mask, torch.ones(12, 12))
    expected = load_gpt2(FIXTURE)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.state_dict()[name])


def test_load_weights_into_gpt_takes_hugging_faces_tensors(params):
    from llm_scratch.tensor_files.tensor_bundle import TensorBundle
    from llm_scratch.weights.source import stored_of_bundle

    tensors = {}
    for name, stored in stored_of_bundle(TensorBundle(FIXTURE)).items():
        from llm_scratch.weights.gpt2_names import openai_as_hugging_face

        tensors[openai_as_hugging_face(name)] = stored.tensor
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 12, 12)
    model = GPTModel(CFG)
    load_weights_into_gpt(model, tensors)
    assert_holds_the_fixture(model)


def test_load_weights_into_gpt_keeps_type_and_optimizer(params):
    model = GPTModel(CFG).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [id(parameter) for parameter in model.parameters()]
    load_weights_into_gpt(model, params)
    assert [id(parameter) for parameter in model.parameters()] == before
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert_holds_the_fixture(model)
    model(torch.zeros(1, 2, dtype=torch.long)).float().sum().backward()
    optimizer.step()
    assert not torch.equal(model.final_norm.shift.float(), torch.as_tensor(params["b"]))


def broken(params, change):
    copy = {**params, "blocks": [dict(block) for block in params["blocks"]]}
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("cfg", "change", "message"),
    [
        (replace(CFG, qkv_bias=False), lambda p: None, "qkv_bias=True"),
        (replace(CFG, n_layers=3), lambda p: None, r"missing: trf_blocks\.2\.att"),
        (replace(CFG, n_layers=1), lambda p: None, r"not used: trf_blocks\.1\.att"),
        (CFG, lambda p: p.pop("wpe"), r"missing: pos_emb\.weight"),
        (CFG, lambda p: p.update(extra=np.ones(3)), "not used: extra"),
        (CFG, lambda p: p["blocks"][1].pop("ln_2"), r"2 missing: trf_blocks\.1\.norm2\.scale"),
        (CFG, lambda p: p.update(g=np.ones(7)), r"final_norm\.scale \(7,\) where \(8,\)"),
    ],
)
def test_load_weights_into_gpt_changes_all_or_nothing(params, cfg, change, message):
    model = GPTModel(cfg)
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        load_weights_into_gpt(model, broken(params, change))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_assign_fills_a_parameter_where_it_stands():
    left = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    assert assign(left, np.ones((2, 3), "float32")) is left
    assert torch.equal(left, torch.ones(2, 3, dtype=torch.float64))


def test_assign_makes_a_parameter_of_a_tensor():
    right = torch.arange(3.0)
    made = assign(torch.zeros(3), right)
    assert isinstance(made, nn.Parameter)
    assert torch.equal(made, right)
    right[0] = 5
    assert made[0] == 0


def test_assign_names_both_shapes():
    with pytest.raises(ValueError, match=r"Shape mismatch\. Left: \(2, 3\), Right: \(3, 2\)"):
        assign(nn.Parameter(torch.zeros(2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="qkv_bias=True"):
        assign(None, np.zeros(3))


def test_download_and_load_gpt2_reads_the_files_that_are_there(tmp_path, monkeypatch):
    calls = []

    def no_download(urls, path, **options):
        calls.append(path.name)
        if path.name in {file.name for file in FIXTURE.iterdir()}:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((FIXTURE / path.name).read_bytes())

    monkeypatch.setattr(gpt2_files, "download_file", no_download)
    settings, params = download_and_load_gpt2("124M", tmp_path / "gpt2")
    assert settings == SETTINGS
    assert calls == list(gpt2_files.OPENAI_FILES)
    assert (tmp_path / "gpt2" / "124M" / "hparams.json").is_file()
    assert np.array_equal(params["wte"], load_gpt2(FIXTURE).tok_emb.weight.detach().numpy())


def test_download_and_load_gpt2_refuses_another_size(tmp_path):
    with pytest.raises(ValueError, match="must be one of 124M, 355M, 774M, 1558M"):
        download_and_load_gpt2("125M", tmp_path)
