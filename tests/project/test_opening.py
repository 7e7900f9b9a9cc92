"""One call opens whatever holds a model, with the tokenizer that belongs to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

import llm_scratch as ls
from llm_scratch.model.config import GPTConfig
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tokenizers.any_tokenizer import fingerprint

OPENAI = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow" / "gpt2_tiny"
IDS = torch.tensor([[5, 3, 8, 1]])


@pytest.fixture(scope="module")
def bpe() -> ls.BytePairTokenizer:
    text = ls.load_text("the-tide-clock")
    return ls.BytePairTokenizer.train(text, 256 + 400 + 1, progress=False)


@pytest.fixture(scope="module")
def model() -> ls.GPTModel:
    torch.manual_seed(7)
    cfg = GPTConfig(50257, 16, 12, 2, 1, qkv_bias=True, tie_weights=True)
    return ls.GPTModel(cfg).eval()


@pytest.fixture(scope="module")
def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)


@pytest.fixture(scope="module")
def saved(model, bpe, tmp_path_factory) -> Path:
    return ls.save_model(model, tmp_path_factory.mktemp("saved"), bpe)


@pytest.fixture(scope="module")
def hugging_face(model, bpe, tmp_path_factory) -> Path:
    """A folder whose vocab_size is GPT-2's and whose tokenizer has 400 merges."""
    return ls.export_huggingface(model, tmp_path_factory.mktemp("hub"), bpe)


def logits_of(opened) -> torch.Tensor:
    with torch.no_grad():
        return opened.model(IDS)


@pytest.mark.parametrize("kind", ["saved", "hugging_face"])
def test_open_model_takes_the_folders_own_tokenizer(kind, request, logits, bpe):
    opened = ls.open_model(request.getfixturevalue(kind))
    assert_close(logits_of(opened), logits)
    assert opened.model.cfg.vocab_size == 50257
    assert fingerprint(opened.tokenizer) == fingerprint(bpe)
    assert opened.format is None
    model, tokenizer = opened
    assert (model, tokenizer) == (opened.model, opened.tokenizer)
    assert not model.training


def test_open_model_takes_a_file_beside_its_tokenizer(saved, hugging_face, logits, bpe):
    for folder in (saved, hugging_face):
        opened = ls.open_model(str(folder / "model.safetensors"))
        assert_close(logits_of(opened), logits)
        assert fingerprint(opened.tokenizer) == fingerprint(bpe)


