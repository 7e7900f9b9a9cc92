"""`llm-scratch pretrain`, `eval` and `plot`, from a text to a model that was measured."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from llm_scratch.cli import main
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.measuring import measure, part_to_measure
from llm_scratch.training.presets import PRESETS
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.weights.folder import load_model

TEXT = "the tide comes in and the tide goes out, and the clock counts them both. " * 30
SMALL = ["--emb-dim", "16", "--n-heads", "2", "--context-length", "16", "--steps", "6"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A token file with one id a byte."""
    path = tmp_path_factory.mktemp("data") / "tide.bin"
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    write_tokens(path, TEXT, tokenizer, progress=False)
    return path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["pretrain", "--data", str(data), "--out", str(folder), *SMALL]) == 0
    return folder


def test_pretrain_writes_a_run(run):
    assert len([line for line in read_metrics(run) if "loss" in line]) == 6
    model, tokenizer = load_model(run)
    assert (model.cfg.vocab_size, model.cfg.emb_dim, model.cfg.context_length) == (256, 16, 16)
    assert tokenizer.encode("ab") == [64, 65] or len(tokenizer.encode("ab")) == 2
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["train"]["steps"] == 6


def test_pretrain_with_the_same_seed_gives_the_same_model(run, data, tmp_path):
    assert main(["pretrain", "--data", str(data), "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        run / "model.safetensors"
    ).read_bytes()


def test_pretrain_refuses_a_folder_with_a_run_and_goes_on_with_resume(run, data, capsys):
    words = ["pretrain", "--data", str(data), "--out", str(run), *SMALL]
    assert main(words) == 2
    assert "is not empty; --resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert "nothing left to do: the run ended at step 6 of 6" in capsys.readouterr().out


def test_pretrain_starts_from_the_weights_of_a_model(run, data, tmp_path, capsys):
    words = ["pretrain", "--data", str(data), "--out", str(tmp_path / "run"), "--init", str(run)]
    assert main([*words, "--steps", "1", "--learning-rate", "0"]) == 0
    before, after = load_model(run)[0], load_model(tmp_path / "run")[0]
    assert torch.equal(before.pos_emb.weight, after.pos_emb.weight)
    assert main([*words, "--emb-dim", "16"]) == 2
    assert "--init brings the model's sizes; leave out --emb-dim" in capsys.readouterr().err


def test_pretrain_starts_from_any_model_whose_vocabulary_fits(run, data, tmp_path, capsys):
    assert main(["weights", "export", str(run), str(tmp_path / "theirs")]) == 0
    words = ["--init", str(tmp_path / "theirs"), "--steps", "1", "--learning-rate", "0"]
    out = tmp_path / "run"
    assert main(["pretrain", "--data", str(data), "--out", str(out), *words]) == 0
    before, after = load_model(run)[0], load_model(out)[0]
    assert torch.equal(before.pos_emb.weight, after.pos_emb.weight)
    other = BytePairTokenizer.train("ab ab ab", vocab_size=258, special_tokens=())
    write_tokens(tmp_path / "other.bin", TEXT, other, progress=False)
    words = ["pretrain", "--data", str(tmp_path / "other.bin"), *words, "--out", str(tmp_path)]
    assert main(words) == 2
    assert "other.bin" in capsys.readouterr().err


def test_part_to_measure_is_what_the_run_has_not_learned_from(run, data, tmp_path):
    file = TokenFile(data)
    train, val = file.split(min_tokens=17)
    for name, part in (("train", train), ("val", val), ("all", file.whole)):
        found = part_to_measure(file, 16, name=name)
        assert (found[0], len(found[1])) == (name, len(part))
    assert part_to_measure(file, 16, run=run)[0] == "val"
    assert part_to_measure(file, 16, run=tmp_path)[0] == "all"
    with pytest.raises(ValueError, match="part 'test' is not known; there are train, val, all"):
        part_to_measure(file, 16, name="test")


def test_pretrain_without_data_says_what_makes_it(capsys):
    assert main(["pretrain"]) == 2
    assert "llm-scratch prepare TEXT --out tokens.bin makes it" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_pretrain_prints_the_whole_preset(name, capsys):
    assert main(["pretrain", "--preset", name, "--print-config"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["train"] == dataclasses.asdict(PRESETS[name].train)
    assert printed["model"] == dataclasses.asdict(PRESETS[name].model)


def test_pretrain_has_an_option_for_every_setting(capsys):
    words = ["--schedule", "linear", "--clip", "none", "--no-tune-allocator", "--beta2", "0.99"]
    assert main(["pretrain", "--print-config", *words]) == 0
    printed = json.loads(capsys.readouterr().out)["train"]
    assert printed["clip"] is None
    assert printed["tune_allocator"] is False
    assert (printed["schedule"], printed["beta2"]) == ("linear", 0.99)


def test_pretrain_refuses_a_text_that_is_too_short(tmp_path, capsys):
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    write_tokens(tmp_path / "short.bin", "twenty bytes of text", tokenizer, progress=False)
    assert main(["pretrain", "--data", str(tmp_path / "short.bin"), *SMALL]) == 2
    assert "the validation part has 2 of 20 tokens, needs 17" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["optimizer.safetensors", "model.safetensors"])
def test_pretrain_resume_says_which_checkpoint_is_damaged(data, tmp_path, capsys, damage):
    words = ["pretrain", "--data", str(data), "--out", str(tmp_path / "run"), *SMALL]
    assert main([*words, "--save-every", "3"]) == 0
    path = tmp_path / "run" / "checkpoints" / "step-00000006" / damage
    path.write_bytes(path.read_bytes()[:-7])
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert f"{path}: is damaged" in printed
    assert "continuing after step 3" in printed


def test_eval_prints_loss_perplexity_and_bits_per_byte(run, data, capsys):
    assert main(["eval", str(run), "--data", str(data), "--precision", "float32"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    noted = json.loads((run / "best.json").read_text(encoding="utf-8"))["val_loss"]
    val = TokenFile(data).split()[1]
    assert lines["part"] == f"val, {len(val) - 1} targets, 16 tokens per window"
    assert float(lines["loss"].split()[0]) == pytest.approx(noted, abs=1e-4)
    assert float(lines["perplexity"]) == pytest.approx(math.exp(noted), rel=1e-3)
    bits = float(lines["bits"].split()[-1])  # one id is one byte
    assert bits == pytest.approx(noted / math.log(2), abs=1e-3)


def test_eval_of_another_file_takes_all_of_it(run, data, tmp_path, capsys):
    write_tokens(tmp_path / "other.bin", TEXT[5:], TokenFile(data).tokenizer, progress=False)
    assert main(["eval", str(run), "--data", str(tmp_path / "other.bin")]) == 0
    assert capsys.readouterr().out.startswith(f"part           all, {len(TEXT) - 6:,} targets")


def test_eval_refuses_another_tokenizer(run, tmp_path, capsys):
    other = BytePairTokenizer.train("ab ab ab", vocab_size=258, special_tokens=())
    write_tokens(tmp_path / "other.bin", TEXT, other, progress=False)
    assert main(["eval", str(run), "--data", str(tmp_path / "other.bin")]) == 2
    assert "prepare the text with that one" in capsys.readouterr().err


def test_measure_of_a_model_that_knows_nothing_is_the_log_of_the_vocabulary():
    config = {"vocab_size": 64, "context_length": 8, "emb_dim": 8, "n_heads": 1, "n_layers": 1}
    model = GPTModel(config)
    for parameter in model.parameters():
        parameter.data.zero_()
    part = TokenPart.from_tokens(np.arange(60) % 64, 64)
    found = measure(model, part, 8, 3, np.full(64, 2))
    assert found.loss == pytest.approx(math.log(64))
    assert found.targets == 59
    assert found.bits_per_byte == pytest.approx(3.0)
    assert found.perplexity == pytest.approx(64)
    with pytest.raises(ValueError, match="length=9 is above the context length of 8"):
        measure(model, part, 9)


def test_plot_draws_several_runs(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "pictures" / "runs.png"
    assert main(["plot", str(run), str(run), "--out", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    assert main(["plot", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_plot_runs_keeps_the_numbers_of_the_log(run):
    pytest.importorskip("matplotlib")
    from llm_scratch.plotting.learning import plot_runs

    lines = read_metrics(run)
    loss, rate, norm = plot_runs({"a": lines, "b": lines}).axes
    assert [len(axes.get_lines()) for axes in (loss, rate, norm)] == [4, 2, 2]
    train, val = loss.get_lines()[:2]
    assert list(train.get_ydata()) == [line["loss"] for line in lines if "loss" in line]
    assert list(val.get_ydata()) == [line["val_loss"] for line in lines if "val_loss" in line]
    assert list(rate.get_lines()[0].get_xdata()) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="no run to draw"):
        plot_runs({})
