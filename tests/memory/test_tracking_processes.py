"""What each of several processes holds in a step, tracked in a single process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from step_cases import FULL, LLAMA, ROOT, C, T, V, tracked

from llm_scratch.memory.imagined import imagined
from llm_scratch.memory.step import TrainingStep
from llm_scratch.training.division import Division


@pytest.mark.parametrize("shard", ["none", "optimizer"])
def test_data_parallel_holds_gradients_all_the_time(shard):
    one = tracked()
    found = tracked(ranks=2, division=Division(shard))
    assert found.static["gradients"] == one.static["gradients"]
    assert found.backward_parts["gradients"] >= one.static["gradients"]
    assert (
        found.backward_parts["gradients"] - one.backward_parts["gradients"]
        == (one.static["gradients"])
    )
    shares = found.static["optimizer"] / one.static["optimizer"]
    assert shares == (1 if shard == "none" else pytest.approx(0.5, rel=0.05))


@pytest.mark.parametrize("ranks", [7, pytest.param(32, marks=pytest.mark.slow)])
def test_full_sharding_holds_a_part(ranks):
    one, found = tracked(), tracked(ranks=ranks, division=FULL)
    with imagined(TrainingStep(LLAMA)) as made:
        shapes = [parameter.shape for parameter in made.engine.model.parameters()]
    padded = sum(-(-shape[0] // ranks) * shape[1:].numel() for shape in shapes)
    assert found.static["parameters"] == found.static["gradients"] == 4 * padded
    assert found.static["optimizer"] == 2 * 4 * padded + 4 * len(shapes)
    assert found.backward_parts["gathered"] > 4 * 2 * V * C  # embedding and head
    assert found.backward_peak < one.backward_peak
    assert found.step_parts["gathered"] == 0


def test_blocks_that_are_not_divided_again_stay_gathered():
    divided, kept = (
        tracked(ranks=2, division=Division("full", reshard=again)) for again in (True, False)
    )
    assert kept.backward_parts["gathered"] > divided.backward_parts["gathered"]


def test_a_mesh_of_copies_divides_by_its_parts():
    mesh = tracked(ranks=8, division=Division("full", mesh=(4, 2)))
    assert mesh.static == tracked(ranks=2, division=FULL).static


def test_offload_leaves_parts_to_the_host():
    on_device = tracked(ranks=2, division=FULL)
    found = tracked(ranks=2, division=Division("full", offload=True))
    assert on_device.host == 0
    assert found.host == pytest.approx(sum(found.static.values()), rel=0.01)
    assert found.static == on_device.static
    assert found.parts["gathered"] == on_device.parts["gathered"]
    assert found.peak == pytest.approx(
        on_device.backward_peak - found.static["parameters"] - found.static["optimizer"], rel=0.05
    )
    assert found.step_peak == 0


def test_what_the_host_holds_does_not_move_the_peak():
    # Parts of gradients, which add up on the host, would make it that of a block further back,
    # when one input of a block less is kept.
    cfg = replace(LLAMA, vocab_size=50, n_layers=4, hidden_dim=400)
    on_device, found = (
        tracked(cfg, ranks=2, rows=2, checkpoint_blocks=1, division=Division("full", offload=host))
        for host in (False, True)
    )
    more = found.backward_parts["activations"] - on_device.backward_parts["activations"]
    assert more == 2 * T * C * 4


def test_a_process_of_several_is_refused():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="start it without torchrun"):
            tracked(ranks=2)
    finally:
        torch.distributed.destroy_process_group()


def test_what_the_division_refuses_is_refused():
    with pytest.raises(ValueError, match="--precision bfloat16"):
        tracked(ranks=2, division=FULL, precision="float16")
    assert not torch.distributed.is_initialized()


def test_without_a_group_of_absent_processes_one_can_be_tracked(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.testing._internal.distributed.fake_pg", None)
    assert tracked().peak > 0
    with pytest.raises(ValueError, match="only a step of one process can be tracked, not of 2"):
        tracked(ranks=2)


SEVERAL = {
    "data parallel": {},
    "zero-1": {"division": Division("optimizer")},
    "full": {"division": FULL, "loss_chunk": None},
    "full, blocks twice": {"division": FULL, "checkpoint_blocks": 1},
    "full, last block": {"division": FULL, "last_blocks": 1},
    "kept": {"division": Division("full", reshard=False), "precision": "bfloat16"},
}
# Prints the peaks of real steps of two processes, by PyTorch's own trackers.
TWO = """
import sys
sys.path[:0] = [sys.argv[1]]
import torch
from step_cases import LLAMA, TrainingStep, real_step
from test_tracking_processes import SEVERAL
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from llm_scratch.training.distributed import joined
from llm_scratch.training.optimizer_state import own_part

with joined("cpu") as ranks:
    for options in SEVERAL.values():
        made = real_step(TrainingStep(LLAMA, ranks=2, **options), ranks)
        module, optimizer = made.engine.module, own_part(made.engine.optimizers[0])
        inputs = tuple(tensor for batch in made.batches for tensor in batch)
        if hasattr(module, "unshard"):
            tracker = FSDPMemTracker(module, optimizer)
            tracker.track_inputs(inputs)
        else:
            tracker = MemTracker()
            tracker.track_external(module, *inputs)
        with tracker:
            made.take()
            tracker.reset_mod_stats()
            tracker._peak_mem.clear()
            made.take()
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
        if ranks.first:
            print(peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="several processes need Linux or macOS")
def test_the_peaks_of_two_processes_are_those_of_real_ones(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO, encoding="utf-8")
    start = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    start += ["--nproc-per-node", "2", str(script), str(Path(__file__).parent)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, *start], env=env, capture_output=True, text=True,
                          timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    real = dict(zip(SEVERAL, map(int, done.stdout.split()), strict=True))
    assert {name: tracked(ranks=2, **options).peak for name, options in SEVERAL.items()} == real