def test_open_model_opens_merges_and_vocabulary(hugging_face, bpe, tmp_path):
    folder = shutil.copytree(hugging_face, tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    assert fingerprint(ls.open_model(folder).tokenizer) == fingerprint(bpe)


def test_open_model_opens_a_run(bpe, tmp_path):
    text = ls.load_text("the-tide-clock")
    data = ls.write_tokens(tmp_path / "t.bin", text[:6000], bpe, progress=False)
    train, validation = data.split(0.8, min_tokens=9)
    model = ls.GPTModel(GPTConfig(bpe.n_vocab, 8, 8, 2, 1))
    config = ls.TrainConfig(steps=2, micro_batch=2, precision="float32", log_every=0)
    folder, quiet = tmp_path / "run", {"log": lambda line: None}
    ls.train(model, train, config, validation=validation, folder=folder, tokenizer=bpe, **quiet)
    opened = ls.open_model(folder)
    assert_close(opened.model.state_dict(), model.state_dict())
    assert fingerprint(opened.tokenizer) == fingerprint(bpe)
    checkpoint = folder / "checkpoints" / "step-00000002"
    assert_close(ls.open_model(checkpoint).model.state_dict(), model.state_dict())
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no best model yet; .*step-00000002.*--resume"):
        ls.open_model(folder)


def test_open_model_opens_a_state_dict_with_a_tokenizer_that_is_given(model, logits, bpe, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(model.state_dict(), path)
    bpe.save(tmp_path / "bpe.json")
    for tokenizer in (bpe, tmp_path / "bpe.json", str(tmp_path / "bpe.json")):
        opened = ls.open_model(path, tokenizer=tokenizer, n_heads=2)
        assert_close(logits_of(opened), logits)
        assert fingerprint(opened.tokenizer) == fingerprint(bpe)
    assert isinstance(
        ls.open_model(path, tokenizer="gpt2", n_heads=2).tokenizer, ls.BytePairTokenizer
    )
    assert ls.open_model(path, need_tokenizer=False, n_heads=2).tokenizer is None


def test_open_model_guesses_no_tokenizer_from_a_size(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r'no tokenizer with its weights; .*tokenizer="gpt2"'):
        ls.open_model(tmp_path / "model.pth", n_heads=2)
    folder = ls.export_huggingface(model, tmp_path / "hub")
    with pytest.raises(ValueError, match="no tokenizer with its weights"):
        ls.open_model(folder)


def test_open_model_opens_openais_folder(tmp_path):
    folder = shutil.copytree(OPENAI, tmp_path / "openai")
    assert ls.open_model(folder, need_tokenizer=False).model.cfg.n_layers == 2
    gpt2 = ls.BytePairTokenizer.gpt2()
    gpt2.to_files(folder / "vocab.bpe", folder / "encoder.json")
    with pytest.raises(ValueError, match="the tokenizer has 50257 ids, the model's vocab_size"):
        ls.open_model(folder)  # its own files are read, and this tiny model has fewer ids


def test_open_model_opens_gpt2_by_name_where_it_is(hugging_face, logits, tmp_path, monkeypatch):
    shutil.copytree(hugging_face, tmp_path / "gpt2" / "124M")
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path))
    opened = ls.open_model("gpt2")
    assert_close(logits_of(opened), logits)
    assert isinstance(opened.tokenizer, ls.GPT2Tokenizer)


@pytest.fixture
def adapter(saved, bpe, tmp_path):
    """Put an adapter into a folder and return the folder and the logits with it."""

    def make(base, into="adapter"):
        model, _ = ls.load_model(saved)
        torch.manual_seed(3)
        ls.replace_linear_with_lora(model, 2, 2.0, targets="trf_blocks", freeze_base=True)
        for name, parameter in model.named_parameters():
            if name.endswith("lora.B"):
                torch.nn.init.normal_(parameter)
        folder = ls.save_adapter(model, tmp_path / into, base=base)
        with torch.no_grad():
            return folder, model.eval()(IDS)

    return make


@pytest.mark.parametrize("kind", ["absolute", "beside", "from here"])
def test_open_model_opens_an_adapter_on_its_base(kind, adapter, saved, bpe, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "base")
    base = {"absolute": tmp_path / "base", "beside": "../base", "from here": "base"}[kind]
    folder, expected = adapter(base)
    monkeypatch.chdir(tmp_path if kind == "from here" else tmp_path.parent)
    opened = ls.open_model(folder)
    assert_close(logits_of(opened), expected)
    assert fingerprint(opened.tokenizer) == fingerprint(bpe)  # the base's: the adapter has none


def test_open_model_converts_an_adapter_after_it_is_put_in(adapter, saved):
    folder, expected = adapter(saved)
    opened = ls.open_model(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in opened.model.parameters()} == {torch.bfloat16}
    assert_close(logits_of(opened).float(), expected, atol=0.5, rtol=0.1)  # of 8 bits


def test_weights_convert_makes_one_model_of_an_adapter_and_its_base(adapter, saved, tmp_path):
    from llm_scratch import cli

    folder, expected = adapter(saved)
    assert cli.main(["weights", "convert", str(folder), str(tmp_path / "whole")]) == 0
    opened = ls.open_model(tmp_path / "whole")
    assert_close(logits_of(opened), expected)


