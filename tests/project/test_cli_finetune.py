"""`llm-scratch finetune` and `classify`, as a user calls them."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest
import torch

from llm_scratch.cli import main
from llm_scratch.finetuning.instructions import load_instructions
from llm_scratch.finetuning.preference_rows import load_preferences
from llm_scratch.lora.layers import lora_layers
from llm_scratch.lora.loading import adapter_base
from llm_scratch.model.gpt import GPTModel
from llm_scratch.opening import open_model
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


def test_compare_takes_runs_of_fine_tuning(base, data, capsys):
    """Seeds divide the rows in another way, and are one group all the same."""
    runs = []
    for seed, lora in ((1, []), (2, []), (1, ["--lora", "2"])):
        runs.append(str(data / f"run{len(runs)}"))
        words = ["finetune", "classify", base, "--data", data / "m.tsv", "--out", runs[-1], *lora]
        assert main(quick(*words, "--seed", seed)) == 0
    capsys.readouterr()
    assert main(["compare", *runs, "--group", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["runs"] for group in found["groups"]] == [["run0", "run1"], ["run2"]]
    assert found["settings"]["lora rank"] == {"run0": "not recorded", "run1": "not recorded",
                                              "run2": 2}  # fmt: skip
    assert found["settings"]["data"]["run0"] != found["settings"]["data"]["run1"]
    assert all(run["best_loss"] and run["kind"] == "TokenRows" for run in found["runs"])


@pytest.mark.parametrize("options", [[], ["--lora", "2"], ["--packing", "--learn-prompt"]])
def test_finetune_instruct_then_generate(base, data, capsys, options):
    run = data / "run"
    words = ["finetune", "instruct", base, "--data", data / "i.json", "--out", run, *options]
    assert main(quick(*words)) == 0
    assert "ended by themselves" in capsys.readouterr().out
    words = ["generate", str(run), "--format", "auto", "--prompt", "Say red"]
    assert main([*words, "--max-new-tokens", "3", "--device", "cpu"]) == 0
    assert "### Instruction:\nSay red\n\n### Response:\n" in capsys.readouterr().out


def test_finetune_instruct_counts_epochs_in_packs(data, tmp_path, capsys):
    tokenizer = BytePairTokenizer.train("a bowl of soup. " * 3, vocab_size=260)
    sizes = {"vocab_size": tokenizer.n_vocab, "context_length": 1024, "emb_dim": 16, "n_heads": 2}
    base = save_model(GPTModel({**sizes, "n_layers": 1}), tmp_path / "long", tokenizer)
    words = ["finetune", "instruct", base, "--data", data / "i.json", "--device", "cpu"]
    words += ["--micro-batch", "1", "--epochs", "2"]
    steps = []
    for name, more in (("rows", []), ("packs", ["--packing"])):
        assert main([*map(str, words), "--out", str(tmp_path / name), *more]) == 0
        steps.append(int(capsys.readouterr().out.split(" steps; best")[0].split()[-1]))
    assert 0 < steps[1] <= steps[0] / 3  # four or more fit into one context


def test_finetune_instruct_shows_what_is_learned(base, data, capsys):
    assert main(["finetune", "instruct", base, "--data", str(data / "i.json"), "--show-mask"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("[[") == 3
    assert "### Response:\n[[" in shown
    assert "<|endoftext|>]]" in shown


def test_finetune_shows_colours_on_a_terminal_alone(base, data, capsys, monkeypatch):
    words = ["finetune", "instruct", base, "--data", str(data / "i.json"), "--show-mask", "1"]
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "\x1b[32m" in shown
    assert "[[" not in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "<|endoftext|>]]" in shown
    assert "\x1b" not in shown


def test_finetune_prefer(base, data, capsys):
    words = ["finetune", "prefer", base, "--data", data / "i.json", "--out", data / "run"]
    assert main(quick(*words)) == 0
    assert "3 steps; best validation loss" in capsys.readouterr().out


def test_an_adapter_goes_on_learning_and_stays_one(base, data, capsys):
    words = ["finetune", "instruct", base, "--data", data / "i.json", "--lora", "2"]
    assert main(quick(*words, "--out", data / "one")) == 0
    for task in ("instruct", "prefer"):
        words = ["finetune", task, data / "one", "--data", data / "i.json"]
        assert main(quick(*words, "--out", data / task)) == 0
        assert adapter_base(data / task) == str(base)
        assert lora_layers(open_model(data / task).model)
    words = ["finetune", "classify", data / "one", "--data", data / "m.tsv", "--out", data / "two"]
    for more in ([], ["--lora", "2"]):
        assert main(quick(*words, *more)) == 2
        assert "is an adapter, which continues to learn as it is" in capsys.readouterr().err
    assert not (data / "two").exists()


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


def test_classify_reads_each_line_of_standard_input(base, data, capsys, monkeypatch):
    run = data / "run"
    assert main(quick("finetune", "classify", base, "--data", data / "m.tsv", "--out", run)) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("sun\u2028red\n\nrain\n"))
    assert main(["classify", str(run), "--device", "cpu"]) == 0
    texts = [line.split("\t")[2] for line in capsys.readouterr().out.removesuffix("\n").split("\n")]
    assert texts == ["sun\u2028red", "rain"]


def test_rare_class_is_in_every_part(base, data, capsys):
    rows = [f"{'ab'[i % 2]}\ttext {i}\n" for i in range(60)]
    named = "label\ttext\n" + "".join(rows) + "c\tx\nc \ty\n c\tz\n"
    (data / "rare.tsv").write_text(named, encoding="utf-8")
    words = ["finetune", "classify", base, "--data", data / "rare.tsv", "--out", data / "run"]
    assert main(quick(*words)) == 0
    out = capsys.readouterr().out
    assert "rare.tsv: line 1 names the columns Label, Text" in out
    table = [line.split() for line in out.splitlines() if "%" in line][-5:-2]
    assert [(line[0], line[-1]) for line in table] == [("a", "3"), ("b", "3"), ("c", "1")]
    (data / "rare.tsv").write_text("category\tmessage\n" + "".join(rows), encoding="utf-8")
    assert main(quick(*words[:-1], data / "other")) == 2
    assert "too few rows of a class for three parts: category has 1" in capsys.readouterr().err
    assert not (data / "other").exists()


@pytest.mark.filterwarnings("ignore:.* rows have an answer above 256 tokens")
@pytest.mark.parametrize("long", [1, 3])
def test_answers_that_do_not_fit_are_left_out_if_they_are_few(base, data, capsys, long):
    entries = json.loads((data / "i.json").read_text(encoding="utf-8"))
    for entry in entries[:long]:
        entry["output"] = "soup " * 400
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (data / "i.jsonl").write_text(lines, encoding="utf-8")
    words = ["finetune", "instruct", base, "--data", data / "i.jsonl", "--out", data / "run"]
    assert main(quick(*words)) == (0 if long == 1 else 2)
    assert ("would be left out, more than a tenth" in capsys.readouterr().err) == (long == 3)


@pytest.mark.parametrize("name", ["i.csv", "i.TSV", "i.JSONL"])
def test_instructions_and_preferences_come_in_every_form(data, name):
    entries = json.loads((data / "i.json").read_text(encoding="utf-8"))
    entries[3]["output"] = 'several\nlines, "quoted"\tand\u2028more'
    with open(data / name, "w", encoding="utf-8", newline="") as file:
        if name.endswith("L"):
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        else:
            dialect = "excel" if name.endswith("csv") else "excel-tab"
            writer = csv.DictWriter(file, entries[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(entries)
    assert load_instructions(data / name) == entries
    assert load_preferences(data / name) == entries


def test_data_may_be_a_pattern_for_one_file(base, data, capsys, monkeypatch):
    monkeypatch.chdir(data)
    assert main(["finetune", "instruct", base, "--data", "i*.json", "--show-mask"]) == 0
    assert main(["finetune", "instruct", base, "--data", "*", "--show-mask"]) == 2
    assert "* matches 2 files (i.json, m.tsv ...); give one" in capsys.readouterr().err


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
