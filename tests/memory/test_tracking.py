"""A step that is tracked without memory holds what real ones do, and what can be said of it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from step_cases import EXPERTS, FULL, GPT, LLAMA, ROOT, TIED, C, T, V, real_step, tracked
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm_scratch.memory.imagined import ImaginedStep, imagined
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.tracking import KINDS, track_step
from llm_scratch.training.held import held_in_step


def peak_by_pytorch(made: ImaginedStep) -> int:
    """The peak of a step's second run by PyTorch's tracker as it comes."""
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    made.take()
    inputs = [tensor for batch in made.batches for tensor in batch]
    tracker.track_external(made.engine.model, *made.engine.optimizers, *inputs)
    with tracker:
        made.take()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


REAL = {
    "gpt": (GPT, {"loss_chunk": None}),
    "llama": (LLAMA, {"loss_chunk": None, "rows": 2}),
    "tied, in chunks": (TIED, {"loss_chunk": 16}),
    "blocks twice": (LLAMA, {"checkpoint_blocks": 1, "rows": 3}),
    "by hand": (LLAMA, {"attention": "by-hand"}),
    "autocast": (LLAMA, {"precision": "bfloat16"}),
    "16 bits": (LLAMA, {"weights": "bfloat16", "length": 50}),
    "muon": (LLAMA, {"optimizer": "muon", "loss_chunk": 8}),
}


@pytest.mark.parametrize("name", REAL)
def test_the_peak_is_that_of_a_real_step(name):
    cfg, options = REAL[name]
    step = TrainingStep(cfg, **options)
    by_hand = sdpa_kernel(SDPBackend.MATH) if step.attention == "by-hand" else nullcontext()
    with by_hand:
        expected = peak_by_pytorch(real_step(step))
    found = track_step(step)
    assert found.followed
    assert found.peak == expected


@pytest.mark.parametrize("cfg", [GPT, LLAMA])
def test_activations_are_what_is_kept_for_the_backward_pass(cfg):
    step = TrainingStep(cfg, rows=2, loss_chunk=None)
    made = real_step(step)
    with held_in_step(made.engine) as held:
        made.take()
    found = track_step(step).backward_parts
    kept = found["activations"] + found["other"]
    assert kept == pytest.approx(held.activations, abs=64)  # single numbers
    assert found["temporary"] == 2 * 2 * T * V * 4


@pytest.mark.parametrize("cfg", [GPT, LLAMA, TIED])
def test_parameters_gradients_and_state_are_known(cfg):
    with imagined(TrainingStep(cfg)) as made:
        sizes = [parameter.numel() for parameter in made.engine.model.parameters()]
    found = tracked(cfg)
    assert found.static == {
        "parameters": 4 * sum(sizes),
        "gradients": 4 * sum(sizes),
        "optimizer": 2 * 4 * sum(sizes) + 4 * len(sizes),  # and a number of steps for each
    }
    assert {kind: found.step_parts[kind] for kind in found.static} == found.static


def test_16_bits_halve_what_is_held():
    whole, half = tracked().static, tracked(weights="bfloat16").static
    assert half["parameters"] * 2 == whole["parameters"]
    assert half["gradients"] * 2 == whole["gradients"]


def test_whole_logits_cost_what_the_formula_says():
    whole, chunk = tracked(loss_chunk=None, rows=4), tracked(loss_chunk=32, rows=4)
    # Logits, their probabilities' logarithms and their gradient, against a chunk's logits, the
    # gradients of head and hidden states, and probabilities of 32 rows.
    expected = 12 * 4 * T * V - 4 * (32 * 1024 + V * C + 4 * T * C + 32 * V)
    assert whole.backward_peak - chunk.backward_peak == pytest.approx(expected, rel=0.01)
    assert chunk.backward_parts["gradients"] == 4 * V * C  # the head's, with the loss


def test_by_hand_attention_keeps_a_matrix_a_head():
    by_hand, fused = (
        tracked(attention=name, loss_chunk=None).backward_parts["activations"]
        for name in ("by-hand", "fused")
    )
    matrices = 2 * 4 * 4 * T * T  # of 2 blocks, 4 heads
    assert matrices < by_hand - fused < 1.5 * matrices


def test_checkpointed_blocks_keep_their_input():
    sizes = {"rows": 4, "loss_chunk": None}
    plain, every = tracked(**sizes), tracked(checkpoint_blocks=1, **sizes)
    deeper = tracked(replace(LLAMA, n_layers=3), checkpoint_blocks=1, **sizes)
    more = deeper.backward_parts["activations"] - every.backward_parts["activations"]
    assert more == 4 * T * C * 4
    assert plain.backward_peak > every.backward_peak + 10 * more


def test_what_a_block_computes_again_are_activations():
    sizes = {"rows": 4, "loss_chunk": None}
    deeper = tracked(replace(LLAMA, n_layers=3), **sizes)
    block = deeper.backward_parts["activations"] - tracked(**sizes).backward_parts["activations"]
    small = replace(LLAMA, vocab_size=50)  # whose peak is in a block
    found = tracked(small, rows=4, checkpoint_blocks=1).backward_parts
    assert found["activations"] > block / 2  # of which some has served its turn
    assert found["temporary"] > 0


def test_lora_learns_little_and_keeps_what_it_stands_on():
    plain, lora = tracked(), tracked(lora_rank=4)
    added = lora.static["parameters"] - plain.static["parameters"]
    layers = 2 * (C + C) + 2 * (C + C // 2) + 3 * (C + 96)  # inputs and outputs, a block
    assert added == 4 * 4 * (2 * layers + C + V)
    assert lora.static["gradients"] == added
    assert lora.static["optimizer"] == pytest.approx(2 * added, rel=0.02)


def test_a_tied_head_gets_no_lora():
    added = tracked(TIED, lora_rank=4).static["gradients"]
    assert added == tracked(lora_rank=4).static["gradients"] - 4 * 4 * (C + V)


def test_last_blocks_learn_alone():
    one, two = tracked(last_blocks=1), tracked(last_blocks=2)
    block = (tracked().static["parameters"] - 4 * (2 * V * C + C)) // 2
    assert one.static["gradients"] == block + 4 * (V * C + C)
    assert two.static["gradients"] - one.static["gradients"] == block
    assert one.backward_parts["activations"] < two.backward_parts["activations"]


def test_micro_batches_add_to_the_gradients_that_are_there():
    one, many = tracked(loss_chunk=32), tracked(loss_chunk=32, accumulation=3)
    whole = one.static["gradients"]
    # While the head's share is there, those of all before are.
    assert many.backward_peak - one.backward_peak == pytest.approx(whole, rel=0.05)


def test_float16_scales_its_loss_and_takes_the_step():
    for name in ("adamw", "muon"):
        assert tracked(precision="float16", optimizer=name).static == tracked(
            optimizer=name).static  # fmt: skip


def test_experts_get_equal_shares():
    sizes = {"loss_chunk": None, "rows": 4}
    four, eight = tracked(EXPERTS, **sizes), tracked(replace(EXPERTS, num_experts=8), **sizes)
    assert four.static["gradients"] == four.static["parameters"]
    assert eight.backward_parts["activations"] == pytest.approx(
        four.backward_parts["activations"], rel=0.1
    )


def test_the_peak_is_the_larger_of_the_two_and_the_sum_of_its_parts():
    long, short = tracked(rows=8), tracked(length=1, optimizer="muon")
    assert long.peak == long.backward_peak == sum(long.parts.values()) > long.step_peak
    assert short.peak == short.step_peak == sum(short.parts.values()) > short.backward_peak
    assert short.parts["temporary"] > 0 == short.parts["activations"]
    for found in (long, short):
        assert list(found.parts) == list(KINDS)
        assert found.seconds > 0


def test_it_leaves_everything_as_it_was():
    form, before = warnings.formatwarning, torch.random.get_rng_state()
    tracked(weights="bfloat16", ranks=2, division=FULL)
    assert torch.get_default_dtype() == torch.float32
    assert not torch.distributed.is_initialized()
    assert warnings.formatwarning is form
    assert torch.equal(torch.random.get_rng_state(), before)
    assert type(torch.zeros(1)) is torch.Tensor
    assert track_step(TrainingStep(LLAMA)) == tracked()


def test_another_engine_is_refused():
    with pytest.raises(ValueError, match=r"engine='deepspeed' can't be tracked"):
        tracked(engine="deepspeed")


def test_without_a_tracker_what_is_kept_is_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.distributed._tools.mem_tracker", None)
    monkeypatch.delitem(sys.modules, "torch.distributed._tools.fsdp2_mem_tracker", raising=False)
    with pytest.warns(UserWarning, match="has no memory tracker"):
        found = tracked(rows=2, loss_chunk=None)
    monkeypatch.undo()
    whole = tracked(rows=2, loss_chunk=None)
    assert not found.followed
    assert found.static == whole.static
    kept = whole.backward_parts["activations"] + whole.backward_parts["other"]
    assert found.backward_parts["activations"] == pytest.approx(kept, abs=64)
    assert found.backward_parts["temporary"] == 0


LARGE = """
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.tracking import track_step
from llm_scratch.model.families import any_config
from llm_scratch.model.llama_sizes import LLAMA3_CONFIG_8B
from llm_scratch.training.division import Division
from llm_scratch.training.memory_log import resident_peak

cfg = any_config(LLAMA3_CONFIG_8B)
step = TrainingStep(cfg, length=2048, ranks=8, division=Division("full"), checkpoint_blocks=1)
found = track_step(step)
print(found.static["parameters"], found.peak, resident_peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's resident memory")
def test_a_large_model_takes_no_memory():
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LARGE], env=env, capture_output=True, text=True,
                          check=True)  # fmt: skip
    parameters, peak, resident = map(int, done.stdout.split())
    assert parameters == 8_030_261_248 * 4 / 8
    assert peak > 20e9
    assert resident < 2e9
