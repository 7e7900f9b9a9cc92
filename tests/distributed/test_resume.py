"""Runs of several processes that are killed go on as if nothing had happened."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from ranks_server import Group, RankServer, alive, finished, torchrun, wait_until
from run_cases import STEPS, outcome

pytestmark = pytest.mark.long
CASES = ("gpt-optimizer-tied", "gpt-full-meta")
NUMBERS = ("losses", "norms", "validation", "samples")


def assert_same_run(folder: Path, other: Path) -> None:
    one, two = outcome(folder), outcome(other)
    assert all(one[name] == two[name] for name in NUMBERS)
    for name in ("model.safetensors", "final.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def finish(server: RankServer, folder: Path, case: str, count: int = 2) -> None:
    ended = server.run(count, "go_on", str(folder), case)
    assert ended.codes == [0] * count, ended.outputs


@pytest.mark.parametrize("case", CASES)
def test_run_killed_20_times_equals_one_that_was_not(server, tmp_path, case):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(server, whole, case)
    moments, landed = random.Random(1), 0
    while landed < 20:
        # What waits for one that was killed before they had met notices by the time-out alone.
        group = server.start(2, "go_on", str(folder), case, 0.02, 30)
        # At a step, or a little later; or at the start, where the run is further already.
        wait_for_step(folder, moments.randint(0, STEPS), group)
        time.sleep(moments.choice((0, moments.uniform(0, 0.2))))
        killed = moments.choice(((), (0,), (1,)))  # all of them, or one
        group.kill(*killed)
        codes = group.ended().codes
        assert set(codes) <= {0, 1, -signal.SIGKILL}, codes
        landed += -signal.SIGKILL in codes
        if not any(codes):  # it was done already: start again, and continue to count
            assert_same_run(folder, whole)
            shutil.rmtree(folder)
    finish(server, folder, case)
    assert_same_run(folder, whole)


def wait_for_step(folder: Path, step: int, group: Group) -> None:
    """Wait until a run has logged a step, or its processes have ended."""
    log = folder / "metrics.jsonl"

    def there() -> bool:
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        last = max(map(int, re.findall(r'"step": (\d+)', text)), default=0)
        return last >= step or not any(map(alive, group.processes))

    wait_until(there)


@pytest.mark.parametrize("case", CASES)
def test_run_of_four_goes_on_with_two(server, tmp_path, case):
    finish(server, tmp_path / "4" / case, case, 4)
    found = outcome(tmp_path / "4" / case)
    ended = server.run(2, "cases", str(tmp_path), f"{case}@4")
    assert ended.codes == [0, 0], ended.outputs
    again = outcome(tmp_path / "2" / f"{case}@4")
    assert len(again["losses"]) == len(found["losses"]) == 20
    for one, other in zip(found["losses"], again["losses"], strict=True):
        assert abs(one - other) <= 1e-5


def test_torchrun_goes_on_by_itself_after_three_kills(server, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    finish(server, whole, "gpt-full-meta")
    script = tmp_path / "script.py"
    call = "rank_jobs.killed_at(sys.argv[1], 'gpt-full-meta', 5, 9, 16)"
    script.write_text(f"import rank_jobs, sys\n{call}\n", encoding="utf-8")
    options = ("--standalone", "--local-addr", "localhost", "--max-restarts", "3")
    code, output = finished(torchrun(2, script, folder, options=options))
    assert code == 0, output
    for step in (4, 8, 16):
        assert f"continuing after step {step}, from" in output
    assert_same_run(folder, whole)
