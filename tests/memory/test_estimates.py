"""Estimates against tensors that are followed one by one, and against counting by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import llm_scratch as ls
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.models import model_config
from llm_scratch.memory.moments import Moments
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.terms import LEGEND
from llm_scratch.model.families import FAMILIES, parameter_shapes
from llm_scratch.training.division import Division

GPT = ls.GPTConfig(
    vocab_size=2000, context_length=128, emb_dim=96, n_heads=4, n_layers=4, qkv_bias=True,
    tie_weights=True,
)  # fmt: skip
BOOK = replace(GPT, drop_rate=0.1, tie_weights=False, qkv_bias=False)
LLAMA = ls.LlamaConfig(
    vocab_size=2000, context_length=128, emb_dim=96, n_heads=6, n_kv_groups=2, head_dim=24,
    n_layers=4, hidden_dim=256,
)  # fmt: skip
QWEN = replace(LLAMA, qk_norm=True, qkv_bias=True, tie_weights=True)
EXPERTS = replace(LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)
FULL = Division("full")
BF16 = "bfloat16"

STEPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt": (GPT, {}),
    "gpt with dropout, recomputed": (BOOK, {"checkpoint_blocks": 1}),
    "gpt with scores": (GPT, {"attention": "by-hand", "precision": BF16}),
    "gpt with lora": (BOOK, {"lora_rank": 4}),
    "gpt, last blocks": (BOOK, {"last_blocks": 2, "optimizer": "muon", "rows": 1}),
    "llama, products in 16 bit": (LLAMA, {"precision": BF16, "checkpoint_blocks": 2}),
    "llama, weights in 16 bit": (LLAMA, {"weights": BF16, "loss_chunk": 64}),
    "llama, all logits": (LLAMA, {"loss_chunk": None}),
    "llama, divided": (LLAMA, {"ranks": 8, "division": FULL}),
    "llama, copies": (LLAMA, {"ranks": 2, "accumulation": 2}),
    "qwen, states divided": (QWEN, {"ranks": 64, "division": Division("optimizer"), "rows": 1}),
    "experts": (EXPERTS, {"precision": BF16}),
}


@pytest.mark.parametrize("name", STEPS)
def test_estimate_agrees_with_what_is_followed(name) -> None:
    tracking = pytest.importorskip("llm_scratch.memory.tracking")
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    cfg, options = STEPS[name]
    step = TrainingStep(cfg, **{"rows": 4, "length": 96, "device": "cpu", **options})
    estimate, tracked = estimate_memory(step), tracking.track_step(step)
    assert estimate.backward.bytes == pytest.approx(tracked.backward_peak, rel=0.03)
    assert estimate.update.bytes == pytest.approx(tracked.step_peak, rel=0.03)
    held = tracked.step_parts["parameters"] + tracked.step_parts["optimizer"]
    kinds = ("parameters", "optimizer")
    assert sum(map(estimate.update.of_kind, kinds)) == pytest.approx(held, rel=0.05)


def test_states_of_one_process_are_sixteen_bytes_a_parameter() -> None:
    # 4 + 4 + 8; the ids are 16 bytes each. The same count as of a model's tensors.
    for cfg in (GPT, BOOK, LLAMA, QWEN, EXPERTS):
        model = next(f for f in FAMILIES.values() if isinstance(cfg, f.config)).model_class(cfg)
        estimate = estimate_memory(cfg, rows=2, length=10)
        assert estimate.update.bytes == 16 * model.num_parameters() + 16 * 2 * 10


def test_lora_learns_thin_matrices_alone() -> None:
    step = TrainingStep(LLAMA, length=64, lora_rank=4)
    matrices = [
        shape for name, shape in parameter_shapes(LLAMA).items()
        if len(shape) == 2 and name != "tok_emb.weight"
    ]  # fmt: skip
    thin = sum(4 * sum(shape) for shape in matrices)
    assert Moments(step).parameters.learned == thin
    assert estimate_memory(step).update.of_kind("optimizer") == 8 * thin


def test_blocks_that_are_recomputed_keep_their_input_alone() -> None:
    plain, again = (
        estimate_memory(LLAMA, rows=8, length=128, checkpoint_blocks=every) for every in (0, 1)
    )
    kept = {term.name: term.bytes for term in again.backward.terms}
    entries = 4 * 8 * 128 * LLAMA.emb_dim  # bytes of one block's
    assert kept["what recomputed blocks get"] % entries == 0
    assert not any(name.startswith("blocks:") for name in kept)
    assert again.bytes < plain.bytes


def test_scores_grow_with_the_square_of_the_length() -> None:
    def scores(length: int) -> int:
        by_hand, fused = (
            estimate_memory(GPT, rows=8, length=length, attention=kind, loss_chunk=16)
            for kind in ("by-hand", "fused")
        )
        return by_hand.backward.bytes - fused.backward.bytes

    assert scores(128) > 3 * scores(64) > 0


def test_dropout_keeps_a_byte_a_number_on_a_gpu() -> None:
    cpu, cuda = (estimate_memory(BOOK, length=128, device=name) for name in ("cpu", "cuda"))
    assert cuda.bytes < cpu.bytes
    assert "unchecked" in " ".join(cuda.left_out)
    assert "unchecked" not in " ".join(cpu.left_out)


def test_offloaded_states_lie_in_the_hosts_memory() -> None:
    here, there = (
        estimate_memory(LLAMA, length=64, ranks=4, division=Division("full", offload=offload))
        for offload in (False, True)
    )
    assert there.update.bytes == 0
    assert there.host_bytes == here.update.bytes - 16 * 64
    kinds = ("parameters", "optimizer")
    assert sum(map(there.backward.of_kind, kinds)) == 0 < there.backward.of_kind("gathered")


def test_more_processes_hold_less_each() -> None:
    sizes = [
        estimate_memory(LLAMA, length=64, ranks=ranks, division=FULL).update.bytes
        for ranks in (2, 4, 8)
    ]
    assert sizes == sorted(sizes, reverse=True)
    copies = estimate_memory(LLAMA, length=64, ranks=8, division=Division("full", mesh=(4, 2)))
    assert copies.update.bytes == sizes[0]


def test_every_term_has_a_formula_with_known_letters() -> None:
    estimate = estimate_memory("llama3-8b", length=2048, ranks=8, division=FULL, precision=BF16)
    assert all(term.formula for term in estimate.backward.terms)
    assert estimate.legend.keys() <= LEGEND.keys()
    values = estimate.as_json()
    assert sum(term["bytes"] for term in values["backward"]["terms"]) == values["bytes"]
    assert sum(values["backward"]["by_kind"].values()) == values["bytes"]
    assert values["winner"] == "backward"


def test_options_and_a_step_give_the_same() -> None:
    step = TrainingStep(model_config("gpt2"), rows=2, length=256)
    assert estimate_memory(step) == ls.estimate_memory("gpt2", rows=2, length=256)
    with pytest.raises(ValueError, match="states rows itself"):
        estimate_memory(step, rows=3)


def test_experts_have_no_lora() -> None:
    with pytest.raises(ValueError, match="experts have no LoRA"):
        estimate_memory(EXPERTS, lora_rank=4)
