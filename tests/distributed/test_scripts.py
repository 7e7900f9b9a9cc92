"""The chapters on several processes, as somebody runs them who has just cloned the project."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

CHAPTERS = Path(__file__).parents[2] / "chapters"
needs_processes = pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_available(),
    reason="several processes need Linux or macOS, and torch.distributed",
)
post03 = pytest.mark.script(CHAPTERS / "post03_processes.py", "--quick")
post04 = pytest.mark.script(CHAPTERS / "post04_sharding.py", "--quick")
post09 = pytest.mark.script(CHAPTERS / "post09_checkpointing.py", "--quick")


def pictures_of(run) -> set[str]:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("pip install matplotlib")
    assert [path.name for path in run.folder.iterdir()] == ["chapter-output"]
    return {path.stem for path in (run.folder / "chapter-output").iterdir()}


@post03
@needs_processes
def test_two_processes_have_the_losses_of_one(run):
    assert "below 1e-5: True" in run.output
    assert re.search(
        r"^\$ torchrun --standalone --nproc-per-node 2 -m llm_scratch", run.output, re.M
    )


@post03
@needs_processes
def test_each_process_holds_the_whole_and_sends_its_gradients_once(run):
    rows = re.findall(r"^(one process|rank \d of 2) +(\S+) +(\S+) +(\S+) +\S+$", run.output, re.M)
    assert [row[0] for row in rows] == ["one process", "rank 0 of 2", "rank 1 of 2"]
    assert len({row[1:] for row in rows}) == 1
    assert "16.0 bytes for each" in run.output
    assert "Gradients, sent once: True" in run.output


@post03
def test_part_3_is_quoted_and_drawn(run):
    assert "        8        5.29            86,671          91%" in run.output
    assert re.search(r"^mean of the means +[1-9]\d*% off$", run.output, re.M)
    assert re.search(r"^mean of sum \* 2 / 100 +0% off$", run.output, re.M)
    assert "the wrapper's forward: inputs kwargs" in run.output
    assert pictures_of(run) == {"post03-held", "post03-scaling"}


@pytest.mark.slow
@post04
@needs_processes
def test_a_divided_model_has_the_losses_of_a_whole_one(run):
    found = re.findall(r"^(\w+) .*below 1e-5 apart: (\w+)$", run.output, re.M)
    assert found == [("one", "True"), ("optimizer", "True"), ("full", "True")]


@pytest.mark.slow
@post04
@needs_processes
def test_a_divided_model_is_there_once(run):
    found = re.findall(r"^(\w+) +(\w+) .* together (\S+) times one model's$", run.output, re.M)
    assert found == [
        ("optimizer", "parameters", "2.00"),
        ("optimizer", "gradients", "2.00"),
        ("optimizer", "optimizer", "1.00"),
        ("full", "parameters", "1.00"),
        ("full", "gradients", "1.00"),
        ("full", "optimizer", "1.00"),
    ]
    sent = re.findall(r"^(\w+) +by a ring of 2: (\S+) bytes", run.output, re.M)
    assert sent[0] == ("optimizer", "6.0")
    assert pictures_of(run) == {"post04-held", "post04-llama"}


@pytest.mark.slow
@post04
def test_the_memory_of_llama_is_computed(run):
    assert re.search(r"^DDP +119.7 GiB$", run.output, re.M)
    assert re.search(r"^ZeRO-2, optimizer offloaded +15.0 GiB$", run.output, re.M)


@post09
def test_computing_twice_changes_no_number(run):
    found = re.findall(r"Same loss and gradients: (\w+)$", run.output, re.M)
    assert found == ["True"] * 9


@post09
def test_a_block_that_computes_twice_keeps_its_inputs(run):
    rows = re.findall(r"keeps (\S+) bytes for each input, (\S+) when", run.output)
    assert [row[1] for row in rows] == ["4.00"] * 3
    assert min(float(row[0]) for row in rows) > 40


@post09
def test_part_9_is_quoted_and_drawn(run):
    assert re.search(r"^8B, checkpointing +3,469 +12 +10.3$", run.output, re.M)
    assert "8B: logits 3,006 MiB" in run.output
    assert pictures_of(run) == {"post09-held", "post09-batches"}
