"""Models on a hub of ours: which of their files are asked for, once, and what comes of them."""

from __future__ import annotations

import json
import shutil

import gguf_models
import huggingface_hub
import pytest
import their_models
import torch
from huggingface_hub import constants
from torch.testing import assert_close

import llm_scratch as ls
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.weights.hub import fetch_from_hub

BESIDE = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
ASKED_AGAIN = [("revision", "org/model")]


def assert_same(opened, model) -> None:
    assert_close(opened.model.state_dict(), model.state_dict(), rtol=0, atol=0)


def with_more(folder, **files):
    """Put files beside a model that nobody here needs."""
    for name in ("README.md", "pytorch_model.bin", "tf_model.h5", "modeling_gpt.py"):
        (folder / name).write_text("print('run')", encoding="utf-8")
    (folder / "original").mkdir()
    shutil.copy(folder / "config.json", folder / "original" / "consolidated.safetensors")
    return folder


def test_open_model_asks_the_hub_for_what_it_needs_and_once(hub, exported, small_gpt, bpe):
    hub.publish("org/model", exported)
    opened = ls.open_model("hub:org/model")
    assert_same(opened, small_gpt)
    assert fingerprint(opened.tokenizer) == fingerprint(bpe)
    assert hub.fetched() == sorted([*BESIDE, "model.safetensors"])
    assert_same(ls.open_model("hub:org/model"), small_gpt)
    assert hub.asked == ASKED_AGAIN


def test_open_model_opens_a_cached_model_without_a_network(hub, exported, small_gpt, monkeypatch):
    hub.publish("org/model", exported)
    ls.open_model("hub:org/model")
    hub.fetched()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(ls.open_model("hub:org/model"), small_gpt)
    assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.stop()
    assert_same(ls.open_model("hub:org/model"), small_gpt)
    assert_same(ls.open_model(f"hub:org/model@{commit_of(hub)}"), small_gpt)


def commit_of(hub, revision="main") -> str:
    return hub.repositories["org/model"].commit(revision)


def test_load_gpt2_opens_a_model_on_the_hub(hub, exported, small_gpt):
    hub.publish("org/model", exported)
    loaded = ls.load_gpt2("hub:org/model")
    assert_close(loaded.state_dict(), small_gpt.state_dict(), rtol=0, atol=0)


def test_open_model_fetches_a_sharded_model(hub, bpe, tmp_path):
    model = gguf_models.build("llama")
    folder = ls.export_huggingface(model, tmp_path / "m", bpe, max_shard_size=80_000)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2
    hub.publish("org/model", with_more(folder))
    assert_same(ls.open_model("hub:org/model"), model)
    assert hub.fetched() == sorted([*BESIDE, *shards, "model.safetensors.index.json"])


