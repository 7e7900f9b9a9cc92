"""`chapters/ch06_classify.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "chapters" / "ch06_classify.py"
# Read by Python before the script starts: every connection is refused.
OFFLINE = """
import socket

def refuse(*args, **kwargs):
    raise OSError("the script tried to reach the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def run_script(tmp_path_factory, *options: str) -> tuple[Path, str]:
    """A run from an empty folder, without a network or the book's data: the folder, the output."""
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
        [sys.executable, str(SCRIPT), *options],
        cwd=folder,
        env=env,
        capture_output=True,
        encoding="utf-8",
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_script(tmp_path_factory, "--quick")


def share_of(output: str, what: str) -> float:
    """The last percentage that is printed behind these words."""
    return float(re.findall(rf"^{re.escape(what)}[^%\n]*?(\d+\.\d\d)%", output, re.MULTILINE)[-1])


def test_script_goes_on_without_the_files_of_the_book(run):
    _, output = run
    assert "llm-scratch fetch sms-spam brings it" in output
    assert "llm-scratch weights fetch gpt2 brings it" in output


def test_script_balances_and_splits_the_messages(run):
    _, output = run
    rows = int(re.search(r"Rows and columns: \((\d+), 2\)", output)[1])
    assert rows > 1000
    ham, spam = re.search(r"Balanced: \{'ham': (\d+), 'spam': (\d+)\}", output).groups()
    assert ham == spam
    sizes = re.search(r"Training, validation, test: (\d+) (\d+) (\d+)", output).groups()
    assert sum(map(int, sizes)) == 2 * int(ham)
    assert "\n[50256]\n" in output


def test_script_learns_to_tell_spam(run):
    _, output = run
    assert share_of(output, "Test accuracy of counted words") > 80
    assert share_of(output, "Test accuracy: ") > 80
    losses = [float(loss) for loss in re.findall(r"Train loss (\S+),", output)]
    assert losses[-1] < losses[0]


def test_script_says_the_same_in_another_process(run):
    assert re.search(r"Another process says the same of all \d+ test messages: True", run[1])


def test_script_solves_the_exercises(run):
    _, output = run
    for what in ("Padded to the whole context of", "All layers trained", "Read at the first token"):
        assert share_of(output, what) > 0
    assert share_of(output, "All layers trained") > share_of(output, "Read at the first token")


def test_script_writes_only_under_its_output_folder(run):
    folder, _ = run
    pictures = {"ch06-accuracy.png", "ch06-confusion.png", "ch06-loss.png"}
    if importlib.util.find_spec("matplotlib") is None:
        pictures = set()
    assert [path.name for path in folder.iterdir()] == ["chapter-output"]
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    assert written == {"review_classifier.pth", "ch06-classifier", *pictures}


@pytest.mark.slow
def test_script_reaches_95_percent(tmp_path_factory):
    _, output = run_script(tmp_path_factory)
    assert share_of(output, "Test accuracy: ") >= 95
    assert "test messages: True" in output
