"""What can go wrong with a model on the hub, said early, in one line, with the way out."""

from __future__ import annotations

import errno
import json
import shutil
import sys

import gguf_models
import pytest
from huggingface_hub import constants, hf_hub_download

import llm_scratch as ls
from llm_scratch.download import DownloadError
from llm_scratch.tensor_files.errors import WeightsError


def refusal(kind, source="hub:org/model", **options) -> str:
    """Return what open_model says when it refuses a source."""
    with pytest.raises(kind) as caught:
        ls.open_model(source, **options)
    assert "\n" not in str(caught.value)
    assert "hub:org/model" in str(caught.value)
    return str(caught.value)


@pytest.fixture
def published(hub, exported):
    """The repository of a small GPT."""
    return hub.publish("org/model", exported)


@pytest.fixture
def in_cache(tmp_path):
    """Return a function to the files of models that are in the cache, by name."""
    return lambda: {path.name for path in (tmp_path / "huggingface").rglob("snapshots/*/*")}


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal(DownloadError).endswith("not installed: pip install 'llm-scratch[hub]'")


def test_a_bad_name_is_refused_before_anything_is_asked(hub):
    with pytest.raises(ValueError, match="hub:gpt2 does not name a model on the hub; the forms"):
        ls.open_model("hub:gpt2")
    assert hub.asked == []


def test_a_name_without_the_prefix_is_told_of_it(hub):
    with pytest.raises(FileNotFoundError, match="one on the hub is hub:ORG/NAME"):
        ls.open_model("org/model")
    assert hub.asked == []


def test_what_is_not_there_is_said(hub, published):
    said = refusal(FileNotFoundError, "hub:org/modell")
    assert f"{hub.url} has no org/modell, or it is private: `hf auth login`, or a token" in said
    said = refusal(FileNotFoundError, "hub:org/model@v9")
    assert f"no branch, tag or commit v9; {hub.url}/org/model lists them" in said
    said = refusal(FileNotFoundError, f"hub:org/model@{'0' * 40}")
    assert "no branch, tag or commit 000" in said
    said = refusal(FileNotFoundError, "hub:org/model/q.gguf")
    assert said.endswith("q.gguf does not exist; files of weights there: model.safetensors")


def test_a_licence_is_named_with_its_page(hub, published):
    published.gated = True
    said = refusal(PermissionError)
    assert f"needs its licence accepted on {hub.url}/org/model, and then `hf auth login`" in said
    assert "HF_TOKEN" in said


def test_a_model_of_another_architecture_is_refused_before_its_weights(hub, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "m")
    for key, value in (("model_type", "bert"), ("quantization_config", {"bits": 4})):
        config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
        text = json.dumps({**config, key: value})
        (folder / "config.json").write_text(text, encoding="utf-8")
        hub.publish("org/model", folder)
        said = refusal(WeightsError)
        assert said.startswith("hub:org/model/config.json: ")
        assert key in said
        assert "model.safetensors" not in hub.fetched()


def test_a_repository_without_weights_is_told_by_its_list(hub, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "model.onnx")
    hub.publish("org/model", folder)
    assert "other weights: model.onnx" in refusal(FileNotFoundError)
    assert hub.fetched() == []


def test_an_index_is_not_trusted(hub, bpe, tmp_path):
    folder = tmp_path / "m"
    ls.export_huggingface(gguf_models.build("llama"), folder, bpe, max_shard_size=80_000)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    first = next(iter(content["weight_map"]))
    for file, kind, complaint in (
        ("../../config.json", WeightsError, "is not the name of a file beside it"),
        ("model-00009-of-00009.safetensors", FileNotFoundError, "which its index names"),
    ):
        content["weight_map"][first] = file
        index.write_text(json.dumps(content), encoding="utf-8")
        hub.publish("org/model", folder)
        with pytest.raises(kind, match=complaint):
            ls.open_model("hub:org/model")


