"""`chapters/ch05_pretrain.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from llm_scratch.text.corpora import load_text

SCRIPT = Path(__file__).parents[2] / "chapters" / "ch05_pretrain.py"
BEGINNINGS = ("The clock", "Every effort moves you", "In the morning")
pytestmark = pytest.mark.script(SCRIPT, "--quick")


def test_script_trains_offline_on_the_bundled_story(run):
    output = run.output
    assert "llm-scratch fetch the-verdict gets it" in output
    rows = re.findall(r"Ep \d+ \(Step \d{6}\): Train loss (\S+), Val loss (\S+)", output)
    losses = [float(train) for train, _ in rows]
    assert losses[0] > 10
    assert losses[-1] < 7
    assert output.count("Every effort moves you") > 5


def test_script_explains_the_start(run):
    assert "Expected at the start: ln 50257 = 10.82" in run.output


@pytest.mark.parametrize(
    "line",
    ["73 x closer", "582 x forward", "343 x toward", "985 x forward", "32 x pizza"],
)
def test_script_draws_the_words_of_the_book(run, line):
    assert f"\n{line}\n" in run.output


def test_script_loads_what_it_saved(run):
    output = run.output
    saved, loaded = re.findall(r"Validation loss when (?:saved|loaded): (\S+)", output)
    assert saved == loaded


def test_script_solves_the_exercises(run):
    output = run.output
    assert "Drawn 32 times in 1000 at temperature 5" in output
    assert "Probability at temperature 5: 0.0430" in output
    assert output.count("gives the greedy text: True") == 2
    before, after = output.split("One more epoch from")
    last = float(re.findall(r"Train loss (\S+),", before)[-1])
    assert float(re.findall(r"Train loss (\S+),", after)[-1]) < last


def test_script_ends_with_what_the_model_writes(run):
    lines = run.output.rstrip().splitlines()[-3:]
    for line, beginning in zip(lines, BEGINNINGS, strict=True):
        assert line.startswith(f"* {beginning}")
        assert len(line.split()) > 15


@pytest.mark.slow
@pytest.mark.script(SCRIPT)
def test_script_without_options_learns_the_story(run):
    output = run.output
    losses = [float(loss) for loss in re.findall(r"\(Step \d{6}\): Train loss (\S+),", output)]
    assert losses[0] > 10
    assert losses[-1] < 1
    story = load_text("the-tide-clock").split()
    words = " ".join(output.rstrip().splitlines()[-3:]).split()
    assert sum(word in story for word in words) > 0.8 * len(words)


def test_script_writes_only_under_its_output_folder(run):
    folder = run.folder
    pictures = {"ch05-losses.png", "ch05-sampling.png", "ch05-temperatures.png"}
    if importlib.util.find_spec("matplotlib") is None:
        pictures = set()
    assert [path.name for path in folder.iterdir()] == ["chapter-output"]
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    assert written == {"model_and_optimizer.pth", *pictures}
