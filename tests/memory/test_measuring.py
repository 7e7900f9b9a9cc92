"""Real steps of a tiny model, measured in processes of their own."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memory_points import CFG, POINT

from llm_scratch.cli import main
from llm_scratch.memory.measuring import limited, measure_here
from llm_scratch.memory.outcomes import ran_out
from llm_scratch.memory.point import Point
from llm_scratch.memory.starts import Starts, merged, outcome
from llm_scratch.memory.sweep_files import read_sweep
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.training.memory_log import process_size

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA is Linux's")
MIB = 2**20
LLAMA = LlamaConfig(61, 64, 32, 4, 2, hidden_dim=48, n_kv_groups=2, tie_weights=True,
                    dtype="bfloat16")  # fmt: skip
# Four blocks keep about 1.3 MiB of a row of 64 tokens: more than what a heap has free.
BROAD = replace(CFG, emb_dim=128, n_layers=4)


@pytest.fixture
def tiny(tmp_path) -> str:
    """The path of a configuration."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(BROAD)), encoding="utf-8")
    return str(path)


def found_of(rank: int, size: int, **more) -> dict:
    """What a process leaves that has measured."""
    numbers = {"resident": size, "allocated": 2 * size}
    return {"state": "ok", "rank": rank, "threads": 1, "seconds": 0.25, "numbers": numbers,
            "parameters": 9, "retries": 1, "ooms": 0, **more}  # fmt: skip


@pytest.mark.parametrize(
    "step",
    [
        replace(POINT.step, accumulation=2, checkpoint_blocks=1),
        replace(POINT.step, optimizer="muon", loss_chunk=None, attention="by-hand"),
        replace(POINT.step, lora_rank=2, precision="bfloat16"),
        replace(POINT.step, last_blocks=1, length=10),
        replace(POINT.step, cfg=LLAMA),
        replace(POINT.step, cfg=LLAMA, weights="bfloat16", rows=3),
    ],
    ids=["checkpointing", "muon", "lora", "last blocks", "llama", "bfloat16"],
)
def test_steps_of_all_kinds_are_measured(step) -> None:
    point = replace(POINT, step=step, steps=1, epoch_rows=100)
    before = torch.get_rng_state()
    results = merged(point, [measure_here(point)])
    assert torch.equal(torch.get_rng_state(), before)
    assert results["state"] == "ok"
    assert results["parameters"] > 10_000
    assert float(results["seconds_per_step"]) > 0
    samples = float(results["samples_per_s"])
    assert samples == pytest.approx(
        step.rows * step.accumulation / float(results["seconds_per_step"]), rel=1e-4
    )
    assert float(results["tokens_per_s"]) == pytest.approx(samples * step.tokens_a_row, rel=1e-4)
    assert float(results["epoch_seconds"]) == pytest.approx(100 / samples, rel=1e-4)
    assert "allocated_max" not in results


def test_weights_have_the_type_that_was_asked_for(monkeypatch) -> None:
    from llm_scratch.memory import measuring

    seen = []
    take = measuring.take_step
    monkeypatch.setattr(
        measuring, "take_step", lambda engine, *rest: seen.append(engine) or take(engine, *rest)
    )
    for weights in ("float32", "bfloat16"):
        step = replace(POINT.step, cfg=LLAMA, weights=weights)
        measure_here(replace(POINT, step=step, steps=1))
        assert {p.dtype for p in seen[-1].model.parameters()} == {getattr(torch, weights)}
    assert len(seen) == 2 * (2 * 2 + 2)  # two to warm up and one, of a tiny model and of the model
    state = seen[-1].optimizers[0].state
    assert len(state) == len(list(seen[-1].model.parameters()))


def test_processes_must_be_as_many_as_the_step_has() -> None:
    with pytest.raises(ValueError, match="of 2 processes, and there are 1"):
        measure_here(replace(POINT, step=replace(POINT.step, ranks=2)))


