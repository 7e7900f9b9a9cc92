"""`chapters/appendix_e_lora.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "chapters" / "appendix_e_lora.py"
pytestmark = pytest.mark.script(SCRIPT, "--quick")


def percents(output: str, name: str) -> list[float]:
    return [float(p) for p in re.findall(rf"^{name} accuracy: (\S+)%$", output, re.MULTILINE)]


def test_script_goes_on_with_the_messages_of_this_project(run):
    assert "llm-scratch fetch sms-spam gets it; continuing with our own messages" in run.output
    assert "llm-scratch weights fetch gpt2 gets it; pretraining a small model" in run.output


def test_script_counts_as_the_book_does(run):
    output = run.output
    assert "Total trainable parameters before: 124,441,346" in output
    assert "Total trainable LoRA parameters: 2,666,528" in output
    assert "Total trainable parameters after: 0" in output


def test_script_says_the_same_before_lora_has_learned(run):
    for name in ("Training", "Validation", "Test"):
        before, with_zero_b, _ = percents(run.output, name)
        assert before == with_zero_b


def test_script_learns_with_lora(run):
    output = run.output
    assert percents(output, "Test")[-1] > 80
    assert "Training completed in" in output


def test_script_saves_loads_and_merges(run):
    output = run.output
    assert "The same answers: True" in output
    assert "1 of 36 tensors differ, the first is trf_blocks.1.norm1.scale" in output
    difference = float(re.search(r"Largest difference when merged: (\S+)", output)[1])
    assert difference < 1e-5
    assert "Unmerged, the outputs are equal: True" in output
    assert "0 LoRA layers are left" in output


def test_script_widens_the_margin_of_preferences(run):
    output = run.output
    assert "Before: loss 0.6931 (ln 2 = 0.6931), margin 0.00" in output
    assert float(re.search(r"After: loss \S+, margin (\S+) nats", output)[1]) > 0.3


def test_script_writes_only_under_its_output_folder(run):
    folder = run.folder
    drawn = {"appendix-e-loss.png"} if importlib.util.find_spec("matplotlib") else set()
    assert {path.name for path in folder.iterdir()} == {"chapter-output"}
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    assert written == {"appendix-e-adapter", *drawn}
