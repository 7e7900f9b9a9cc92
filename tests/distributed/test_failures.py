"""Whatever happens to one process ends all of them soon, and somebody says what it was."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from ranks_server import PATIENT, alive, finished, free_port, torchrun, wait_until

from llm_scratch.cli import main
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training import failures
from llm_scratch.training.checkpoints import checkpoints_in, verify
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.distributed import Ranks, joined
from llm_scratch.training.division import Division
from llm_scratch.training.failures import is_lost, told, who_is_lost
from llm_scratch.training.starting import build_engine


class Together(Ranks):
    """Ranks whose others give what a test says."""

    def gather(self, value):
        return [value, *OTHERS]


OTHERS: list = []


@pytest.fixture(autouse=True)
def _nobody_else():
    OTHERS.clear()


class Store:
    """A store without a connection."""

    def __init__(self, lost: bool = False) -> None:
        self.texts: dict[str, str] = {}
        self.lost = lost

    def set(self, key: str, text: str) -> None:
        if self.lost:
            raise RuntimeError("Connection reset by peer")
        self.texts[key] = text

    def get(self, key: str) -> bytes:
        return self.texts[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.texts for key in keys)


TIMED_OUT = RuntimeError("[pair.cc] Timed out waiting 10000ms for recv operation to complete\nat x")


def test_agree_names_the_odd_rank_and_both_values():
    OTHERS.extend([{"torch": "2.13", "rate": 1}, {"torch": "2.12", "rate": 1}])
    with pytest.raises(ValueError, match=r"^rank 2 of 3 differs in torch: '2.12', the others"):
        Together(0, 3).agree({"torch": "2.13", "rate": 1})


def test_agree_takes_what_agrees():
    OTHERS.append({"torch": "2.13"})
    Together(0, 2).agree({"torch": "2.13"})


def test_lost_processes_are_those_that_do_not_say_so_too():
    store = Store()
    store.set("lost/2", "here")
    said = who_is_lost(TIMED_OUT, store, 0, 4, 0.1)
    assert said.startswith("rank 1, 3 of 4 do not answer ([pair.cc] Timed out")
    assert "\n" not in said
    assert store.texts["lost/0"]


def test_lost_processes_that_failed_give_their_reason():
    store = Store()
    told(ValueError("no room\nat all"), store, 1)
    assert who_is_lost(TIMED_OUT, store, 0, 4, 5.0) == "rank 1 failed: ValueError: no room"


def test_lost_store_is_named(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "far")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert "the connection to far:1" in who_is_lost(TIMED_OUT, Store(lost=True), 1, 2, 0.1)


def test_store_that_never_answers_is_not_waited_for(monkeypatch):
    store = Store()
    forever = threading.Event()
    monkeypatch.setattr(failures, "PATIENCE", 0.1)
    monkeypatch.setattr(store, "check", lambda keys: forever.wait() and False)
    started = time.monotonic()
    said = who_is_lost(TIMED_OUT, store, 1, 2, 0.1)
    forever.set()
    assert time.monotonic() - started < PATIENT / 3
    assert "where all processes meet, is lost" in said


def test_own_errors_are_not_taken_for_those_of_others():
    assert is_lost(TIMED_OUT)
    assert not is_lost(ValueError("timed out"))
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def as_rank(monkeypatch, rank: int, port: int, **more: str) -> None:
    place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**place, **more}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def join(timeout: float = 1.0) -> None:
    with joined("cpu", timeout):
        raise AssertionError("nobody else is there")


def test_unreachable_master_is_one_line_with_the_way_out(monkeypatch):
    port = free_port()
    as_rank(monkeypatch, 1, port)
    with pytest.raises(ValueError, match="--master-addr") as caught:
        join()
    assert str(caught.value).startswith(f"rank 1 of 2 (at 127.0.0.1:{port}) can't join the others")
    assert "\n" not in str(caught.value)


def test_taken_port_is_one_line_with_the_way_out(monkeypatch):
    with socket.create_server(("", 0)) as server:
        as_rank(monkeypatch, 0, server.getsockname()[1])
        with pytest.raises(ValueError, match=r"--standalone finds a free one") as caught:
            join()
    assert "\n" not in str(caught.value)


def test_missing_processes_are_one_line_with_the_way_out(monkeypatch):
    as_rank(monkeypatch, 0, free_port())
    with pytest.raises(ValueError, match="can't join the others"):
        join()


def test_timeout_of_nothing_is_refused(monkeypatch):
    as_rank(monkeypatch, 0, free_port())
    with pytest.raises(ValueError, match="must be above 0"):
        join(timeout=0.0)


@pytest.mark.parametrize(
    ("division", "count", "match"),
    [
        (Division("full"), 1, "start with torchrun --standalone --nproc-per-node N"),
        (Division("full", mesh=(2, 2)), 2, "a mesh of 2 x 2 needs 4 processes, not 2"),
    ],
)
def test_division_that_processes_cannot_have_is_refused(division, count, match):
    with pytest.raises(ValueError, match=match):
        division.check(count)


@pytest.mark.parametrize("option", [{"offload": True}, {"reshard": False}, {"mesh": (1, 2)}])
def test_division_refuses_settings_without_effect(option):
    with pytest.raises(ValueError, match="goes with --shard full"):
        Division("optimizer", **option)


def test_float16_with_full_is_refused(build):
    config = TrainConfig(precision="float16")
    with pytest.raises(ValueError, match="choose --precision bfloat16"):
        build_engine(build(), config, None, Ranks(0, 2), Division("full"))


def test_command_without_torchrun_refuses_a_division(capsys, tmp_path):
    assert main(["pretrain", "--data", str(tmp_path / "x.bin"), "--shard", "full"]) == 2
    assert "start with torchrun" in capsys.readouterr().err


def test_command_names_its_rank(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["pretrain", "--data", str(tmp_path), "--shard", "full", "--mesh", "2x2"]) == 2
    assert "llm-scratch: rank 1 of 2: a mesh of 2 x 2" in capsys.readouterr().err


def test_command_leaves_its_error_to_torchrun(capsys, monkeypatch, tmp_path):
    file = tmp_path / "error.json"
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "TORCHELASTIC_ERROR_FILE": file}.items():
        monkeypatch.setenv(name, str(value))
    assert main(["pretrain", "--data", str(tmp_path), "--shard", "full", "--mesh", "2x2"]) == 2
    assert "a mesh of 2 x 2 needs 4 processes, not 2" in file.read_text(encoding="utf-8")


def test_who_lost_others_is_not_taken_for_the_cause(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    failures.record(failures.LostProcessError("rank 1 of 2 does not answer"))
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_wrong_interface_is_one_line_with_the_way_out(server):
    ended = server.run(2, "command_at", "nosuch0", "distributed", "check")
    assert ended.codes == [2, 2]
    for rank, output in enumerate(ended.outputs):
        (line,) = output.splitlines()
        said, here = line.split("; choose GLOO_SOCKET_IFNAME among ")
        assert said.startswith(f"llm-scratch: rank {rank} of 2 (at 127.0.0.1:")
        assert said.endswith("the interface nosuch0 has no address here")
        assert set(here.split(", ")) <= {name for _, name in socket.if_nameindex()}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["gpt-ddp", "gpt-full"])
@pytest.mark.parametrize("rank", [0, 1])
def test_process_that_raises_ends_all_with_its_own_error(server, tmp_path, case, rank):
    ended = server.run(2, "trouble", "raise", rank, 5, case, str(tmp_path / "run"))
    assert ended.codes == [1, 1]
    assert max(ended.seconds) < PATIENT / 3  # the others do not wait for the time-out
    own, other = ended.outputs[rank], ended.outputs[1 - rank]
    assert own.splitlines()[-2:] == ["OverflowError: something went wrong", "at step 5"]
    assert f"rank {rank} failed: OverflowError: something went wrong; at step 5" in other
    assert_good_checkpoint(tmp_path / "run", 4)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "rank"), [(2, 0), (2, 1), (4, 1)])
def test_process_that_hangs_is_named_within_the_timeout(server, tmp_path, count, rank):
    case = "gpt-full" if count == 2 else "gpt-mesh22"  # whose groups have time-outs of their own
    group = server.start(count, "trouble", "hang", rank, 5, case, str(tmp_path / "run"), 15)
    others = [process for number, process in enumerate(group.processes) if number != rank]
    wait_until(lambda: not any(map(alive, others)), PATIENT / 3)
    group.kill(rank)
    ended = group.ended()
    for number, output in enumerate(ended.outputs):
        if number != rank:
            assert ended.codes[number] == 1
            assert_named(output, rank, count)
            assert "at step 5" in output.splitlines()[-1]
    assert_good_checkpoint(tmp_path / "run", 4)


@pytest.mark.slow
def test_killed_process_is_named_by_the_others(server, tmp_path):
    group = server.start(4, "trouble", "hang", 2, 5, "gpt-optimizer", str(tmp_path / "run"))
    wait_for_checkpoint(tmp_path / "run", 4)
    group.kill(2)
    ended = group.ended()
    assert ended.codes == [1, 1, -signal.SIGKILL, 1]
    assert_named(ended.outputs[0], 2, 4)
    assert max(ended.seconds) < PATIENT / 3


@pytest.mark.slow
def test_termination_is_not_caught(server, tmp_path):
    group = server.start(2, "trouble", "hang", 1, 3, "gpt-ddp", str(tmp_path / "run"))
    wait_for_checkpoint(tmp_path / "run", 2)
    group.kill(by=signal.SIGTERM)
    assert group.ended().codes == [-signal.SIGTERM, -signal.SIGTERM]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["settings", "model", "weights", "torch", "data"])
def test_process_with_something_else_is_named_before_the_start(server, tmp_path, name):
    ended = server.run(2, "different", name, 1, str(tmp_path / "run"))
    assert ended.codes == [1, 1]
    word = {"data": "first rows"}.get(name, name)
    for output in ended.outputs:
        assert f"rank 1 of 2 differs in {word}" in output.splitlines()[-2]
    assert not checkpoints_in(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_torchrun_ends_with_the_traceback_of_the_process_that_failed(tmp_path):
    lines = "import rank_jobs, sys\nrank_jobs.trouble('raise', 1, 3, 'gpt-ddp', sys.argv[1])\n"
    script = tmp_path / "script.py"
    script.write_text(lines, encoding="utf-8")
    code, output = finished(torchrun(2, script, tmp_path / "run"))
    assert code == 1
    summary = output[output.index("Root Cause") :]
    assert "rank      : 1" in summary
    assert "OverflowError: something went wrong" in summary


# Python ends right after an exchange. The group is kept, as PyTorch's caches do, and other threads
# get the interpreter only when the main thread waits.
ENDING = """
import sys
import torch.distributed as dist
from llm_scratch.training.distributed import joined
sys.setswitchinterval(100)
with joined("cpu") as ranks:
    kept = dist.group.WORLD
    for _ in range(40):
        ranks.gather({"x": 1})
