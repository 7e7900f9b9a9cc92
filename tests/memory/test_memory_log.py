"""What a run logs of its memory, and the record of CUDA's allocator."""

from __future__ import annotations

import sys
from mmap import mmap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm_scratch.cli import main
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.token_file import write_tokens
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training import memory_log
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.training.memory_log import (
    STAGES,
    MemoryLog,
    forget_peaks,
    memory_now,
    recorded_allocations,
    resident,
    resident_peak,
)
from llm_scratch.training.run_folder import read_metrics

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SIZES = {"vocab_size": 50, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1}
CONFIG = TrainConfig(steps=3, micro_batch=2, accumulation=4, log_every=0, tune_allocator=False)
HAS_SYSTEM = pytest.mark.skipif(sys.platform == "win32", reason="does not say what a process has")
MIB = 2**20


def trained(folder=None, log_memory: bool = True, **options):
    tokens = np.arange(400) % 50
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPTModel(SIZES)
    from dataclasses import replace

    config = replace(CONFIG, log_memory=log_memory)
    part = TokenPart.from_tokens(tokens, 50)
    train(model, part, config, folder=folder, log=lambda line: None, **options)
    return model


@HAS_SYSTEM
def test_a_run_logs_its_stages_by_rank(tmp_path) -> None:
    trained(tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert [rank["rank"] for rank in line["memory"]] == [0]
        marks = line["memory"][0]["marks"]
        passes = list(STAGES[:4])
        assert [mark["stage"] for mark in marks] == [*passes, *passes, *STAGES[4:]]
        assert [mark["micro_batch"] for mark in marks] == [1] * 4 + [4] * 6  # first and last
        assert all(0 < mark["resident"] <= mark["resident_peak"] for mark in marks)
    heads = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(heads) == 4
    assert "memory" not in heads[0]


def test_a_run_computes_the_same_with_the_log_and_without(tmp_path) -> None:
    with_log = trained(tmp_path / "a").state_dict()
    without = trained(tmp_path / "b", log_memory=False).state_dict()
    assert all(torch.equal(with_log[name], without[name]) for name in without)
    assert all("memory" not in line for line in read_metrics(tmp_path / "b"))


def test_a_run_without_a_folder_has_no_log_to_write_into() -> None:
    with pytest.raises(ValueError, match="give the folder"):
        trained()


@HAS_SYSTEM
def test_resident_follows_memory_that_is_taken_and_given_back() -> None:
    forget_peaks(CPU)
    before = resident()
    held = mmap(-1, 64 * MIB)  # not from the heap, which may have that much free
    for _ in range(64):
        held.write(bytes(MIB))
    with_it = memory_now(CPU)
    assert with_it["resident"] >= before + 60 * MIB
    held.close()
    assert resident() <= before + 8 * MIB
    assert resident_peak() >= before + 60 * MIB
    if sys.platform.startswith("linux"):
        forget_peaks(CPU)
        assert resident_peak() <= before + 8 * MIB


@pytest.mark.skipif(sys.platform == "win32", reason="has no ps")
def test_resident_is_about_the_same_by_the_way_of_other_systems(monkeypatch) -> None:
    here = resident()
    monkeypatch.setattr(memory_log, "STATUS", Path("no", "such", "file"))
    try:
        assert resident() == pytest.approx(here, rel=0.2)
    except FileNotFoundError:
        pytest.skip("there is no ps here")
    assert resident_peak() >= here / 2


def test_a_system_that_says_nothing_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(memory_log, "memory_now", lambda device: {"resident": 0})
    with pytest.raises(ValueError, match="leave --log-memory"):
        MemoryLog(CPU)


def test_cuda_s_numbers_have_their_own_names(monkeypatch) -> None:
    stats = {"allocated_bytes.all.current": 1, "allocated_bytes.all.peak": 2,
             "active_bytes.all.current": 3, "active_bytes.all.peak": 4,
             "reserved_bytes.all.current": 5, "reserved_bytes.all.peak": 6}  # fmt: skip
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    assert memory_now(CUDA) == {
        "allocated": 1, "allocated_peak": 2, "active": 3, "active_peak": 4, "reserved": 5,
        "reserved_peak": 6,
    }  # fmt: skip
    log = MemoryLog(CUDA)
    log.mark(STAGES[0])
    assert log.take() == [{"stage": "before forward", "micro_batch": 1, **memory_now(CUDA)}]
    assert log.take() == []


def test_a_snapshot_is_refused_without_cuda_before_a_folder_is_made(tmp_path) -> None:
    with pytest.raises(ValueError, match="--memory-snapshot .* on cpu; --log-memory"):
        trained(tmp_path / "run", memory_snapshot=tmp_path / "s.pickle")
    assert not (tmp_path / "run").exists()


def test_a_snapshot_is_written_for_each_rank_also_when_the_run_fails(monkeypatch, tmp_path) -> None:
    calls = []
    recorder = SimpleNamespace(
        _record_memory_history=lambda **options: calls.append(options),
        _dump_snapshot=lambda path: calls.append(Path(path).name),
    )
    monkeypatch.setattr(torch.cuda, "memory", recorder)
    with recorded_allocations(tmp_path / "s.pickle", CUDA):
        assert len(calls) == 1
    assert calls[1:] == ["s.pickle", {"enabled": None}]
    with pytest.raises(KeyError), recorded_allocations(tmp_path / "s.pickle", CUDA, 1, 2):
        raise KeyError
    assert calls[-2] == "s.rank1.pickle"
    missing = tmp_path / "no" / "s.pickle"
    with pytest.raises(ValueError, match="is not a folder"), recorded_allocations(missing, CUDA):
        pass


@HAS_SYSTEM
def test_commands_log_and_draw_memory(tmp_path, capsys) -> None:
    data, run = tmp_path / "tide.bin", tmp_path / "run"
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    write_tokens(data, "the tide comes in and goes out. " * 40, tokenizer, progress=False)
    small = ["--emb-dim", "16", "--n-heads", "2", "--n-layers", "1", "--context-length", "16"]
    words = ["pretrain", "--data", str(data), *small, "--device", "cpu", "--steps", "2"]
    assert main([*words, "--memory-snapshot", "x", "--out", str(run)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main([*words, "--log-memory", "--out", str(run)]) == 0
    assert sum("memory" in line for line in read_metrics(run)) == 2
    out = tmp_path / "pictures" / "runs.png"
    assert main(["plot", str(run), "--out", str(out)]) == 0
    assert out.with_name("runs-memory.png").stat().st_size > 10_000
    out.with_name("runs-memory.png").unlink()
    plain = tmp_path / "plain"
    assert main([*words, "--out", str(plain)]) == 0
    assert main(["plot", str(plain), "--out", str(out)]) == 0
    assert not out.with_name("runs-memory.png").exists()