def test_names_that_lead_out_of_the_folder_are_not_asked_for(hub, published, tmp_path):
    odd = ("../../../outside.gguf", "/outside.gguf", r"..\outside.gguf", "a\x1b[31m.gguf")
    published.answers["siblings"] = [{"rfilename": name, "size": 3} for name in odd]
    assert "other weights: none" in refusal(FileNotFoundError)
    published.answers["siblings"].append({"rfilename": "../model.safetensors"})
    assert "other weights: none" in refusal(FileNotFoundError)
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize(
    "answers", [{"sha": "../../../outside"}, {"sha": None}, {"siblings": [{}]}, {"siblings": 3}]
)
def test_an_answer_that_no_hub_gives_is_said(hub, published, answers):
    published.answers.update(answers)
    assert f"{hub.url} does not answer as a hub does, see HF_ENDPOINT" in refusal(DownloadError)


def test_a_server_that_is_no_hub_is_said(hub, published, monkeypatch):
    monkeypatch.setattr(hub.RequestHandlerClass, "send_json", lambda handler, _: page(handler))
    assert "does not answer as a hub does" in refusal(DownloadError)


def page(handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>log in</html>")


def test_no_connection_and_nothing_here_is_said(hub, published, tmp_path):
    hub.stop()
    said = refusal(DownloadError)
    assert f"and the connection to {hub.url} failed: " in said
    assert f"is not in the cache ({tmp_path / 'huggingface' / 'hub'})" in said
    assert "llm-scratch fetch hub:org/model gets it where there is a network" in said


def test_an_endpoint_that_is_no_address_is_said(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "nonsense")
    assert "the connection to nonsense failed" in refusal(DownloadError)


def test_offline_and_not_here_is_said(hub, published, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "and HF_HUB_OFFLINE is set" in refusal(FileNotFoundError)
    assert hub.asked == []


def test_offline_and_not_all_here_names_what_is_missing(hub, published, in_cache, monkeypatch):
    published.faults["model.safetensors"] = 404
    with pytest.raises(OSError, match="hub:org/model"):
        ls.open_model("hub:org/model")
    assert "config.json" in in_cache()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(FileNotFoundError).startswith("model.safetensors of hub:org/model is not in the")
    hub.stop()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert refusal(DownloadError).startswith("model.safetensors of hub:org/model is not in the")


def test_offline_and_only_what_others_fetched_is_said(hub, published, monkeypatch):
    hf_hub_download("org/model", "config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "hub:org/model is not in the cache" in refusal(FileNotFoundError)


def test_a_damaged_file_is_said_and_does_not_stay(hub, published, in_cache):
    published.faults["model.safetensors"] = "flip"
    assert "model.safetensors arrived damaged and was removed" in refusal(DownloadError)
    assert "model.safetensors" not in in_cache()
    published.faults.clear()
    ls.open_model("hub:org/model")


def test_a_file_that_is_cut_off_is_said_and_does_not_stay(hub, published, in_cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    published.faults["model.safetensors"] = "cut always"
    refusal(DownloadError)
    assert "model.safetensors" not in in_cache()


def test_a_disk_that_is_too_small_is_said_before_the_fetching(hub, published, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "0.0 GB are free in" in refusal(DownloadError)
    assert hub.fetched() == []


def test_files_that_are_here_need_no_room(hub, published, exported, tmp_path, monkeypatch):
    ls.open_model("hub:org/model")
    folder = shutil.copytree(exported, tmp_path / "m")
    (folder / "README.md").write_text("new", encoding="utf-8")
    hub.publish("org/model", folder)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    hub.fetched()
    ls.open_model("hub:org/model")
    assert hub.fetched() == []


def test_a_disk_that_runs_full_is_said(hub, published, in_cache, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    assert refusal(DownloadError).endswith("the disk is full; set HF_HOME to use another place")
    assert in_cache() == set()


def test_a_hub_that_is_down_is_as_good_as_none(hub, published, monkeypatch):
    ls.open_model("hub:org/model")
    monkeypatch.setattr(hub.RequestHandlerClass, "describe", lambda handler, *_: handler.fail(503))
    ls.open_model("hub:org/model")
    said = refusal(DownloadError, "hub:org/model@other")
    assert f"and {hub.url} answers with status 503; try again later" in said


@pytest.mark.parametrize(
    ("status", "complaint"),
    [(403, "refuses access (status 403)"), (418, "answers with status 418")],
)
def test_a_refusal_of_the_server_is_said(hub, published, status, complaint):
    published.faults["config.json"] = status
    assert complaint in refusal(OSError)
