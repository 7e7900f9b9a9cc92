"""Two hosts train as one does, and a cut cable ends both."""

from __future__ import annotations

import os
import time

import pytest
from ranks_server import finished, wait_until
from run_cases import outcome
from two_hosts import ADDRESSES, set_cable, start_on, two_hosts

from llm_scratch.training.checkpoints import newest_whole

pytestmark = pytest.mark.long
CASE = "gpt-full-meta"
TIMEOUT, GRACE = 20, 60  # seconds: of the processes, and what torchrun and Python take beside it


@pytest.fixture(scope="module")
def hosts():
    try:
        with two_hosts():
            yield
    except OSError as err:
        pytest.skip(str(err))


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The run of two processes on one host."""
    folder = tmp_path_factory.mktemp("one-host") / "run"
    ended = server.run(2, "go_on", str(folder), CASE)
    assert ended.codes == [0, 0], ended.outputs
    return outcome(folder)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    # As many as each of two processes on one host has; another number rounds in another way.
    threads = max(1, (os.cpu_count() or 1) // 2)
    call = f"rank_jobs.go_on(sys.argv[1], '{CASE}', *map(float, sys.argv[2:]))"
    lines = ["import rank_jobs, sys, torch", f"torch.set_num_threads({threads})", call, ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def found_each_other(host: int) -> list[str]:
    """Return the options by which torchrun's hosts find each other."""
    return [
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--rdzv-id", "1",
        "--local-addr", ADDRESSES[host], "--rdzv-conf", f"is_host={'false' if host else 'true'}",
    ]  # fmt: skip


def told_each_other(host: int) -> list[str]:
    """Return the options by which torchrun's hosts are told who they are."""
    return ["--node-rank", str(host), "--master-addr", ADDRESSES[0], "--master-port", "29401"]


def test_two_hosts_give_what_one_gives(hosts, whole, script, tmp_path):
    folder = tmp_path / "run"
    started = [start_on(host, found_each_other(host), script, folder, 0) for host in (0, 1)]
    for process in started:
        code, output = finished(process)
        assert code == 0, output
    assert outcome(folder) == whole


def test_cut_cable_ends_both_hosts_and_the_run_goes_on(hosts, whole, script, tmp_path):
    folder = tmp_path / "run"
    started = [
        start_on(host, told_each_other(host), script, folder, 0.3, TIMEOUT) for host in (0, 1)
    ]
    wait_until((folder / "checkpoints" / "step-00000006").exists)
    set_cable("down")
    cut = time.monotonic()
    ended = [finished(process, TIMEOUT + GRACE) for process in started]
    assert time.monotonic() - cut < TIMEOUT + GRACE
    set_cable("up")
    for code, output in ended:
        assert code != 0
        assert "LostProcessError" in output
    assert "rank 1 of 2 does not answer" in ended[0][1]
    assert newest_whole(folder / "checkpoints", print).name >= "step-00000006"
    started = [start_on(host, told_each_other(host), script, folder, 0) for host in (0, 1)]
    for process in started:
        code, output = finished(process)
        assert code == 0, output
    assert outcome(folder) == whole