def test_open_model_opens_a_classifier_with_its_classes(bpe, tmp_path):
    torch.manual_seed(0)
    model = ls.GPTModel(GPTConfig(bpe.n_vocab, 8, 8, 2, 1))
    ls.replace_head(model, 2)
    ls.save_classifier(model, tmp_path, bpe, ["ham", "spam"])
    assert ls.open_model(tmp_path).model.class_names == ("ham", "spam")


def test_open_model_says_what_is_wrong_and_the_way_out(saved, adapter, bpe, tmp_path):
    empty, code = tmp_path / "empty", tmp_path / "code.pth"
    empty.mkdir()
    torch.save({"model": torch.nn.Linear(2, 2)}, code)
    lost, _ = adapter("nowhere", "lost")
    nameless, _ = adapter(None, "nameless")
    itself, _ = adapter(".", "itself")
    first, _ = adapter("../second", "first")
    adapter("../first", "second")
    for source, options, kind, message in (
        ("no such model", {}, FileNotFoundError, "no file or folder no such model"),
        (tmp_path / "x.pth", {}, FileNotFoundError, "x.pth does not exist"),
        (empty, {}, FileNotFoundError, "empty holds no model: neither model.safetensors"),
        (code, {}, WeightsError, "refused: it holds code"),
        (lost, {}, FileNotFoundError, "adapter in .*lost is not at nowhere"),
        (nameless, {}, ValueError, "does not name its base model"),
        (itself, {}, ValueError, "names itself as its base model"),
        (first, {}, ValueError, r"is ../second, which is itself an adapter; .*merge_lora"),
        (saved, {"tokenizer": "gpt2"}, ValueError, "has a tokenizer of its own"),
        (saved, {"device": "quantum"}, ValueError, "'quantum' is not a device"),
        (saved, {"tokenizer": "nowhere.json"}, FileNotFoundError, "no tokenizer at nowhere.json"),
    ):
        with pytest.raises(kind, match=message) as caught:
            ls.open_model(source, **options)
        assert "\n" not in str(caught.value)


def test_save_model_states_the_kind_of_head(model, tmp_path):
    ls.save_model(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stated = json.loads(file.metadata()["llm_scratch"])
    assert stated["head"] == {"kind": "tokens", "size": 50257, "bias": False, "names": None}


def test_a_head_whose_classes_have_names_is_one_for_classes_at_any_size(bpe, tmp_path):
    """As many classes as ids are not a language model's head."""
    torch.manual_seed(0)
    model = ls.GPTModel(GPTConfig(bpe.n_vocab, 8, 8, 2, 1))
    model.class_names = tuple(f"class {n}" for n in range(bpe.n_vocab))
    ls.save_model(model, tmp_path, bpe)
    assert ls.open_model(tmp_path).model.class_names == model.class_names
    with pytest.raises(ValueError, match="not a language model's"):
        ls.export_huggingface(model, tmp_path / "out")


def test_export_guesses_no_end_of_text_from_a_size(model, bpe, tmp_path):
    for tokenizer, end in ((None, None), (bpe, bpe.eot_token)):
        folder = ls.export_huggingface(model, tmp_path, tokenizer)
        for file in ("config.json", "generation_config.json"):
            assert json.loads((folder / file).read_text(encoding="utf-8"))["eos_token_id"] == end


def test_a_model_of_a_module_that_was_loaded_anew_is_told_from_others(tmp_path, monkeypatch):
    """A notebook that imports the module again holds a class of the same name, and it is said."""
    import importlib
    import sys

    import llm_scratch.model.gpt as module

    monkeypatch.setitem(sys.modules, "llm_scratch.model.gpt", module)
    monkeypatch.delitem(sys.modules, "llm_scratch.model.gpt")
    monkeypatch.setattr("llm_scratch.model.gpt", module, raising=False)
    again = importlib.import_module("llm_scratch.model.gpt")
    model = module.GPTModel(GPTConfig(20, 4, 4, 2, 1))
    assert again.GPTModel is not module.GPTModel
    with pytest.raises(TypeError, match="got a GPTModel; its module was reloaded since, so"):
        ls.save_model(model, tmp_path)
