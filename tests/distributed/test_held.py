"""What a process holds and sends in a step is counted right, and counting changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks_server import PATIENT

import llm_scratch as ls
from llm_scratch.model.families import empty_model
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.held import held_in_step, kept_for_backward, size_of
from llm_scratch.training.loop import train
from llm_scratch.training.starting import build_engine
from llm_scratch.training.step_loss import StepLoss
from llm_scratch.training.steps import take_step

ROOT = Path(__file__).parents[2]
CONFIG = ls.GPTConfig(
    vocab_size=67, context_length=16, emb_dim=32, n_heads=4, n_layers=3, drop_rate=0.0
)
SETTINGS = TrainConfig(steps=2, micro_batch=4, eval_every=2, save_every=2, log_every=0,
                       precision="float32", tune_allocator=False)  # fmt: skip
# Trains in each process with each division that is named, into a folder of that name.
TRAINS = """
import sys
sys.path[:0] = [sys.argv[1]]
import torch
from test_held import PATIENT, SETTINGS, model, tokens
from dataclasses import replace
from llm_scratch.training.distributed import joined
from llm_scratch.training.division import Division
from llm_scratch.training.loop import train

with joined("cpu", PATIENT) as ranks:
    for name in sys.argv[2:]:
        shard, _, way = name.partition("-")
        division = Division(shard, reshard=way != "kept")
        numbers = "bfloat16" if way == "half" else "float32"
        train(model(), tokens(), replace(SETTINGS, micro_batch=2, precision=numbers), folder=name,
              log=str, ranks=ranks, division=division, device=torch.device("cpu"))
