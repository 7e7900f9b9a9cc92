"""This library's own folders, the way out to others, and the commands for all of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from llm_scratch.cli import weights as commands
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files import safetensors
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.tokenizers.simple import SimpleTokenizerV1, SimpleTokenizerV2, build_vocab
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_files import find_gpt2

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow" / "gpt2_tiny"
CFG = GPTConfig(vocab_size=280, context_length=10, emb_dim=12, n_heads=3, n_layers=2, drop_rate=0.1)
BPE = BytePairTokenizer.train(["a bird in the hand is worth two in the bush "], vocab_size=270)


def random_model(cfg=CFG):
    torch.manual_seed(11)
    return GPTModel(cfg)


def assert_same(loaded, model):
    assert loaded.cfg == model.cfg
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
        assert ours[name].dtype == tensor.dtype


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_save_model_and_load_model_are_inverse(tmp_path, tied, qkv_bias):
    model = random_model(replace(CFG, tie_weights=tied, qkv_bias=qkv_bias))
    assert save_model(model, tmp_path / "new" / "m") == tmp_path / "new" / "m"
    loaded, tokenizer = load_model(tmp_path / "new" / "m")
    assert tokenizer is None
    assert_same(loaded, model)
    assert (loaded.out_head.weight is loaded.tok_emb.weight) == tied
    assert not loaded.training
    assert_same(load_gpt2(tmp_path / "new" / "m"), model)


def test_save_model_writes_a_shared_tensor_once(tmp_path):
    model = random_model(replace(CFG, tie_weights=True))
    save_model(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == set(model.state_dict()) - {"out_head.weight"}


def test_save_model_sees_a_tie_that_the_configuration_does_not_know(tmp_path):
    model = random_model()
    model.out_head.weight = model.tok_emb.weight
    save_model(model, tmp_path)
    loaded, _ = load_model(tmp_path)
    assert loaded.out_head.weight is loaded.tok_emb.weight


def test_save_model_writes_what_safetensors_reads(tmp_path):
    model = random_model()
    model.trf_blocks.to(torch.bfloat16)  # types may differ within a model
    save_model(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for name, tensor in model.state_dict().items():
            assert torch.equal(file.get_tensor(name), tensor)
    assert_same(load_model(tmp_path)[0], model)


def test_save_model_keeps_a_head_for_classes(tmp_path):
    model = random_model(replace(CFG, tie_weights=True))
    model.out_head = nn.Linear(12, 2)
    save_model(model, tmp_path)
    loaded, _ = load_model(tmp_path)
    assert loaded.out_head.out_features == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_save_model_unwraps_a_compiled_model(tmp_path):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = random_model()
    save_model(Wrapper(Wrapper(model)), tmp_path)
    assert_same(load_model(tmp_path)[0], model)


VOCAB = build_vocab("a bird in the hand".split(), ("<|endoftext|>", "<|unk|>"))


@pytest.mark.parametrize(
    "tokenizer",
    [BPE, SimpleTokenizerV1(VOCAB), SimpleTokenizerV2(VOCAB, keep_spaces=True)],
    ids=lambda tokenizer: type(tokenizer).__name__,
)
def test_load_model_brings_the_tokenizer_back(tmp_path, tokenizer):
    save_model(random_model(), tmp_path, tokenizer)
    _, loaded = load_model(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.encode("a bird in the hand") == tokenizer.encode("a bird in the hand")


def test_load_model_brings_gpt2s_tokenizer_back(tmp_path, tokenizer):
    import tiktoken

    cfg = replace(CFG, vocab_size=50257, emb_dim=3, n_layers=1)
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=tokenizer._encoding._pat_str,
        mergeable_ranks=tokenizer._encoding._mergeable_ranks,
        special_tokens={"<|endoftext|>": 50256},
    )
    for given in (tokenizer, encoding):
        save_model(random_model(cfg), tmp_path, given)
        assert isinstance(load_model(tmp_path)[1], GPT2Tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_save_model_refuses_what_does_not_belong_together(tmp_path):
    with pytest.raises(ValueError, match="270 ids, the model's vocab_size is 260"):
        save_model(random_model(replace(CFG, vocab_size=260)), tmp_path, BPE)
    with pytest.raises(TypeError, match="expected a model of this library.*, got a Linear"):
        save_model(nn.Linear(2, 2), tmp_path)
    with pytest.raises(TypeError, match="a Odd can't be saved with a model"):
        save_model(random_model(), tmp_path, type("Odd", (), {"encode": lambda *a: [1]})())
    model = random_model()
    model.trf_blocks[0].att.W_query.register_parameter("A", nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match=r"1 not used: trf_blocks\.0\.att\.W_query\.A.*merged"):
        save_model(model, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_load_model_sees_another_tokenizer(tmp_path):
    save_model(random_model(), tmp_path, BPE)
    (file,) = tmp_path.glob("tokenizer-*.json")
    other = BytePairTokenizer.train(["some quite different text, text, text"], vocab_size=262)
    other.save(file)
    with pytest.raises(WeightsError, match=r"holds tokenizer .*, the model was saved with"):
        load_model(tmp_path)
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(WeightsError, match="tokenizer is damaged"):
        load_model(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer-.* is missing"):
        load_model(tmp_path)


def test_load_model_sees_every_flip(tmp_path):
    save_model(random_model(replace(CFG, vocab_size=20, emb_dim=3, n_layers=1)), tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    means_nothing = content.index(b'"format":"pt"')
    for position in range(0, len(content), 11):
        if means_nothing <= position < means_nothing + len('"format":"pt"'):
            continue
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(WeightsError) as caught:
            load_model(tmp_path)
        assert caught.value.path == str(path)
    path.write_bytes(content)
    load_model(tmp_path)


def test_load_model_refuses_a_folder_of_others(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model was saved in"):
        load_model(tmp_path)
    export_huggingface(random_model(), tmp_path)
    with pytest.raises(WeightsError, match="load_gpt2 reads it"):
        load_model(tmp_path)


def test_save_model_leaves_the_old_one_when_it_fails(tmp_path, monkeypatch):
    model = random_model()
    save_model(model, tmp_path)

    def full(tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "pieces", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(random_model(replace(CFG, n_layers=1)), tmp_path)
    monkeypatch.undo()
    assert_same(load_model(tmp_path)[0], model)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_load_model_does_not_hold_on_to_the_file(tmp_path):
    """It may be trained and saved in the same place."""
    model = random_model()
    save_model(model, tmp_path)
    loaded, _ = load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert_same(loaded, model)


def test_load_model_converts_the_type(tmp_path):
    save_model(random_model(), tmp_path)
    model, _ = load_model(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_export_refuses_what_transformers_has_no_form_for(tmp_path):
    model = random_model()
    with pytest.raises(TypeError, match="SimpleTokenizerV1 has no form"):
        export_huggingface(model, tmp_path, SimpleTokenizerV1(VOCAB))
    with pytest.raises(ValueError, match="do not belong together"):
        export_huggingface(random_model(replace(CFG, vocab_size=30)), tmp_path, BPE)
    model.out_head = nn.Linear(12, 2)
    with pytest.raises(ValueError, match="a head with 2 classes"):
        export_huggingface(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_written_files_start_with_an_aligned_header(tmp_path):
    save_model(random_model(), tmp_path)
    length = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0
    tensors = read_tensors(tmp_path / "model.safetensors").tensors
    assert {stored.offset % 8 for stored in tensors.values()} <= {0, 4}


def run(*words):
    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers())
    args = parser.parse_args(["weights", *map(str, words)])
    return args.run(args)


def test_weights_info_says_what_a_checkpoint_holds(capsys):
    assert run("info", FIXTURE, "--tensors") == 0
    printed = capsys.readouterr().out
    assert "layout    OpenAI's" in printed
    assert "numbers   2,096 (float32)" in printed
    assert "head      the embedding" in printed
    assert "n_heads   2" in printed
    assert "trf_blocks.1.att.W_value.weight" in printed


def test_weights_info_reads_a_run_whose_settings_are_beside_its_weights(tmp_path, capsys):
    save_model(random_model(), tmp_path)
    settings = {"model": dict(random_model().cfg), "train": {"steps": 2}, "data": {}}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert run("info", tmp_path) == 0
    assert "layout    the book's names" in capsys.readouterr().out


def test_weights_convert_and_export_go_round(tmp_path, capsys):
    assert run("convert", FIXTURE, tmp_path / "ours", "--dtype", "bfloat16") == 0
    assert run("export", tmp_path / "ours", tmp_path / "theirs") == 0
    assert str(tmp_path / "theirs") in capsys.readouterr().out
    expected = load_gpt2(FIXTURE, dtype=torch.bfloat16)
    assert_same(load_gpt2(tmp_path / "theirs"), expected)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text(encoding="utf-8"))
    assert config["torch_dtype"] == "bfloat16"


def test_weights_convert_takes_the_heads(tmp_path):
    torch.save(random_model().state_dict(), tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="how many attention heads"):
        run("convert", tmp_path / "m.pth", tmp_path / "out")
    run("convert", tmp_path / "m.pth", tmp_path / "out", "--n-heads", 3)
    assert load_model(tmp_path / "out")[0].cfg.n_heads == 3


def test_find_gpt2_looks_into_the_data_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="llm-scratch weights fetch gpt2-xl gets it"):
        find_gpt2("gpt2-xl (1558M)")
    for folder in ("cache", "data"):
        place = tmp_path / folder / "gpt2" / "124M"
        export_huggingface(random_model(), place)
        assert find_gpt2("gpt2") == place
    assert_same(load_gpt2("gpt2"), random_model(replace(CFG, drop_rate=0.0)))
