"""`llm-scratch finetune` and `classify`, as a user calls them."""

from __future__ import annotations

import json

import pytest
import torch

from llm_scratch.cli import main
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.weights.folder import save_model

COLORS = ("red", "blue", "green", "pink")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = BytePairTokenizer.train("a bowl of soup. " * 3, vocab_size=260)
    torch.manual_seed(0)
    sizes = {"vocab_size": tokenizer.n_vocab, "context_length": 256, "emb_dim": 32, "n_heads": 2}
    model = GPTModel({**sizes, "n_layers": 2, "tie_weights": True})
    return str(save_model(model, tmp_path_factory.mktemp("base"), tokenizer))


@pytest.fixture
def data(tmp_path):
    """A file for each task."""
    lines = [f"{'xy'[i % 2]}\t{'sun rain'.split()[i % 2]} {COLORS[i % 4]} {i}\n" for i in range(60)]
    (tmp_path / "m.tsv").write_text("".join(lines), encoding="utf-8")
    entries = [
        {"instruction": f"Say {color} {i}", "input": "", "output": color, "chosen": f"{color}!",
         "rejected": "no"}
        for i, color in enumerate(COLORS * 5)
    ]  # fmt: skip
    (tmp_path / "i.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


def quick(*words):
    return [*map(str, words), "--steps", "3", "--device", "cpu"]


@pytest.mark.parametrize("lora", [[], ["--lora", "2"]])
def test_finetune_classify_then_classify(base, data, capsys, lora):
    run = data / "run"
    words = ["finetune", "classify", base, "--data", data / "m.tsv", "--out", run, *lora]
    assert main(quick(*words)) == 0
    assert "accuracy on 6 test texts" in capsys.readouterr().out
    assert main(["classify", str(run), "sun red", "rain blue", "--device", "cpu"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == ["sun red", "rain blue"]
    assert {line[0] for line in lines} <= {"x", "y"}
    assert main(["classify", str(run), "sun", "--device", "cpu", "--precision", "bfloat16"]) == 0
    assert capsys.readouterr().out.endswith("\tsun\n")
    assert (run / "adapter_model.safetensors").is_file() == bool(lora)


@pytest.mark.parametrize("options", [[], ["--lora", "2"], ["--packing", "--learn-prompt"]])
def test_finetune_instruct_then_generate(base, data, capsys, options):
    run = data / "run"
    words = ["finetune", "instruct", base, "--data", data / "i.json", "--out", run, *options]
    assert main(quick(*words)) == 0
    assert "ended by themselves" in capsys.readouterr().out
    words = ["generate", str(run), "--style", "alpaca", "--prompt", "Say red"]
    assert main([*words, "--max-new-tokens", "3", "--device", "cpu"]) == 0
    assert "### Instruction:\nSay red\n\n### Response:\n" in capsys.readouterr().out


def test_finetune_instruct_shows_what_is_learned(base, data, capsys):
    assert main(["finetune", "instruct", base, "--data", str(data / "i.json"), "--show-mask"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("[[") == 3
    assert "### Response:\n[[" in shown
    assert "<|endoftext|>]]" in shown


def test_finetune_prefer(base, data, capsys):
    words = ["finetune", "prefer", base, "--data", data / "i.json", "--out", data / "run"]
    assert main(quick(*words)) == 0
    assert "3 steps; best validation loss" in capsys.readouterr().out


def test_finetune_with_the_same_seed_gives_the_same_model(base, data, capsys):
    for task, file in (("classify", "m.tsv"), ("instruct", "i.json")):
        words = ["finetune", task, base, "--data", data / file, "--lora", "2"]
        for run in ("one", "two"):
            assert main(quick(*words, "--out", data / task / run)) == 0
        one, two = (data / task / run / "adapter_model.safetensors" for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_finetune_resumes(base, data, capsys):
    words = ["finetune", "instruct", base, "--data", data / "i.json", "--out", data / "run"]
    words = [*words, "--save-every", "2", "--steps", "4", "--device", "cpu"]
    assert main(list(map(str, words))) == 0
    assert main(list(map(str, words))) == 2  # not empty
    assert "--resume" in capsys.readouterr().err
    assert main([*map(str, words), "--resume"]) == 0
    assert len([line for line in read_metrics(data / "run") if "loss" in line]) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classify", "BASE", "--data", "nothing.tsv"], "nothing.tsv"),
        (["instruct", "BASE", "--data", "DATA/bad.json"], "bad.json: row 2 has no output"),
        (
            ["instruct", "BASE", "--data", "DATA/i.json", "--alpha", "2"],
            "--alpha belongs to --lora",
        ),
        (["classify", "BASE", "--data", "DATA/m.tsv", "--lora", "2", "--train", "all"], "--train"),
        (["instruct", "BASE", "--data", "DATA/i.json", "--epochs", "2", "--steps", "3"], "epochs"),
        (["prefer", "BASE", "--data", "DATA/bad.json"], "bad.json: row 1 has no chosen"),
        (["classify", "nowhere", "--data", "DATA/m.tsv"], "nowhere"),
    ],
)
def test_finetune_refuses(base, data, capsys, words, message):
    bad = [{"instruction": "a", "output": "b"}, {"instruction": "c"}]
    (data / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
    filled = [word.replace("BASE", base).replace("DATA", str(data)) for word in words]
    assert main(["finetune", *filled, "--out", str(data / "run")]) == 2
    assert message in capsys.readouterr().err


def test_classify_refuses_what_is_no_classifier(base, capsys):
    assert main(["classify", base, "a text"]) == 2
    assert "no classifier" in capsys.readouterr().err
