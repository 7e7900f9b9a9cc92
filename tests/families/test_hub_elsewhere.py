"""Models on the hub as bases of adapters, on the command line, and with that library's settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from torch.testing import assert_close

import llm_scratch as ls
from llm_scratch.cli import main
from llm_scratch.finetuning.preparing import prepare_model
from llm_scratch.lora.loading import adapter_base, base_source

IDS = torch.tensor([[5, 3, 8, 1]])
NEEDED = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
          "tokenizer_config.json"]  # fmt: skip


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS)


@pytest.fixture
def adapter(hub, exported, tmp_path):
    """An adapter that was trained on a revision of a model on the hub, and its logits."""
    hub.publish("org/model", exported, "v1")
    model, tokenizer = ls.open_model("hub:org/model@v1")
    torch.manual_seed(3)
    save = prepare_model(model, base="hub:org/model@v1", lora=2)
    for name, parameter in model.named_parameters():
        if name.endswith("lora.B"):
            torch.nn.init.normal_(parameter)
    folder = save(model, tmp_path / "adapter", tokenizer)
    hub.fetched()
    return folder, logits_of(model)


def edit_config(folder, **changes) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **changes}), encoding="utf-8")


def test_an_adapter_names_its_base_on_the_hub_as_peft_does(hub, adapter):
    folder, expected = adapter
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "org/model"
    assert config["revision"] == "v1"
    assert adapter_base(folder) == "hub:org/model@v1"
    assert_close(logits_of(ls.open_model(folder).model), expected)


def test_an_adapter_on_the_hub_brings_its_base(hub, adapter, tmp_path, monkeypatch):
    folder, expected = adapter
    (folder / "optimizer.pt").write_bytes(b"large")
    hub.publish("org/adapter", folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    assert_close(logits_of(ls.open_model("hub:org/adapter").model), expected)
    own = sorted(path.name for path in folder.iterdir() if path.suffix != ".pt")
    assert hub.fetched() == sorted([*own, *NEEDED])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_close(logits_of(ls.open_model("hub:org/adapter").model), expected)


def test_an_adapter_of_peft_means_the_hub_where_there_is_no_such_folder(
    hub, adapter, exported, tmp_path, monkeypatch
):
    folder, expected = adapter
    edit_config(folder, auto_mapping=None)
    assert base_source(folder) == "hub:org/model@v1"
    assert_close(logits_of(ls.open_model(folder).model), expected)
    shutil.copytree(exported, tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    hub.asked.clear()
    assert_close(logits_of(ls.open_model(folder).model), expected)
    assert hub.asked == []
    edit_config(folder, revision="../v1")
    shutil.rmtree(tmp_path / "org")
    with pytest.raises(ValueError, match="'../v1' in hub:org/model@../v1 is not a branch"):
        ls.open_model(folder)


def test_a_path_in_an_adapter_of_ours_is_never_asked_of_the_hub(hub, adapter):
    folder, _ = adapter
    notes = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["auto_mapping"]
    edit_config(folder, auto_mapping={**notes, "base_on_hub": False}, revision=None)
    with pytest.raises(FileNotFoundError, match="is not at org/model"):
        ls.open_model(folder)
    assert hub.asked == []


def test_a_base_that_is_not_on_the_hub_is_said_with_the_adapter(hub, adapter):
    folder, _ = adapter
    hub.repositories["org/model"].files.clear()
    with pytest.raises(FileNotFoundError, match=r"adapter in .* is not at hub:org/model@v1: .*v1;"):
        ls.open_model(folder)


def test_an_adapter_on_the_hub_goes_on_learning_on_the_same_base(hub, adapter, tmp_path):
    folder, _ = adapter
    hub.publish("org/adapter", folder)
    model, tokenizer = ls.open_model("hub:org/adapter")
    save = prepare_model(model, base="hub:org/adapter")
    assert adapter_base(save(model, tmp_path / "more", tokenizer)) == "hub:org/model@v1"


def test_commands_take_a_model_on_the_hub(hub, exported, small_gpt, tmp_path, capsys):
    hub.publish("org/model", exported)
    assert main(["weights", "info", "hub:org/model"]) == 0
    assert "layout    Hugging Face's" in capsys.readouterr().out
    words = ["--prompt", "The clock", "--max-new-tokens", "2", "--device", "cpu"]
    assert main(["generate", "hub:org/model", *words]) == 0
    assert capsys.readouterr().out.startswith("The clock")
    assert main(["weights", "convert", "hub:org/model", str(tmp_path / "ours")]) == 0
    assert_close(ls.load_model(tmp_path / "ours")[0].state_dict(), small_gpt.state_dict())
    assert main(["generate", "hub:org/nothing", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("llm-scratch: hub:org/nothing: ")
    assert shown.err.count("\n") == 1
    assert main(["generate", "hub:nothing", *words]) == 2


def test_pretrain_starts_from_a_model_on_the_hub(hub, exported, bpe, tmp_path, capsys):
    hub.publish("org/model", exported)
    text = ls.load_text("the-tide-clock")[:3000]
    ls.write_tokens(tmp_path / "t.bin", text, bpe, progress=False)
    words = ["pretrain", "--data", str(tmp_path / "t.bin"), "--out", str(tmp_path / "run")]
    words += ["--init", "hub:org/model", "--steps", "1", "--micro-batch", "1", "--device", "cpu"]
    assert main([*words, "--log-every", "0", "--sample-every", "0"]) == 0
    assert "1 steps" in capsys.readouterr().out


def test_export_says_how_a_folder_is_published(hub, exported, tmp_path, capsys):
    folder = tmp_path / "my model"
    hub.publish("org/model", exported)
    hub.fetched()
    assert main(["weights", "export", "hub:org/model", str(folder)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == f"to publish it: hf upload ORG/NAME '{folder}' ."
    assert {command for command, _ in hub.asked} == {"revision", "tree", "HEAD", "GET"}


@pytest.mark.parametrize("command", [["fetch"], ["weights", "fetch"]])
def test_fetch_brings_a_model_and_the_base_of_an_adapter(command, hub, adapter, tmp_path, capsys):
    folder, _ = adapter
    hub.publish("org/adapter", folder)
    shutil.rmtree(tmp_path / "huggingface")
    assert main([*command, "hub:org/adapter"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"hub:org/adapter: {tmp_path / 'huggingface'}")
    assert shown.endswith(" bytes)\n")
    assert {*NEEDED, "adapter_model.safetensors"} <= set(hub.fetched())
    hub.stop()
    assert main([*command, "hub:org/adapter"]) == 0


def test_fetch_refuses_what_has_no_effect_on_a_model_on_the_hub(hub, capsys):
    for option in (["--openai"], ["--data-dir", "x"]):
        assert main(["weights", "fetch", "hub:org/model", *option]) == 2
        assert "are GPT-2's; leave them out for hub:org/model" in capsys.readouterr().err
    assert main(["fetch", "org/model"]) == 2
    assert "and hub:ORG/NAME" in capsys.readouterr().err
    assert hub.asked == []


CHILD = """
import llm_scratch as ls, sys
ls.open_model("hub:org/model")
print("transformers" in sys.modules, "huggingface_hub" in sys.modules)
"""


@pytest.mark.slow
def test_that_librarys_own_settings_hold(hub, exported, tmp_path):
    """HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, in processes that are told nothing else."""
    hub.publish("org/model", exported).token = "hf_secret"
    known = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    known |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
    for settings, complaint in (
        ({}, f"{hub.url} has no org/model, or it is private"),
        ({"HF_TOKEN": "hf_secret"}, ""),
        ({"HF_HUB_OFFLINE": "1"}, ""),
        ({"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "x")}, "HF_HUB_OFFLINE is set"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", CHILD], env=known | settings, capture_output=True, text=True
        )
        assert done.stdout == ("" if complaint else "False True\n")
        assert complaint in done.stderr
        assert bool(done.stderr) == bool(complaint)  # no bars where nobody watches
    assert (tmp_path / "home" / "hub" / "models--org--model").is_dir()
