"""Configurations from names and files, without weights and without PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

import llm_scratch as ls
from llm_scratch.memory.models import NAMES, model_config
from llm_scratch.memory.states import parameters_of
from llm_scratch.memory.step import TrainingStep
from llm_scratch.tensor_files.errors import WeightsError

GPT = ls.GPTConfig(vocab_size=67, context_length=16, emb_dim=8, n_heads=2, n_layers=1)
LLAMA = ls.LlamaConfig(
    vocab_size=67, context_length=16, emb_dim=8, n_heads=2, n_layers=1, hidden_dim=16
)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("124M", 124_439_808),
        ("openai-community/gpt2-xl", 1_557_611_200),
        ("llama3-8b", 8_030_261_248),
        ("Llama3.2-1B", 1_498_482_688),
        ("qwen1.5-0.5b", 463_987_712),
        ("smollm2", 134_515_008),
        ("preset:tiny", 3_320_256),
    ],
)
def test_names_stand_for_the_released_sizes(name, count) -> None:
    assert parameters_of(TrainingStep(model_config(name), length=8)).count == count


def test_every_name_gives_a_configuration() -> None:
    assert all(isinstance(model_config(name), ls.LlamaConfig) for name in NAMES)


def test_dicts_and_configurations_are_taken() -> None:
    assert model_config(GPT) is GPT
    assert model_config(asdict(LLAMA)) == LLAMA


@pytest.mark.parametrize("cfg", [GPT, LLAMA], ids=["gpt", "llama"])
def test_saved_folders_and_exports_are_read(tmp_path, cfg) -> None:
    model = (ls.GPTModel if cfg is GPT else ls.LlamaModel)(cfg)
    saved = ls.save_model(model, tmp_path / "saved")
    assert model_config(saved) == cfg == model_config(str(saved / "model.safetensors"))
    exported = ls.export_huggingface(model, tmp_path / "hub")
    for source in (exported, exported / "config.json"):
        found = model_config(source)
        assert (found.emb_dim, found.n_layers, found.vocab_size) == (8, 1, 67)
        assert (found.tie_weights, found.qkv_bias) == (cfg.tie_weights, cfg.qkv_bias)


def test_settings_of_a_run_are_read(tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    settings = {"model": asdict(LLAMA), "train": {}, "data": {}}
    (run / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert model_config(run) == LLAMA


def test_released_gpt2_has_biases_and_is_tied(tmp_path) -> None:
    values = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 16,
              "vocab_size": 67}  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert model_config(path) == ls.GPTConfig(**{**GPT, "qkv_bias": True, "tie_weights": True})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "bert"}', "known are gpt2, llama"),
        ("{}", "states no model"),
        ("[1]", "not an object"),
        ("{", "damaged"),
        ('{"model_type": "llama", "hidden_size": -1}', "positive numbers"),
        ('{"model": {"vocab_size": 1}}', "lacks"),
    ],
)
def test_files_of_no_model_are_refused_by_name(tmp_path, text, message) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=message):
        model_config(path)


def test_unknown_names_list_the_known_ones(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="llama3-8b.*preset:tiny"):
        model_config("llama9")
    with pytest.raises(ValueError, match="there are tiny, small, 124M"):
        model_config("preset:huge")
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        model_config(tmp_path)


def test_estimates_need_no_pytorch() -> None:
    code = (
        "import sys\n"
        "from llm_scratch.cli import main\n"
        "main(['memory', 'estimate', 'llama3-8b', '--length', '2048'])\n"
        "main(['memory', 'suggest', 'smollm2', '--memory', '8GiB', '--length', '512'])\n"
        "main(['memory', 'estimate', 'llama3-8b', '--like', 'deepspeed', '--gpus', '8'])\n"
        "assert 'torch' not in sys.modules, 'PyTorch was imported'\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=os.environ.copy()
    )
    assert ended.returncode == 0, ended.stderr
    assert "Peak: " in ended.stdout