"""


def model(cfg=CONFIG):
    made = empty_model(cfg)
    made.init_weights(generator=torch.Generator().manual_seed(5))
    return made.train()


def tokens():
    ids = torch.randint(0, 67, (800,), generator=torch.Generator().manual_seed(3))
    return TokenPart.from_tokens(ids.numpy().astype("uint16"), vocab_size=67)


def held_of(folder):
    return json.loads((folder / "held.json").read_text(encoding="utf-8"))


def whole():
    return sum(4 * parameter.numel() for parameter in model().parameters())


def test_a_run_writes_what_it_held_in_its_first_step(tmp_path):
    train(model(), tokens(), SETTINGS, folder=tmp_path, log=str)
    (held,) = held_of(tmp_path)
    assert (held["parameters"], held["gradients"]) == (whole(), whole())
    steps = 4 * len(list(model().parameters()))  # AdamW counts them once a tensor
    assert held["optimizer"] == 2 * whole() + steps
    assert (held["gathered"], held["sent"]) == (0, {})
    assert held["activations"] > 0


def test_counting_changes_no_number(tmp_path):
    trained = [model(), model()]
    for one, folder in zip(trained, (None, tmp_path), strict=True):
        train(one, tokens(), SETTINGS, folder=folder, log=str)
    for one, other in zip(*(each.parameters() for each in trained), strict=True):
        assert torch.equal(one, other)


def test_nothing_is_left_behind_in_the_model():
    engine = build_engine(model(), SETTINGS, None)
    with held_in_step(engine) as held:
        take_step(engine, [tokens().batch(0, 0, 4, 16)], 1e-3, None, seed=1)
    assert held.gradients == whole()
    assert not engine.module._forward_hooks
    assert not engine.module._forward_pre_hooks
    assert not engine.optimizers[0]._optimizer_step_pre_hooks


def test_memory_that_tensors_share_counts_once():
    tensor = torch.zeros(10, 4)
    assert size_of([tensor, tensor.T, tensor[2:]]) == 160
    assert size_of([tensor, tensor.clone()]) == 320


def test_kept_are_the_activations_and_no_parameters():
    layer = torch.nn.Linear(64, 8)
    x = torch.zeros(5, 64, requires_grad=True)
    with kept_for_backward() as held:
        hidden = torch.sin(x)
        layer(hidden) + layer(hidden)  # keeps x, and what both layers read; not the weight
    assert held.activations == 2 * 5 * 64 * 4


@pytest.mark.parametrize("every", [1, 2])
def test_a_block_that_computes_twice_keeps_its_input_alone(every):
    batch = tokens().batch(0, 0, 4, 16)

    def kept(cfg, every):
        made = model(cfg)
        made.checkpoint_blocks = every
        with kept_for_backward() as held:
            StepLoss(made)(batch, 1.0).backward()
        return held.activations

    deeper = ls.GPTConfig(**{**CONFIG, "n_layers": 3 + every})
    plain = kept(ls.GPTConfig(**{**CONFIG, "n_layers": 4}), 0) - kept(CONFIG, 0)
    found = kept(deeper, every) - kept(CONFIG, every)
    assert found == 4 * 4 * 16 * 32 + (every - 1) * plain
    assert plain > 10 * 4 * 4 * 16 * 32


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """What two processes held, by the way that they divided the model."""
    if sys.platform == "win32" or not torch.distributed.is_available():
        pytest.skip("several processes need Linux or macOS, and torch.distributed")
    folder = tmp_path_factory.mktemp("divided")
    names = ("none", "optimizer", "full", "full-kept", "none-half", "full-half")
    script = folder / "trains.py"
    script.write_text(TRAINS, encoding="utf-8")
    start = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    start += ["--nproc-per-node", "2", str(script), str(Path(__file__).parent), *names]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run([sys.executable, *start], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": paths}, timeout=PATIENT)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: held_of(folder / name) for name in names}


def test_two_processes_hold_what_their_division_says(divided):
    together = {
        name: {
            kind: sum(each[kind] for each in held) / whole() for kind in held[0] if kind != "sent"
        }
        for name, held in divided.items()
    }
    for name, (parameters, gradients, optimizer) in {
        "none": (2, 2, 4), "optimizer": (2, 2, 2), "full": (1, 1, 2), "full-kept": (1, 1, 2),
    }.items():  # fmt: skip
        assert together[name]["parameters"] == pytest.approx(parameters, rel=0.01)
        assert together[name]["gradients"] == pytest.approx(gradients, rel=0.01)
        assert together[name]["optimizer"] == pytest.approx(optimizer, rel=0.02)
    assert divided["full-kept"][0]["gathered"] == pytest.approx(whole(), rel=0.01)
    blocks = size_of(model().trf_blocks.parameters())
    one_block = whole() - blocks * 2 / 3
    assert divided["full"][0]["gathered"] == pytest.approx(one_block, rel=0.01)


def test_blocks_are_gathered_in_the_type_of_their_products(divided):
    blocks = size_of(model().trf_blocks.parameters())
    one_block = blocks // 3
    plain, half = (divided[name][0]["gathered"] for name in ("full", "full-half"))
    assert plain - half == pytest.approx(one_block / 2, rel=0.01)
    # No copy of a weight in 16 bits waits for the backward pass, as autocast's do.
    copied, spared = (divided[name][0]["activations"] for name in ("none-half", "full-half"))
    assert copied - spared == pytest.approx(blocks / 2, rel=0.1)


def test_two_processes_send_what_their_division_says(divided):
    def size(name, phase, kind):
        return divided[name][0]["sent"].get(phase, {}).get(kind, [0, 0])[1]

    for name in ("none", "optimizer"):
        assert size(name, "backward", "all-reduce") == whole()
        assert size(name, "forward", "all-gather") == 0
    assert size("none", "update", "broadcast") == 0
    assert size("optimizer", "update", "broadcast") == whole()
    for name in ("full", "full-kept"):
        assert size(name, "forward", "all-gather") == pytest.approx(whole(), rel=0.05)
        assert size(name, "backward", "reduce-scatter") == pytest.approx(whole(), rel=0.05)
    assert size("full-kept", "backward", "all-gather") == 0
    assert size("full", "backward", "all-gather") > 0.3 * whole()
