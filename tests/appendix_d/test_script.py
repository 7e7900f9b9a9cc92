"""`chapters/appendix_d_training.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "chapters" / "appendix_d_training.py"
# Read by Python before the script starts: every connection is refused.
OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise OSError("the script tried to reach the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
PICTURES = ("warmup", "cosine", "rates", "losses", "schedules")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One quick run from an empty folder, without a network or the book's texts."""
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


def test_script_trains_offline_on_the_bundled_story(run):
    _, output = run
    assert "llm-scratch fetch the-verdict brings it" in output
    rows = re.findall(r"Ep \d+ \(Iter \d{6}\): Train loss (\S+), Val loss (\S+)", output)
    losses = [float(train) for train, _ in rows]
    assert losses[0] > 10
    assert losses[-1] < 8
    assert output.count("Every effort moves you") == 1


def test_script_shows_the_schedule_by_hand_and_as_a_function(run):
    _, output = run
    assert output.count("Rate at step 0: 0.000100\n") == 2
    assert "The function gives the same rates: True" in output
    assert "cosine    first 0.00" in output
    assert len(re.findall(r"highest 0\.010000, last 0\.000010", output)) == 3


def test_script_clips_by_hand_and_a_model(run):
    _, output = run
    assert "Norm: 5.0\n" in output
    assert "[0.2000, 0.4000]" in output
    before, after = (float(x) for x in re.findall(r"^tensor\((\S+)\)$", output, re.MULTILINE))
    assert 0 < after <= before


def test_script_writes_only_under_its_output_folder(run):
    folder, _ = run
    expected = {f"appendix-d-{name}.png" for name in PICTURES}
    assert [path.name for path in folder.iterdir()] == ["chapter-output"]
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    if importlib.util.find_spec("matplotlib") is not None:
        assert written == expected
