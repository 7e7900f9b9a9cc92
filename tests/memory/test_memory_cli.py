"""`llm-scratch memory estimate`, `check` and `suggest`: what they print; a line for mistakes."""

from __future__ import annotations

import json

import pytest

from llm_scratch.cli import main

SMALL = ["preset:tiny", "--batch", "2", "--length", "32"]


def printed(capsys, *words: str, code: int = 0) -> str:
    assert main(["memory", *words]) == code
    return capsys.readouterr().out


def test_estimate_prints_terms_formulas_and_both_peaks(capsys) -> None:
    words = ["--length", "2048", "--gpus", "8", "--shard", "full", "--precision", "bfloat16"]
    text = printed(capsys, "estimate", "llama3-8b", *words)
    parts = ["p S", "gathered parameters", "backward, MiB", "optimizer's step, MiB", "in all"]
    parts += ["Peak of each process: ", "decides", "Not counted:", "unchecked", "Letters:"]
    for part in parts:
        assert part in text


def test_estimate_as_json_adds_up(capsys) -> None:
    values = json.loads(printed(capsys, "estimate", *SMALL, "--json"))
    assert sum(term["bytes"] for term in values["backward"]["terms"]) == values["bytes"]
    assert values["step"]["rows"] == 2


def test_offloaded_parts_are_shown_for_the_host(capsys) -> None:
    text = printed(capsys, "estimate", *SMALL, "--gpus", "2", "--shard", "full", "--offload")
    assert "in the host's memory, for each process" in text


def test_generation_is_estimated(capsys) -> None:
    text = printed(capsys, "estimate", "gpt2", "--generate", "--weights", "int8")
    assert "matrices in 8 bits" in text
    assert "keys and values" in text
    values = json.loads(printed(capsys, "estimate", "gpt2", "--generate", "--json"))
    assert values["bytes"] > 4 * 124_439_808


def test_other_tools_are_quoted_with_their_version(capsys) -> None:
    text = printed(capsys, "estimate", "llama3-8b", "--like", "deepspeed", "--gpus", "8")
    assert "deepspeed 0.14.2" in text
    assert "17.68" in text
    assert "deepspeed leaves out:" in text
    text = printed(capsys, "estimate", "llama3-8b", "--like", "accelerate")
    assert "111.83 GB" in text
    newer = ["--like", "deepspeed", "--like-version", "0.19.2", "--gpus", "8", "--json"]
    values = json.loads(printed(capsys, "estimate", "llama3-8b", *newer))
    assert values["tables"]["ZeRO-2, 8 GPUs of one node"][1]["each GPU, GiB"] == "29.71"


def test_suggest_prints_the_ladder_and_its_price(capsys) -> None:
    words = ["llama3-8b", "--memory", "40GiB", "--gpus", "8", "--length", "2048"]
    text = printed(capsys, "suggest", *words)
    parts = ["Take: --loss-chunk 1024 --checkpoint-blocks 1 --shard full", "What that costs:"]
    parts += ["a third more computing", "15 % is left", "is missing", "largest batch"]
    for part in parts:
        assert part in text
    values = json.loads(printed(capsys, "suggest", *words, "--json"))
    assert values["take"].startswith("--loss-chunk 1024")
    text = printed(capsys, "suggest", "llama3-8b", "--memory", "2GiB", "--length", "64", code=1)
    assert "Nothing on this ladder fits" in text


def test_check_puts_both_side_by_side(capsys) -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    text = printed(capsys, "check", *SMALL)
    assert "followed tensor by tensor" in text
    values = json.loads(printed(capsys, "check", *SMALL, "--json"))
    assert values["difference_percent"] == pytest.approx(0, abs=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["estimate", "gpt2", "--length", "2000"], "above the model's context length of 1024"),
        (["estimate", "gpt2", "--batch", "0"], "rows=0 must be 1 or more"),
        (["estimate", "gpt2", "--shard", "full"], "divides a model among several processes"),
        (["estimate", "gpt2", "--gpus", "4", "--shard", "full", "--mesh", "2x3"],
         "needs 6 processes, not 4"),
        (["estimate", "gpt2", "--gpus", "4", "--offload"], "goes with --shard full"),
        (["estimate", "gpt2", "--gpus", "2000", "--shard", "full"], "more processes than"),
        (["estimate", "gpt2", "--lora", "4", "--last-blocks", "2"], "both say what learns"),
        (["estimate", "gpt2", "--weights", "bfloat16", "--precision", "float16"],
         "compute in bfloat16"),
        (["estimate", "gpt2", "--weights", "int8"], "weights='int8'"),
        (["estimate", "gpt2", "--like-version", "1"], "goes with --like"),
        (["estimate", "nothing-of-that-name"], "no model nothing-of-that-name"),
        (["estimate", "gpt2", "--engine", "deepspeed"], "models of Llama's family"),
        (["check", "smollm2", "--engine", "deepspeed", "--length", "8"], "deepspeed"),
        (["suggest", "gpt2", "--memory", "8GiB", "--headroom", "2"], "from 0 to below 1"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(capsys, words, message) -> None:
    assert main(["memory", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_memory_of_nothing_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["memory", "suggest", "gpt2", "--memory", "0"])
    assert "must be a size above 0" in capsys.readouterr().err
