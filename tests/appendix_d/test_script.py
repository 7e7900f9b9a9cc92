"""`chapters/appendix_d_training.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "chapters" / "appendix_d_training.py"
pytestmark = pytest.mark.script(SCRIPT, "--quick")
PICTURES = ("warmup", "cosine", "rates", "losses", "schedules")


def test_script_trains_offline_on_the_bundled_story(run):
    output = run.output
    assert "llm-scratch fetch the-verdict gets it" in output
    rows = re.findall(r"Ep \d+ \(Iter \d{6}\): Train loss (\S+), Val loss (\S+)", output)
    losses = [float(train) for train, _ in rows]
    assert losses[0] > 10
    assert losses[-1] < 8
    assert output.count("Every effort moves you") == 1


def test_script_shows_the_schedule_by_hand_and_as_a_function(run):
    output = run.output
    assert output.count("Rate at step 0: 0.000100\n") == 2
    assert "The function gives the same rates: True" in output
    assert "cosine    first 0.00" in output
    assert len(re.findall(r"highest 0\.010000, last 0\.000010", output)) == 3


def test_script_clips_by_hand_and_a_model(run):
    output = run.output
    assert "Norm: 5.0\n" in output
    assert "[0.2000, 0.4000]" in output
    before, after = (float(x) for x in re.findall(r"^tensor\((\S+)\)$", output, re.MULTILINE))
    assert 0 < after <= before


def test_script_writes_only_under_its_output_folder(run):
    folder = run.folder
    expected = {f"appendix-d-{name}.png" for name in PICTURES}
    assert [path.name for path in folder.iterdir()] == ["chapter-output"]
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    if importlib.util.find_spec("matplotlib") is not None:
        assert written == expected
