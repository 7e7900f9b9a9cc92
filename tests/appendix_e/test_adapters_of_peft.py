"""Adapters as PEFT writes them for transformers' GPT-2, made here by hand."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from llm_scratch.lora.loading import load_adapter
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError

SIZES = {"vocab_size": 300, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
IDS = torch.tensor([[1, 7, 3, 9, 22], [4, 4, 8, 0, 49]])
PATTERN = {"c_fc": 2, "c_attn": 3}


def build():
    torch.manual_seed(1)
    return GPTModel({**SIZES, "drop_rate": 0.0, "qkv_bias": True}).eval()


def layer_of_peft(folder, settings, name, out_features, rank=4):
    """A folder with one pair of matrices, as PEFT writes it for transformers' GPT-2."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(4)
    A = torch.randn(rank, 16, generator=generator)
    B = torch.randn(out_features, rank, generator=generator)
    start = f"base_model.model.transformer.{name}"
    tensors = {f"{start}.lora_A.weight": A, f"{start}.lora_B.weight": B}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "fan_in_fan_out": True, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return B @ A  # (out, in)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 6 / 4),
        ({"use_rslora": True}, 6 / 2),
        ({"alpha_pattern": {r"h\.\d+\.(mlp|attn)\.c_\w+": 2}}, 2 / 4),
        (
            {"alpha_pattern": PATTERN, "use_rslora": True},
            {"c_fc": 1, "c_attn": 1.5},
        ),
    ],
)
def test_adapter_for_transformers_gpt2_is_applied(tmp_path, settings, scale):
    for name, layers, size in (
        ("h.1.attn.c_attn", ["att.W_query", "att.W_key", "att.W_value"], 48),
        ("h.0.mlp.c_fc", ["ff.layers.0"], 64),
    ):
        folder = tmp_path / name
        change = layer_of_peft(folder, settings, name, size)
        change *= scale[name.rpartition(".")[2]] if isinstance(scale, dict) else scale
        expected, loaded = build(), build()
        parts = change.chunk(len(layers))
        with torch.no_grad():
            for layer, part in zip(layers, parts, strict=True):
                block = expected.trf_blocks[int(name[2])]
                block.get_submodule(layer).weight += part
        load_adapter(loaded, folder)
        torch.testing.assert_close(loaded(IDS), expected(IDS), rtol=1e-5, atol=1e-5)


def test_fused_matrices_that_make_no_three_layers_are_refused(tmp_path):
    layer_of_peft(tmp_path / "a", {}, "h.0.attn.c_attn", 47)
    with pytest.raises(WeightsError, match="47 outputs, which do not make 3 layers"):
        load_adapter(build(), tmp_path / "a")
