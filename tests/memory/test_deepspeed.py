"""The estimate of a step under DeepSpeed against single figures of the series' measurements."""

from __future__ import annotations

import pytest

import llm_scratch as ls
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.series import KNEE, MEASURED, compared, knee_of
from llm_scratch.training.division import Division

MIB = 2**20


@pytest.mark.parametrize("setup", MEASURED, ids=lambda setup: setup.name)
def test_estimates_come_near_the_measurements(setup) -> None:
    for row in compared(setup):
        if row.bar is not None:
            assert row.difference == pytest.approx(0, abs=row.bar), row


def test_slopes_come_near_the_measurements() -> None:
    for setup in MEASURED:
        if setup.slope is not None:
            rows = compared(setup)
            steps = rows[-1].batch - rows[0].batch
            slope = (rows[-1].estimated - rows[0].estimated) / steps / MIB
            assert slope == pytest.approx(setup.slope, rel=0.1), setup.name


def test_knee_is_where_the_optimizers_peak_meets_the_backward_one() -> None:
    assert knee_of("qwen1.5-0.5b") == pytest.approx(KNEE, rel=0.05)


def test_chunked_loss_would_have_saved_most_with_checkpointing() -> None:
    saved = {setup.name: compared(setup)[-1] for setup in MEASURED}
    row = saved["8B, ZeRO-3, checkpointing"]
    assert row.chunked < 0.6 * row.estimated


def test_states_are_eighteen_bytes_a_parameter() -> None:
    estimate = estimate_memory("qwen1.5-0.5b", length=64, engine="deepspeed")
    kinds = ("parameters", "gradients", "optimizer")
    assert sum(map(estimate.update.of_kind, kinds)) == 18 * 463_987_712


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gpt2", {}, "models of Llama's family"),
        ("smollm2", {"lora_rank": 8}, "AdamW on all parameters"),
        ("smollm2", {"optimizer": "muon"}, "AdamW on all parameters"),
        ("smollm2", {"device": "cpu"}, "--device cuda"),
        ("smollm2", {"ranks": 4, "division": Division("full", mesh=(2, 2))}, "no --mesh"),
    ],
)
def test_what_its_formulas_do_not_know_is_refused(model, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ls.estimate_memory(model, length=64, engine="deepspeed", **options)
