"""The script of chapter 4 runs, from any folder, and prints what the book prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "chapters" / "ch04_gpt.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ch04")


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"],
        cwd=folder,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "line",
    [
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
    ],
)
def test_script_prints_a_line_of_the_book(printed, line):
    assert line in printed.splitlines()


def test_script_saves_its_picture_under_the_folder_it_runs_in(printed, folder):
    pictures = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert pictures == ["chapter-output", "chapter-output/ch04-gelu-relu.png"]
