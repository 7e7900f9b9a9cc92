"""`llm-scratch compare` and `pretrain --mix`, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from planted_runs import plant

from llm_scratch.cli import main
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.run_folder import read_metrics

SMALL = ["--emb-dim", "16", "--n-heads", "2", "--context-length", "16", "--steps", "6",
         "--eval-every", "3"]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Token files of two texts, and one of the first with another tokenizer."""
    folder = tmp_path_factory.mktemp("files")
    one, two = (
        BytePairTokenizer.train("ab ab ab", vocab_size=size, special_tokens=())
        for size in (256, 257)
    )
    write_tokens(folder / "tide.bin", "the tide comes in. " * 60, one, progress=False)
    write_tokens(folder / "clock.bin", "a clock counts. " * 40, one, progress=False)
    write_tokens(folder / "other.bin", "the tide comes in. " * 60, two, progress=False)
    return folder


def mix(files, *words):
    return ["pretrain", *SMALL, "--mix", *(f"{files}/{word}" for word in words)]


@pytest.fixture(scope="module")
def mixed(files, tmp_path_factory):
    """A run on two files."""
    out = tmp_path_factory.mktemp("runs") / "mixed"
    assert main([*mix(files, "tide.bin:0.75", "clock.bin:0.25"), "--out", str(out)]) == 0
    return out


def test_pretrain_mixes_files(mixed):
    facts = json.loads((mixed / "config.json").read_text(encoding="utf-8"))["data"]
    assert (facts["mix"], facts["kind"]) == ("tide:3/4 clock:1/4", "Mixture")
    measured = [line for line in read_metrics(mixed) if "val_loss" in line]
    for line in measured:
        parts = 0.75 * line["val_loss/tide"] + 0.25 * line["val_loss/clock"]
        assert line["val_loss"] == pytest.approx(parts)
    best = json.loads((mixed / "best.json").read_text(encoding="utf-8"))
    assert best["val_loss"] == min(line["val_loss"] for line in measured)


def test_pretrain_mixes_a_folder_of_parts_with_a_file(files, tmp_path, capsys):
    texts = [tmp_path / f"{name}.txt" for name in "ab"]
    for path in texts:
        path.write_text("a clock counts the hours. " * 30, encoding="utf-8")
    tokenizer = BytePairTokenizer.train("ab ab ab", vocab_size=257)
    tokenizer.save(tmp_path / "t.json")
    write_tokens(tmp_path / "one.bin", "the tide. " * 60, tokenizer, progress=False)
    for part in ("1/2", "2/2"):
        words = [*map(str, texts), "--tokenizer", str(tmp_path / "t.json"), "--part", part]
        assert main(["prepare", *words, "--out", str(tmp_path / "parts.v1")]) == 0
    words = mix(tmp_path, "parts.v1:0.75", "one.bin:0.25")
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    facts = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["data"]
    assert facts["mix"] == "parts.v1:3/4 one:1/4"


