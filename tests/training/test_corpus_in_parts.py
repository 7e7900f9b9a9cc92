"""A run on a folder of parts is bit for bit the run on the one file."""

from __future__ import annotations

import json

import pytest
from short_runs import timeless

from llm_scratch.cli import main
from llm_scratch.text.part_writing import write_parts
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.measuring import part_to_measure

SMALL = ["--steps", "8", "--context-length", "16", "--emb-dim", "16", "--n-heads", "2",
         "--n-layers", "1", "--micro-batch", "4", "--sample-every", "0", "--log-every", "0",
         "--eval-every", "4", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module", params=["one text", "documents"])
def both(request, tmp_path_factory):
    """A corpus as one file and in five parts."""
    folder, tokenizer = tmp_path_factory.mktemp("both"), BytePairTokenizer([])
    lines = [f"line {number} says {number * number} and no more" for number in range(120)]
    if request.param == "one text":
        path = folder / "a.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        path = folder / "a.jsonl"
        path.write_text("\n".join(json.dumps({"text": line}) for line in lines), encoding="utf-8")
    write_tokens(folder / "file", path, tokenizer, progress=False)
    write_parts(folder / "parts", path, tokenizer, parts=5, progress=False)
    return folder / "file", folder / "parts"


def test_a_run_on_parts_is_the_run_on_the_file_to_the_bit(both, tmp_path, capsys):
    said, runs = [], [tmp_path / data.name for data in both]
    for data, run in zip(both, runs, strict=True):
        assert main(["pretrain", "--data", str(data), "--out", str(run), *SMALL]) == 0
        capsys.readouterr()
        assert main(["eval", str(run), "--data", str(data)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].startswith("part           val, ")
    assert timeless(runs[0]) == timeless(runs[1])
    weights, configs = ([(run / name).read_bytes() for run in runs]
                        for name in ("model.safetensors", "config.json"))  # fmt: skip
    assert weights[0] == weights[1]
    assert configs[0] == configs[1]


def test_a_run_goes_on_with_parts_in_the_place_of_the_file(both, tmp_path, capsys):
    file, parts = both
    runs = [tmp_path / "whole", tmp_path / "changed"]
    for data, run in ((file, runs[0]), (parts, runs[1])):
        words = ["pretrain", "--out", str(run), *SMALL]
        assert main([*words, "--data", str(file), "--steps", "4"]) == 0
        assert main([*words, "--data", str(data), "--resume"]) == 0
    assert timeless(runs[0]) == timeless(runs[1])
    assert part_to_measure(TokenFile(parts), 16, run=runs[0])[0] == "val"


def test_a_missing_part_ends_a_run_before_it_begins(both, tmp_path, capsys):
    folder = tmp_path / "parts"
    folder.mkdir()
    for path in both[1].iterdir():
        if "00004" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    assert main(["pretrain", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL]) == 2
    assert "parts lacks part 4 of 5: the same llm-scratch prepare" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