@LINUX
def test_a_limit_makes_memory_run_out_and_goes_away_again() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    # This process may have much of its heap free, from tests before this one: ask for more.
    with pytest.raises(RuntimeError, match="allocate"), limited(32 * MIB, torch.device("cpu")):
        torch.empty(process_size("VmData"), dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with limited(1 << 40, torch.device("cpu")):
        torch.ones(1000)


@LINUX
def test_a_step_that_meets_its_limit_is_out_of_memory() -> None:
    step = replace(POINT.step, cfg=BROAD, rows=200)
    found = Starts().measure(replace(POINT, step=step, limit=32 * MIB))
    assert found["state"] == "oom"
    assert "allocate" in found["reason"]


def test_ranks_become_least_mean_and_most() -> None:
    point = replace(POINT, step=replace(POINT.step, ranks=3, rows=2, accumulation=4))
    found = [found_of(rank, size) for rank, size in enumerate((30, 10, 26))]
    results = outcome(point, found, 0, "")
    sizes = [results[f"resident_{of}"] for of in ("min", "mean", "max")]
    assert sizes == [10, 22, 30]
    assert results["allocated_max"] == 60
    assert results["most_on_rank"] == 0
    assert results["num_alloc_retries"] == 3
    assert float(results["samples_per_s"]) == 2 * 4 * 3 / 0.25


def test_a_missing_rank_is_named() -> None:
    point = replace(POINT, step=replace(POINT.step, ranks=3))
    found = [found_of(0, 30), None, None]
    results = outcome(point, found, 1, "Root Cause:\nSignal 11 (SIGSEGV) received by PID 7")
    assert results["state"] == "crashed"
    assert results["reason"].startswith("nothing came from rank 1, 2 of 3: Signal 11")


@pytest.mark.parametrize(
    ("found", "code", "said", "killed", "state"),
    [
        ({"state": "oom", "reason": "full"}, 0, "", False, "oom"),
        ({"state": "failed", "reason": "no such"}, 1, "", False, "failed"),
        (None, -6, "terminate called after throwing an instance of 'std::bad_alloc'", False, "oom"),
        (None, -9, "", True, "oom"),
        (None, -9, "", False, "crashed"),
        (None, -11, "", True, "crashed"),
        (None, 1, "KeyError: 3", False, "crashed"),
    ],
)
def test_what_became_of_a_start_is_told_apart(found, code, said, killed, state) -> None:
    assert outcome(POINT, [found], code, said, killed)["state"] == state


def test_running_out_is_told_from_other_errors() -> None:
    assert ran_out(MemoryError())
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert not ran_out(RuntimeError("shapes do not fit"))


class Crashing(Starts):
    """Starts of which the first ones crash."""

    left = [2]

    def _start(self, point: Point) -> dict:
        self.left[0] -= 1
        if self.left[0] >= 0:
            return {"state": "crashed", "reason": "signal 11"}
        return {"state": "ok"}


def test_crashed_starts_are_tried_again_and_counted() -> None:
    Crashing.left = [2]
    assert Crashing(retries=3).measure(POINT) == {"state": "ok", "starts": 3}
    Crashing.left = [5]
    found = Crashing(retries=1).measure(POINT)
    assert found == {"state": "failed", "reason": "signal 11", "starts": 2}


@pytest.mark.slow
def test_a_wrong_device_is_refused_by_the_process_that_looks() -> None:
    with pytest.raises(ValueError, match="'abacus' is not a device"):
        Starts().facts("abacus")


@LINUX
def test_a_sweep_by_real_processes_has_a_row_where_memory_ran_out(
    tiny, tmp_path, capsys, monkeypatch
) -> None:
    facts = Starts().facts("cpu")
    assert facts["device"] == "cpu"
    assert facts["torch"] == str(torch.__version__)
    monkeypatch.setattr(Starts, "facts", lambda self, device: facts)
    out = str(tmp_path / "s.csv")
    words = ["memory", "sweep", tiny, "--length", "64", "--batch", "16,400", "--limit", "150MiB",
             "--steps", "1", "--device", "cpu", "--out", out, "--epoch-rows", "100"]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "length 64, batch 400: out of memory" in said
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["ok", "oom"]
    assert rows[1]["reason"]
    assert 16 * MIB < int(rows[0]["resident_max"]) < 150 * MIB
    assert float(rows[0]["epoch_seconds"]) > 0
    before = Path(out).read_bytes()
    assert main(words) == 0  # all is there
    assert Path(out).read_bytes() == before
    assert main(["memory", "plot", out, "--out", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000
    (curve,) = read_sweep(out)
    assert curve.out == [400]


@pytest.mark.slow
def test_two_processes_a_point_are_merged(tiny, tmp_path) -> None:
    out = str(tmp_path / "s.csv")
    words = ["memory", "sweep", tiny, "--length", "32", "--batch", "8", "--processes", "2",
             "--vary", "shard=none,full", "--steps", "1", "--device", "cpu",
             "--out", out]  # fmt: skip
    assert main(words) == 0
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["state"], row["ranks"], row["shard"]) for row in rows] == [
        ("ok", "2", "none"), ("ok", "2", "full"),
    ]  # fmt: skip
    for row in rows:
        least, mean, most = (int(row[f"resident_{of}"]) for of in ("min", "mean", "max"))
        assert 0 < least <= mean <= most
        assert row["most_on_rank"] in ("0", "1")
        assert row["parameters"] == rows[0]["parameters"]


def test_measure_prints_its_numbers_and_the_whole_configuration(tiny, capsys) -> None:
    words = ["memory", "measure", tiny, "--batch", "2", "--steps", "1", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "MiB above what was there before the model" in said
    assert "1 x 1 x 2 rows of 64 tokens, float32 on cpu" in said
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "ok"
    assert found["batch"] == "2"
    assert json.loads(found["config"])["emb_dim"] == 128


@LINUX
def test_measure_says_that_memory_ran_out(tiny) -> None:
    words = ["memory", "measure", tiny, "--batch", "200", "--limit", "32MiB", "--device", "cpu"]
    command = [sys.executable, "-m", "llm_scratch", *words, "--json"]  # its heap has nothing free
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert json.loads(done.stdout)["state"] == "oom"
    assert done.stderr.startswith("llm-scratch: out of memory: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("measure", "--length", "65"), "context length of 64"),
        (("measure", "--batch", "0"), "rows=0 must be 1 or more"),
        (("measure", "--steps", "0"), "steps=0 must be 1 or more"),
        (("measure", "--shard", "full"), "there is one"),
        (("measure", "--lora", "2", "--last-blocks", "1"), "give one of them"),
        (("measure", "--allocator", "expandable"), "--allocator expandable is CUDA's"),
        (("sweep", "--length", "1:65"), "context length of 64"),
        (("sweep", "--length", "1:x"), "--length '1:x' must be like 64"),
        (("sweep", "--batch", "1:"), "needs --until-oom or --largest"),
        (("sweep", "--vary", "colour=red"), "--vary colour=red: .*unrecognized"),
        (("sweep", "--vary", "optimizer=sgd"), "--vary optimizer=sgd: .*invalid choice"),
        (("sweep", "--vary", "optimizer"), "must be like checkpoint-blocks=0,1"),
        (("sweep", "--vary", "length=1,2"), "--length takes a list itself"),
        (("sweep", "--processes", "2", "--mesh", "3x2", "--shard", "full"), "needs 6 processes"),
        (("sweep", "--repeats", "0"), "repeats=0"),
    ],
)
def test_wrong_input_is_refused_in_a_line(
    tiny, tmp_path, capsys, monkeypatch, words, message
) -> None:
    monkeypatch.setattr(Starts, "facts", lambda self, device: {"device": "cpu"})
    command, *options = words
    out = ["--out", str(tmp_path / "s.csv")] if command == "sweep" else []
    device = [] if "expandable" in words else ["--device", "cpu"]
    assert main(["memory", command, tiny, *device, *out, *options]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert re.search(message, said), said


@pytest.mark.parametrize("limit", ["0", "lots", "-1GiB"])
def test_a_limit_that_is_no_size_is_refused(tiny, capsys, limit) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["memory", "measure", tiny, f"--limit={limit}"])
    assert ended.value.code == 2
    assert "must be a size above 0, as 6GiB" in capsys.readouterr().err
