"""The script of chapter 4 runs, from any folder, and prints what the book prints."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "chapters" / "ch04_gpt.py"
# What the book prints, in its order, with lines left out in between.
BOOK_LINES = (
    "Output shape: torch.Size([2, 4, 50257])",
    "tensor([[0.2260, 0.3470, 0.0000, 0.2216, 0.0000, 0.0000],",
    "        [0.9997]], grad_fn=<VarBackward0>)",
    "Total number of parameters: 163,009,536",
    "Number of trainable parameters considering weight tying: 124,412,160",
    "Total size of the model: 621.83 MB",
    "Output: tensor([[15496,    11,   314,   716, 27018, 24086, 47843, 30961, 42348,  7267]])",
    "Hello, I am Featureiman Byeswickattribute argue",
    "Feed-forward network: 4,722,432",
    "Attention: 2,360,064",
    "Total number of parameters: 838,220,800",
)
pytestmark = pytest.mark.script(SCRIPT, "--quick")


def test_script_prints_what_the_book_prints(run):
    lines = iter(run.output.splitlines())
    for expected in BOOK_LINES:
        assert expected in lines, f"{expected!r} is missing, or comes too early"  # moves on


def test_script_saves_its_picture_under_the_folder_it_runs_in(run):
    pictures = sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*"))
    assert pictures == ["chapter-output", "chapter-output/ch04-gelu-relu.png"]