def test_open_model_fetches_what_transformers_saved(hub, tmp_path):
    theirs = their_models.random_model("Qwen3", 3)
    theirs.save_pretrained(tmp_path)
    hub.publish("org/model", tmp_path)
    opened = ls.open_model("hub:org/model", need_tokenizer=False)
    ids = torch.tensor([[5, 3, 8, 1]])
    with torch.no_grad():
        assert_close(opened.model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert hub.fetched() == ["config.json", "generation_config.json", "model.safetensors"]


def test_open_model_fetches_a_folder_of_save_model(hub, small_gpt, bpe, tmp_path):
    hub.publish("org/model", ls.save_model(small_gpt, tmp_path / "m", bpe))
    opened = ls.open_model("hub:org/model")
    assert_same(opened, small_gpt)
    assert fingerprint(opened.tokenizer) == fingerprint(bpe)


def test_open_model_fetches_pickles_where_there_is_nothing_else(hub, exported, small_gpt, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save(ls.load_gpt2(exported).state_dict(), folder / "pytorch_model.bin")
    hub.publish("org/model", folder)
    assert_same(ls.open_model("hub:org/model"), small_gpt)


def test_open_model_opens_the_revision_that_is_named(hub, exported, small_gpt, bpe, tmp_path):
    other = gguf_models.build("qwen2")
    hub.publish("org/model", exported)
    hub.publish("org/model", ls.export_huggingface(other, tmp_path, bpe), "refs/pr/1")
    for revision, model in (("refs/pr/1", other), ("main", small_gpt)):
        for name in (revision, commit_of(hub, revision)):
            assert_same(ls.open_model(f"hub:org/model@{name}"), model)
    assert_same(ls.open_model("hub:org/model"), small_gpt)


def test_open_model_follows_a_branch_and_fetches_what_changed(hub, exported, small_gpt, tmp_path):
    hub.publish("org/model", exported)
    ls.open_model("hub:org/model")
    hub.fetched()
    folder = shutil.copytree(exported, tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    hub.publish("org/model", folder)
    assert ls.open_model("hub:org/model").chat_template == "{{ messages }}"
    assert hub.fetched() == ["chat_template.jinja"]
    hub.stop()
    assert ls.open_model("hub:org/model").chat_template == "{{ messages }}"


def test_open_model_opens_the_one_gguf_or_the_one_that_is_named(hub, tmp_path):
    model = gguf_models.build("llama")
    (tmp_path / "more").mkdir()
    gguf_models.write(tmp_path / "more" / "a-F32.gguf", model, "llama")
    (tmp_path / "config.json").write_text('{"model_type": "unheard of"}', encoding="utf-8")
    hub.publish("org/model", tmp_path)
    for name in ("hub:org/model", "hub:org/model/more/a-F32.gguf", "hub:org/model@main"):
        opened = ls.open_model(name)
        assert_same(opened, model)
        assert opened.chat_template == "{{ messages }}"
        assert opened.tokenizer.decode([97]) == "a"
    assert hub.fetched() == ["more/a-F32.gguf"]
    shutil.copy(tmp_path / "more" / "a-F32.gguf", tmp_path / "b.gguf")
    hub.publish("org/model", tmp_path)
    with pytest.raises(
        ValueError, match=r"several GGUF files; name one, such as hub:org/model/b.gguf:"
    ):
        ls.open_model("hub:org/model")
    assert_same(ls.open_model("hub:org/model/b.gguf"), model)


def test_open_model_opens_a_state_dict_that_is_named(hub, small_gpt, bpe, tmp_path):
    torch.save(small_gpt.state_dict(), tmp_path / "gpt.pth")
    hub.publish("org/model", tmp_path)
    assert_same(ls.open_model("hub:org/model/gpt.pth", tokenizer=bpe, n_heads=2), small_gpt)


def test_a_cache_that_other_programs_filled_is_enough(hub, exported, small_gpt, monkeypatch):
    hub.publish("org/model", exported)
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("org/model", file)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(ls.open_model("hub:org/model"), small_gpt)


def test_a_connection_that_breaks_goes_on_where_it_was(hub, exported, small_gpt, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    size = (exported / "model.safetensors").stat().st_size
    hub.publish("org/model", exported).faults["model.safetensors"] = "cut"
    assert_same(ls.open_model("hub:org/model"), small_gpt)
    ((path, start),) = hub.ranges
    assert path == "model.safetensors"
    assert size // 2 - 1024 < start <= size // 2


def test_what_did_not_arrive_is_fetched_the_next_time(hub, bpe, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    model = gguf_models.build("llama")
    folder = ls.export_huggingface(model, tmp_path / "m", bpe, max_shard_size=80_000)
    broken = sorted(path.name for path in folder.glob("*.safetensors"))[1]
    faults = hub.publish("org/model", folder).faults
    faults[broken] = "cut always"
    with pytest.raises(OSError, match="hub:org/model"):
        ls.open_model("hub:org/model")
    faults.clear()
    here = {path.name for path in (tmp_path / "huggingface").rglob("snapshots/*/*")}
    assert broken not in here
    hub.fetched()
    assert_same(ls.open_model("hub:org/model"), model)
    assert set(hub.fetched()) == {path.name for path in folder.glob("*.safetensors")} - here
    assert not list((tmp_path / "huggingface").rglob("*.incomplete"))


def test_a_token_opens_what_is_private(hub, exported, small_gpt, monkeypatch):
    hub.publish("org/model", exported).token = "hf_secret"
    with pytest.raises(FileNotFoundError, match="or it is private: `hf auth login`"):
        ls.open_model("hub:org/model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PermissionError, match=r"refuses access \(status 401\): `hf auth login`"):
        ls.open_model("hub:org/model")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert_same(ls.open_model("hub:org/model"), small_gpt)


def test_settings_that_are_passed_over_are_so_before_the_fetching_too(hub, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_gpt.Model"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    hub.publish("org/model", with_more(folder))
    with pytest.raises(ls.WeightsError, match="hub:org/model/config.json: .*auto_map"):
        ls.open_model("hub:org/model")
    assert "model.safetensors" not in hub.fetched()
    ls.open_model("hub:org/model", ignore_keys=["auto_map"])
    assert hub.fetched() == ["model.safetensors"]


def test_a_setting_that_is_unknown_and_off_is_told_once(hub, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**config, "unheard_of": None})
    (folder / "config.json").write_text(text, encoding="utf-8")
    hub.publish("org/model", folder)
    with pytest.warns(UserWarning, match="unheard_of") as caught:
        ls.open_model("hub:org/model")
    assert len(caught) == 1


def test_fetch_from_hub_returns_a_folder_or_a_file(hub, exported):
    hub.publish("org/model", exported)
    folder = fetch_from_hub("hub:org/model")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*BESIDE, "model.safetensors"])
    assert fetch_from_hub("hub:org/model/model.safetensors") == folder / "model.safetensors"