"""


@pytest.mark.slow
def test_processes_end_well_right_after_an_exchange(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ENDING, encoding="utf-8")
    for _ in range(4):  # about one start in three aborted before `joined` waited at its end
        code, output = finished(torchrun(4, script))
        assert code == 0, output


@pytest.mark.slow
def test_fewer_rows_than_a_step_needs_work_in_two_processes(server, tmp_path):
    data = tmp_path / "few.bin"
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    write_tokens(data, "The tide comes in and goes out. " * 8, tokenizer, progress=False)
    words = ["--steps", "3", "--micro-batch", "16", "--context-length", "16", "--emb-dim", "16"]
    words += ["--n-heads", "2"]
    ended = server.run(
        2, "command", "pretrain", "--data", str(data), "--out", str(tmp_path / "run"), *words
    )
    assert ended.codes == [0, 0], ended.outputs
    assert "3 steps" in ended.outputs[0]
    assert not ended.outputs[1]


def wait_for_checkpoint(folder: Path, step: int) -> None:
    wait_until((folder / "checkpoints" / f"step-{step:08d}").exists, PATIENT)


def assert_named(output: str, rank: int, count: int) -> None:
    """Look for a process among those that do not answer, as the slow ones may not either."""
    said = rf"rank (\d, )*{rank}(, \d)* of {count} do(es)? not answer"
    assert re.search(said, output.splitlines()[-1])


def assert_good_checkpoint(folder: Path, step: int) -> None:
    newest = checkpoints_in(folder / "checkpoints")[0]
    assert newest.name == f"step-{step:08d}"
    verify(newest)
