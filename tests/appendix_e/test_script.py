"""`chapters/appendix_e_lora.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "chapters" / "appendix_e_lora.py"
# Read by Python before the script starts: every connection is refused.
OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise OSError("the script tried to reach the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One quick run from an empty folder, without a network or the book's data."""
    folder = tmp_path_factory.mktemp("elsewhere")
    offline = tmp_path_factory.mktemp("offline")
    (offline / "sitecustomize.py").write_text(OFFLINE, encoding="utf-8")
    env = {key: value for key, value in os.environ.items() if key != "LLM_SCRATCH_DATA"}
    env |= {
        "PYTHONPATH": os.pathsep.join([str(offline), str(SCRIPT.parents[1])]),
        "LLM_SCRATCH_CACHE": str(folder / "cache"),
        "PYTHONIOENCODING": "utf-8",
    }
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"],
        cwd=folder,
        env=env,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def percents(output: str, name: str) -> list[float]:
    return [float(p) for p in re.findall(rf"^{name} accuracy: (\S+)%$", output, re.MULTILINE)]


def test_script_goes_on_with_the_messages_of_this_project(run):
    assert "llm-scratch fetch sms-spam brings it; going on with our own messages" in run[1]
    assert "llm-scratch weights fetch gpt2 brings it; pretraining a small model" in run[1]


def test_script_counts_as_the_book_does(run):
    _, output = run
    assert "Total trainable parameters before: 124,441,346" in output
    assert "Total trainable LoRA parameters: 2,666,528" in output
    assert "Total trainable parameters after: 0" in output


def test_script_says_the_same_before_lora_has_learned(run):
    for name in ("Training", "Validation", "Test"):
        before, with_zero_b, _ = percents(run[1], name)
        assert before == with_zero_b


def test_script_learns_with_lora(run):
    _, output = run
    assert percents(output, "Test")[-1] > 80
    assert "Training completed in" in output


def test_script_saves_loads_and_merges(run):
    _, output = run
    assert "The same answers: True" in output
    assert "1 of 36 tensors differ, the first is trf_blocks.1.norm1.scale" in output
    difference = float(re.search(r"Largest difference when merged: (\S+)", output)[1])
    assert difference < 1e-5
    assert "Unmerged, the outputs are equal: True" in output
    assert "0 LoRA layers are left" in output


def test_script_widens_the_margin_of_preferences(run):
    _, output = run
    assert "Before: loss 0.6931 (ln 2 = 0.6931), margin 0.00" in output
    assert float(re.search(r"After: loss \S+, margin (\S+) nats", output)[1]) > 0.3


def test_script_writes_only_under_its_output_folder(run):
    folder, _ = run
    drawn = {"appendix-e-loss.png"} if importlib.util.find_spec("matplotlib") else set()
    assert {path.name for path in folder.iterdir()} == {"chapter-output"}
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    assert written == {"appendix-e-adapter", *drawn}
