"""The checks of chapter 7: batches of instructions of different lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_be_tensor, must_equal
from llm_scratch.selfcheck.outcome import Check

PAD, IGNORE = 50256, -100
BATCH = ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])
INPUTS = torch.tensor([[0, 1, 2, 3, 4], [5, 6, PAD, PAD, PAD], [7, 8, 9, PAD, PAD]])
TARGETS = torch.tensor([[1, 2, 3, 4, PAD], [6, PAD, PAD, PAD, PAD], [8, 9, PAD, PAD, PAD]])
MASKED = torch.tensor(
    [[1, 2, 3, 4, PAD], [6, PAD, IGNORE, IGNORE, IGNORE], [8, 9, PAD, IGNORE, IGNORE]]
)
DRAFT = '(batch, pad_token_id=50256, device="cpu")'
FINAL = "(batch, pad_token_id=50256, ignore_index=-100, allowed_max_length=None, device='cpu')"


def _batch() -> list[list[int]]:
    return [list(row) for row in BATCH]


def _pair(came: Any) -> tuple[Tensor, Tensor]:
    must(
        isinstance(came, (tuple, list)) and len(came) == 2,
        "a pair: inputs, targets",
        type(came).__name__,
        hints.NOT_TENSOR,
    )
    return came[0], came[1]


def _pads_inputs(function: Any) -> None:
    came = call("custom_collate_draft_1", function, (_batch(),), DRAFT)
    longer = torch.cat([INPUTS, torch.full((3, 1), PAD)], dim=1)
    if isinstance(came, Tensor) and came.shape == longer.shape:
        must(False, "rows as long as the longest text", "rows one longer", hints.RAGGED)
    must_equal(came, INPUTS, hint="Count how many padding ids each row needs.")


def _shifts_targets(function: Any) -> None:
    inputs, targets = _pair(call("custom_collate_draft_2", function, (_batch(),), DRAFT))
    must_equal(inputs, INPUTS, hint="Count how many padding ids each row needs.")
    must_equal(targets, TARGETS, {hints.TARGETS_NOT_SHIFTED: INPUTS}, hints.TARGETS_SHIFTED_WRONG)


def _masks_padding(function: Any) -> None:
    inputs, targets = _pair(call("custom_collate_fn", function, (_batch(),), FINAL))
    must_equal(inputs, INPUTS, hint="Count how many padding ids each row needs.")
    unshifted = torch.where(INPUTS.eq(PAD).cumsum(1) > 1, IGNORE, INPUTS)
    every = TARGETS.masked_fill(TARGETS == PAD, IGNORE)
    mistakes: Mistakes = {
        hints.PADDING_TARGETS: [TARGETS, every],
        hints.TARGETS_NOT_SHIFTED: [
            INPUTS,
            INPUTS.masked_fill(INPUTS == PAD, IGNORE),
            unshifted,
        ],
    }
    must_equal(targets, MASKED, mistakes, hints.PADDING_TARGETS)


def _truncates(function: Any) -> None:
    inputs, targets = _pair(function(_batch(), PAD, IGNORE, 3))
    for came, whole in ((inputs, INPUTS), (targets, MASKED)):
        must_be_tensor(came, (3, 3), hints.TRUNCATION)
        must_equal(came, whole[:, :3], hint=hints.TRUNCATION)


CHECKS = (
    Check("7.3", "custom_collate_draft_1", "pads to the longest text", _pads_inputs),
    Check("7.3", "custom_collate_draft_2", "gives inputs and shifted targets", _shifts_targets),
    Check("7.3", "custom_collate_fn", "keeps padding out of the loss", _masks_padding),
    Check("7.3", "custom_collate_fn", "cuts at allowed_max_length", _truncates),
)