def test_pretrain_says_how_often_it_reads_each_file(mixed, files, capsys, tmp_path):
    words = mix(files, "tide.bin:0.75", "clock.bin:0.25")
    assert main([*words, "--out", str(tmp_path / "run"), "--micro-batch", "40"]) == 0
    said = capsys.readouterr().out
    assert "clock will be read 1.71 times: it has 35 windows, and 0.25 of the 240 of this" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tide.bin:0.5", "other.bin:0.5"), "a mix needs the same one: prepare the texts again"),
        (("tide.bin:0.5", "clock.bin:0.4"), "the shares sum to 0.9, which is not 1 within 0.001"),
        (("tide.bin:0.5", "clock.bin"), "must be FILE:SHARE, as web.bin:0.45"),
    ],
)
def test_pretrain_refuses_a_mix_in_one_line(files, words, message, capsys, tmp_path):
    assert main([*mix(files, *words), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_pretrain_takes_a_file_or_a_mix(files, capsys):
    with pytest.raises(SystemExit):
        main([*mix(files, "tide.bin:1"), "--data", str(files / "tide.bin")])
    assert "argument --data: not allowed with argument --mix" in capsys.readouterr().err


def test_pretrain_resumes_with_the_same_mix_only(mixed, files, capsys):
    words = [*mix(files, "tide.bin:0.5", "clock.bin:0.5"), "--out", str(mixed), "--resume"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "another mix: 'tide:3/4 clock:1/4' before, 'tide:1/2 clock:1/2' now" in said
    words = [*mix(files, "tide.bin:0.75", "clock.bin:0.25"), "--out", str(mixed), "--resume"]
    assert main(words) == 0
    assert "nothing left to do" in capsys.readouterr().out


def test_eval_of_a_file_of_a_mix_measures_what_was_not_learned(mixed, files, capsys):
    assert main(["eval", str(mixed), "--data", str(files / "clock.bin")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["part"].startswith("val, ")
    last = [line for line in read_metrics(mixed) if "val_loss" in line][-1]
    assert float(lines["loss"].split()[0]) == pytest.approx(last["val_loss/clock"], abs=1e-3)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    for seed in (1, 2, 3):
        plant(folder / f"base-{seed}", 3.6 + 0.01 * seed, seed=seed)
        plant(folder / f"low-{seed}", 3.4 + 0.01 * seed, seed=seed, learning_rate=0.001)
        plant(folder / f"same-{seed}", 3.605 + 0.009 * seed, seed=seed, weight_decay=0.01)
    return folder


def test_compare_prints_runs_and_the_settings_that_differ(planted, capsys):
    assert main(["compare", str(planted / "base-1"), str(planted / "low-2")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("run", "steps", "best", "loss", "at", "step", "training", "loss", "tokens/s")
    ]
    assert lines[2].split()[:6] == ["base-1", "200", "of", "200", "3.6100", "180"]
    assert lines[2].split()[-1] == "2,560"
    at = lines.index("settings that differ")
    assert [line.split(maxsplit=1) for line in lines[at + 1 :]] == [
        ["learning_rate", "0.003 (base-1); 0.001 (low-2)"],
        ["seed", "1 (base-1); 2 (low-2)"],
    ]


def test_compare_of_groups_says_what_is_larger_than_the_noise(planted, capsys):
    assert main(["compare", str(planted / "*"), "--group"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (table,) = (i for i, line in enumerate(lines) if line.startswith("group"))
    assert lines[table + 2].split() == ["base-1", "3", "3.6200", "±", "0.0100", "2,560"]
    (low,) = (line for line in lines if line.startswith("low-1 (learning_rate 0.001) against"))
    assert "against base-1: difference -0.2000, 95 % interval -0.2227 to -0.1773" in low
    assert "larger than the noise (Welch's t interval, 4.0 degrees of freedom)" in low
    (same,) = (line for line in lines if line.startswith("same-1 (weight_decay 0.01) against"))
    assert ", within the noise (Welch's t interval" in same


def test_compare_of_one_seed_each_says_that_the_noise_is_unknown(planted, capsys):
    assert main(["compare", str(planted / "base-1"), str(planted / "low-1"), "--group"]) == 0
    said = capsys.readouterr().out
    assert "against base-1: difference -0.2000; one seed: noise unknown" in said
    assert "one seed" in said.split("tokens/s")[-1]


def test_compare_of_seeds_alone_is_one_group(planted, capsys):
    assert main(["compare", str(planted / "base-*"), "--group"]) == 0
    assert "one group: the runs differ only in their seed" in capsys.readouterr().out


def test_compare_prints_json(planted, capsys):
    assert main(["compare", str(planted / "base-*"), str(planted / "low-*"), "--group",
                 "--json"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in found["runs"]][:2] == ["base-1", "base-2"]
    assert found["settings"]["learning_rate"]["low-1"] == 0.001
    assert found["groups"][0]["mean"] == pytest.approx(3.62)
    (difference,) = found["differences"]
    assert difference["larger_than_noise"] is True
    assert (difference["from"], difference["to"]) == ("base-1", "low-1 (learning_rate 0.001)")


def test_compare_writes_a_picture(planted, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "compare.png"
    words = ["compare", str(planted / "*"), "--group", "--json", "--picture", str(picture)]
    assert main(words) == 0
    assert picture.stat().st_size > 1000
    json.loads(capsys.readouterr().out)  # the line that names the picture goes elsewhere


def test_compare_of_a_mixed_run_shows_the_losses_of_its_parts(mixed, planted, capsys):
    assert main(["compare", str(mixed), str(planted / "base-1")]) == 0
    head, _, own, other = capsys.readouterr().out.splitlines()[:4]
    assert ["tide", "clock"] == [word for word in head.split() if word in ("tide", "clock")]
    assert len(own.split()) == len(other.split()) == 10
    assert other.split().count("-") == 2


def test_compare_refuses_what_is_no_run(tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_compare_loads_no_torch(planted):
    code = (
        "import sys\nfrom llm_scratch.cli import main\n"
        "main(['compare', sys.argv[1], sys.argv[2], '--group'])\nassert 'torch' not in sys.modules"
    )
    words = [sys.executable, "-c", code, str(planted / "base-1"), str(planted / "base-2")]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout
