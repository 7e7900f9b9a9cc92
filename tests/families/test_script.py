"""`chapters/ch05_bonus_llama.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import pytest
from smollm2 import smollm2_path

from llm_scratch.download import cache_folder

SCRIPT = Path(__file__).parents[2] / "chapters" / "ch05_bonus_llama.py"
pytestmark = pytest.mark.script(SCRIPT, "--quick")


def test_script_makes_each_change_and_counts_it(run):
    assert re.findall(r"^(.+): .* parameters \((.+)\)$", run.output, re.MULTILINE) == [
        ("RMSNorm", "-672"),
        ("SwiGLU", "-1,440"),
        ("RoPE", "-6,432"),
        ("No dropout", "+0"),
        ("Grouped queries", "-36,864"),
        ("Tied head", "-49,152"),
    ]


def test_script_holds_each_formula_equal_to_the_fast_function(run):
    differences = re.findall(r"by hand and fused: (\S+)", run.output)
    assert len(differences) == 4
    assert max(map(float, differences)) < 1e-4


def test_script_ends_its_changes_with_a_llama(run):
    (difference,) = re.findall(r"and LlamaModel: largest difference (\S+)", run.output)
    assert float(difference) < 1e-4


def test_script_shows_that_scores_depend_on_the_distance_alone(run):
    table = run.output.split("key at 1000\n")[1].splitlines()[:4]
    rows = [[float(number) for number in line.split()[1:]] for line in table]
    for row in rows:
        assert row == pytest.approx([row[0]] * 3, abs=0.002)
    assert len({round(row[0], 1) for row in rows}) > 1


@pytest.mark.parametrize(
    "line",
    [
        "GPT-2 124M          124 M       31% tied      12     12   36 KiB",
        "Llama 2 7B        6,738 M             2%      32     32  512 KiB",
        "Llama 3.1 8B      8,030 M             7%      32      8  128 KiB",
        "SmolLM2 135M        135 M       21% tied       9      3   22 KiB",
        "Cache of 64 tokens: 49,152 bytes, by the formula 49,152",
        "qkv_bias adds 480 parameters to 344,736",
        "qk_norm adds 96 parameters to 344,736",
        "That is Qwen 3's configuration: True",
        "A window of 16, 16 tokens, the same as without: True",
        "A window of 16, 17 tokens, the same as without: False",
        "Without RoPE, another order gives the same: True",
        "With RoPE, another order gives the same: False",
        "Llama 2 7B: at 25,705 tokens; its context is 4,096",
        "bfloat16: 6.7 tokens/s, 5.2 after 32,768; eight texts 16.2 in all",
    ],
)
def test_script_prints(run, line):
    assert f"\n{line}\n" in run.output


def test_script_stretches_slow_turns_and_keeps_fast_ones(run):
    times = re.findall(r"^Pair +\d+: .*, (\S+) times as long$", run.output, re.MULTILINE)
    assert times[0] == "1.0"
    assert times[-1] == "8.0"
    assert times == sorted(times)


def losses_of(output: str) -> dict[str, list[float]]:
    found = re.findall(r"^(.+?) +loss after \d+ steps: (.+)$", output, re.MULTILINE)
    return {name: [float(loss) for loss in losses.split(", ")] for name, losses in found}


def test_script_trains_every_variation(run):
    losses = losses_of(run.output)
    assert len(losses) == 7
    assert max(loss for found in losses.values() for loss in found) < math.log(512) - 0.5


def test_script_puts_speeds_beside_limits_that_follow_from_the_bytes(run):
    found = re.findall(r"^  (\w+) +(\S+) tokens/s, \d+% of (\S+)$", run.output, re.MULTILINE)
    assert [name for name, _, _ in found] == ["float32", "bfloat16", "int8"]
    speeds, limits = ([float(row[i].replace(",", "")) for row in found] for i in (1, 2))
    assert min(speeds) > 0
    assert limits[1] == pytest.approx(2 * limits[0], rel=0.05)
    assert limits[2] == pytest.approx(4 * limits[0], rel=0.05)


def test_script_says_how_to_get_smollm2_and_goes_on(run):
    command = (
        "pip install gguf" if importlib.util.find_spec("gguf") is None else "llm-scratch fetch"
    )
    assert command in run.output
    assert "continuing without" in run.output
    assert "im_start" not in run.output


def test_script_writes_its_pictures_and_nothing_else(run):
    names = ("cache", "rope-waves", "speeds", "wavelengths")
    pictures = {f"ch05-bonus-{name}.png" for name in names}
    if importlib.util.find_spec("matplotlib") is None:
        pictures = set()
    assert {path.name for path in run.folder.rglob("*.*")} == pictures


@pytest.mark.slow
@pytest.mark.script(SCRIPT)
def test_script_without_options_shows_what_rope_is_worth(run):
    losses = losses_of(run.output)
    assert {len(found) for found in losses.values()} == {3}
    assert max(losses["+ RoPE"]) < min(losses["+ SwiGLU"])


@pytest.mark.slow
@pytest.mark.script(SCRIPT, "--quick", LLM_SCRATCH_CACHE=str(cache_folder()))
def test_script_lets_smollm2_answer(run):
    pytest.importorskip("gguf")
    smollm2_path()
    assert "Its configuration is the one above: True" in run.output
    answer = run.output.split("<|im_start|>assistant\n")[1].splitlines()[0]
    assert len(answer.split()) > 5
    assert len(re.findall(r" tokens/s, \d+% of ", run.output)) == 6
