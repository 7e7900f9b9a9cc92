"""`llm-scratch pretrain --estimate`, as a user calls it."""

from __future__ import annotations

import pytest

from llm_scratch.cli import main
from llm_scratch.cli.outlook import in_hours
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.step import TrainingStep
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training import timing
from llm_scratch.training.presets import PRESETS

SMALL = ["--emb-dim", "16", "--n-heads", "2", "--context-length", "16"]


def lines_of(capsys) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


def test_estimate_of_the_series_base_model_at_its_rate(capsys):
    """The series' card took 19,921 tokens per second, and 44 hours or a little more."""
    words = ["pretrain", "--preset", "163M", "--estimate", "--rate", "19921", "--device", "cpu"]
    assert main([*words, "--precision", "float32"]) == 0
    found = lines_of(capsys)
    assert found["model"] == "163,009,536 parameters, a vocabulary of 50,257"
    assert found["run"] == "33,165 steps of 16 x 6 x 1024 = 98,304 tokens"
    assert found["tokens"] == "3,260,252,160, 20 per parameter"
    assert found["rate"] == "19,921 tokens per second, as given"
    assert found["time"] == "45.5 hours, without evaluations and checkpoints"


def test_estimate_has_the_memory_of_the_step(capsys):
    """What `memory estimate` says of the same step; the states alone take 16 bytes a parameter."""
    words = ["pretrain", "--preset", "163M", "--estimate", "--rate", "1", "--device", "cpu"]
    assert main([*words, "--precision", "float32", "--micro-batch", "2"]) == 0
    said = lines_of(capsys)["memory"]
    step = TrainingStep(PRESETS["163M"].model, rows=2, accumulation=48, device="cpu")
    found = estimate_memory(step).bytes
    assert found > 16 * 163_009_536
    assert said.startswith(f"{found / 2**30:,.2f} GiB at the peak on cpu: ")
    assert "parameters 0.61 GiB" in said
    assert main([*words, "--precision", "float32", "--micro-batch", "4"]) == 0
    more = float(lines_of(capsys)["memory"].split()[0])
    assert more > found / 2**30


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    write_tokens(folder / "tide.bin", "the tide comes in. " * 60, tokenizer, progress=False)
    write_tokens(folder / "clock.bin", "a clock counts. " * 40, tokenizer, progress=False)
    return folder


def test_estimate_measures_a_few_steps_here(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(timing, "_seconds", lambda *rest: asked.append(rest) or 0.5)
    words = ["pretrain", "--estimate", *SMALL, "--steps", "7200", "--micro-batch", "4"]
    assert main([*words, "--device", "cpu"]) == 0
    found = lines_of(capsys)
    assert found["rate"] == "128 tokens per second, measured here in 3 steps on cpu"
    assert found["time"] == "1.0 hours, without evaluations and checkpoints"
    assert len(asked) == 4


def test_estimate_says_how_often_data_is_read(files, capsys):
    words = ["pretrain", "--estimate", "--rate", "1000", *SMALL, "--steps", "63"]
    assert main([*words, "--micro-batch", "1", "--data", str(files / "tide.bin")]) == 0
    found = lines_of(capsys)
    assert found["data"] == "will be read 0.984 times: the training part has 64 windows"
    assert found["model"].endswith("a vocabulary of 256")
    mix = [f"{files}/tide.bin:0.5", f"{files}/clock.bin:0.5"]
    assert main([*words, "--micro-batch", "4", "--mix", *mix]) == 0
    said = capsys.readouterr().out
    assert "data    tide will be read 1.97 times: it has 64 windows" in said
    assert "data    clock will be read 3.6 times: it has 35 windows" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "5"], "--rate goes with --estimate"),
        (["--estimate", "--rate", "0"], "--rate 0 must be above 0"),
        (["--estimate", "--resume"], "leave out --resume"),
        (["--estimate", "--init", "gpt2"], "leave out --init"),
    ],
)
def test_estimate_refuses(words, message, capsys):
    assert main(["pretrain", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5.2, "5.2 seconds"), (90, "1.5 minutes"), (7200, "2.0 hours"),
     (3600 * 72, "72.0 hours (3.0 days)")],
)  # fmt: skip
def test_times_are_in_words(seconds, words):
    assert in_hours(seconds) == words
