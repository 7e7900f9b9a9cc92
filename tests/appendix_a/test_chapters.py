"""The two scripts of appendix A run and print what the book prints."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from script_runs import PLACE
from torch.nn import functional as F
from torch.utils.data import DistributedSampler

from llm_scratch.appendix_a import NeuralNetwork

CHAPTERS = Path(__file__).resolve().parents[2] / "chapters"
DISTRIBUTED = CHAPTERS / "appendix_a_distributed.py"
STEP = re.compile(r"\[Process (\d)\] Epoch: (\d+)/003 \| Batch size (\d+) \| Train Loss: (\S+)")

BOOK_LINES = """
tensor(0.0852)
(tensor([-0.0898]),)
(tensor([-0.0817]),)
Total number of trainable model parameters: 2213
tensor([[-0.1262,  0.1080, -0.1792]])
Epoch: 001/003 | Batch 000/002 | Train Loss: 0.75
Epoch: 001/003 | Batch 001/002 | Train Loss: 0.65
Epoch: 002/003 | Batch 000/002 | Train Loss: 0.44
Epoch: 002/003 | Batch 001/002 | Train Loss: 0.13
Epoch: 003/003 | Batch 000/002 | Train Loss: 0.03
Epoch: 003/003 | Batch 001/002 | Train Loss: 0.00
tensor([[ 2.8569, -4.1618],
        [0.0307, 0.9693]])
tensor([0, 0, 0, 1, 1])
tensor(5)
1.0
<All keys matched successfully>
tensor([5., 7., 9.])
Epoch: 003/003 | Batch 001/002 | Train Loss: 0.00
Total number of trainable model parameters: 752
""".strip("\n").split("\n")


@pytest.fixture
def run_here(monkeypatch, tmp_path, capsys):
    """A function that runs a chapter in this process, as the only one, and returns its lines."""
    monkeypatch.chdir(tmp_path)
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)

    def run(script: Path, *options: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [str(script), *options])
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            torch.set_printoptions(profile="default")
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.script(CHAPTERS / "appendix_a_pytorch.py", "--quick", "--out", "saved")
def test_appendix_a_prints_what_the_book_prints(run):
    lines = iter(run.output.splitlines())
    for expected in BOOK_LINES:
        assert expected in lines, f"{expected!r} is missing, or comes too early"  # moves on
    assert [path.name for path in run.folder.iterdir()] == ["saved"]


def test_distributed_script_alone_is_one_process_and_says_how_to_use_more(run_here):
    lines = run_here(DISTRIBUTED)
    assert lines[0].startswith("One process; torchrun --nproc-per-node 2 ")
    assert lines[-4:] == report(processes=1)
    assert not torch.distributed.is_initialized()


def test_distributed_script_refuses_a_place_that_is_half_set(run_here, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    missing = "RANK, WORLD_SIZE set but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
    with pytest.raises(ValueError, match=missing):
        run_here(DISTRIBUTED)


@pytest.mark.script(
    *("-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"),
    *("--nproc-per-node", "2", DISTRIBUTED),
    CUDA_VISIBLE_DEVICES="",
)
def test_two_processes_learn_as_one_with_both_their_batches(run):
    lines = run.output.splitlines()
    assert lines[-4:] == report(processes=2)
    printed = {rank: [] for rank in (0, 1)}
    for line in lines:
        if step := STEP.fullmatch(line):
            printed[int(step[1])].append(step[4])
    expected = losses_of_one_process_with_both_batches()
    assert printed == {rank: [f"{loss:.2f}" for loss in expected[rank]] for rank in expected}


def report(processes: int) -> list[str]:
    return [
        f"Processes: {processes}, on cpu",
        "Training accuracy, averaged over the processes: 1.0",
        "Test accuracy: 1.0",
        "All copies of the network are the same: True",
    ]


def losses_of_one_process_with_both_batches() -> dict[int, list[float]]:
    """The loss on each process's batches, when one network learns from the mean of the two."""
    features = torch.tensor([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    samplers = [DistributedSampler(labels, num_replicas=2, rank=rank, seed=123) for rank in (0, 1)]
    torch.manual_seed(123)
    model = NeuralNetwork(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses: dict[int, list[float]] = {0: [], 1: []}
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        dealt = [torch.tensor(list(sampler)).split(2) for sampler in samplers]
        for batches in zip(*dealt, strict=True):
            both = [F.cross_entropy(model(features[i]), labels[i]) for i in batches]
            optimizer.zero_grad()
            (sum(both) / 2).backward()
            optimizer.step()
            for rank, loss in enumerate(both):
                losses[rank].append(loss.item())
    return losses
