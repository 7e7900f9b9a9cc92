"""`chapters/ch06_classify.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "chapters" / "ch06_classify.py"
pytestmark = pytest.mark.script(SCRIPT, "--quick")


def share_of(output: str, what: str) -> float:
    """The last percentage that is printed behind these words."""
    return float(re.findall(rf"^{re.escape(what)}[^%\n]*?(\d+\.\d\d)%", output, re.MULTILINE)[-1])


def test_script_goes_on_without_the_files_of_the_book(run):
    output = run.output
    assert "llm-scratch fetch sms-spam gets it" in output
    assert "llm-scratch weights fetch gpt2 gets it" in output


def test_script_balances_and_splits_the_messages(run):
    output = run.output
    rows = int(re.search(r"Rows and columns: \((\d+), 2\)", output)[1])
    assert rows > 1000
    ham, spam = re.search(r"Balanced: \{'ham': (\d+), 'spam': (\d+)\}", output).groups()
    assert ham == spam
    sizes = re.search(r"Training, validation, test: (\d+) (\d+) (\d+)", output).groups()
    assert sum(map(int, sizes)) == 2 * int(ham)
    assert "\n[50256]\n" in output


def test_script_learns_to_tell_spam(run):
    output = run.output
    assert share_of(output, "Test accuracy of counted words") > 80
    assert share_of(output, "Test accuracy: ") > 80
    losses = [float(loss) for loss in re.findall(r"Train loss (\S+),", output)]
    assert min(losses) < losses[0]  # each is of five batches drawn at random


def test_script_says_the_same_in_another_process(run):
    assert re.search(r"Another process says the same of all \d+ test messages: True", run.output)


def test_script_solves_the_exercises(run):
    output = run.output
    for what in ("Padded to the whole context of", "All layers trained", "Read at the first token"):
        assert share_of(output, what) > 0
    assert share_of(output, "All layers trained") > share_of(output, "Read at the first token")


def test_script_writes_only_under_its_output_folder(run):
    folder = run.folder
    pictures = {"ch06-accuracy.png", "ch06-confusion.png", "ch06-loss.png"}
    if importlib.util.find_spec("matplotlib") is None:
        pictures = set()
    assert [path.name for path in folder.iterdir()] == ["chapter-output"]
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    assert written == {"review_classifier.pth", "ch06-classifier", *pictures}


@pytest.mark.slow
@pytest.mark.script(SCRIPT)
def test_script_reaches_95_percent(run):
    output = run.output
    assert share_of(output, "Test accuracy: ") >= 95
    assert "test messages: True" in output
