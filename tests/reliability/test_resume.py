"""A run that is killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llm_scratch.training.checkpoints import checkpoints_in, newest_whole, verify
from llm_scratch.training.run_folder import read_lines

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="needs a system that forks processes"
)
CHILD = Path(__file__).with_name("resume_child.py")
ROOT = Path(__file__).parents[2]


class Trainer:
    """The process that forks the runs."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def start(self, folder: Path) -> int:
        """Let a run begin or go on, and return the number of its process."""
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        return int(self.wait_for("started")[0])

    def ended(self) -> tuple[int, list[str]]:
        """Wait for the end of the run: its exit code, and the lines that it printed."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        code, lines = self.wait_for("ended")
        return int(code), lines

    def wait_for(self, word: str) -> tuple[str, list[str]]:
        """Read lines up to one that begins with a word: what follows it, and those before."""
        lines = []
        for line in self.process.stdout:
            if line.startswith(f"{word} "):
                return line.split()[1], lines
            lines.append(line)
        raise AssertionError(f"the trainer ended with {self.process.wait()}")

    def finish(self, folder: Path) -> list[str]:
        """Let a run go on to its end: what it printed."""
        self.start(folder)
        code, lines = self.ended()
        assert code == 0, "".join(lines)
        return lines


@pytest.fixture(scope="module")
def trainer():
    trainer = Trainer()
    yield trainer
    trainer.process.stdin.close()
    trainer.process.wait(timeout=60)


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
    """The folder of a run that nobody stopped, and how long it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer.start(folder)
    start = time.monotonic()
    assert trainer.ended()[0] == 0
    return folder, time.monotonic() - start


def metrics(folder: Path) -> list[dict]:
    lines = read_lines(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(folder: Path, other: Path) -> None:
    assert metrics(folder) == metrics(other)
    for name in ("model.safetensors", "checkpoints/step-00000040/model.safetensors"):
        assert load_file(folder / name).keys() == load_file(other / name).keys()
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def killed_often(trainer: Trainer, folder: Path, duration: float, kills: int, seed: int) -> None:
    """Kill a run at random moments of its whole duration, each time from where it stood."""
    moments = random.Random(seed)
    landed = 0
    while landed < kills:
        process = trainer.start(folder)
        # The last part is left out, so that most kills find the run alive.
        time.sleep(moments.uniform(0, duration * min(0.5, 3 / kills)))
        os.kill(process, signal.SIGKILL)
        code, lines = trainer.ended()
        assert code in (0, -signal.SIGKILL), "".join(lines)
        landed += code == -signal.SIGKILL
        if code == 0:  # it was done already: start again, and continue to count
            shutil.rmtree(folder)
    trainer.finish(folder)


def test_run_killed_3_times_equals_one_that_was_not(trainer, whole, tmp_path):
    folder, duration = whole
    killed_often(trainer, tmp_path / "run", duration, kills=3, seed=1)
    assert_same_run(tmp_path / "run", folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_run_killed_25_times_equals_one_that_was_not(trainer, whole, tmp_path, seed):
    folder, duration = whole
    killed_often(trainer, tmp_path / "run", duration, kills=25, seed=seed)
    assert_same_run(tmp_path / "run", folder)


def cut_short(trainer: Trainer, folder: Path, steps: int) -> None:
    """Kill a run once it has a checkpoint of a step or later."""
    process = trainer.start(folder)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = checkpoints_in(folder / "checkpoints")
        if len(found) == 2 and found[0].name >= f"step-{steps:08d}":
            break
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    trainer.ended()


@pytest.mark.parametrize("damage", ["truncated", "bit"])
def test_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    trainer, whole, tmp_path, damage
):
    folder = tmp_path / "run"
    cut_short(trainer, folder, 9)
    newest = newest_whole(folder / "checkpoints", lambda line: None)
    path = newest / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    lines = "".join(trainer.finish(folder))
    assert f"{path}: is damaged" in lines
    assert "the previous checkpoint is step-" in lines
    assert_same_run(folder, whole[0])


def test_run_without_a_whole_checkpoint_starts_again_and_says_so(trainer, whole, tmp_path):
    folder = tmp_path / "run"
    cut_short(trainer, folder, 6)
    for checkpoint in checkpoints_in(folder / "checkpoints"):
        (checkpoint / "manifest.json").write_text("{", encoding="utf-8")
    assert "no whole checkpoint: starting at step 0" in "".join(trainer.finish(folder))
    assert_same_run(folder, whole[0])
    for checkpoint in checkpoints_in(folder / "checkpoints"):
        verify(checkpoint)
