"""The checks of chapter 7's exercises: Phi-3's prompts, and instructions that are not learned."""

from __future__ import annotations

from typing import Any

import torch

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter7_texts import ENTRIES, Characters, must_hold, text_of_item
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_equal
from llm_scratch.selfcheck.outcome import Check


def _marks_the_user(function: Any) -> None:
    for entry in ENTRIES:
        came = call("format_input_phi", function, (dict(entry),), "(entry)")
        must(isinstance(came, str), "a text", type(came).__name__, hints.NOT_TENSOR)
        must_hold(came, ["<|user|>", entry["instruction"], entry["input"]], hints.PHI_MARKS)
        must("###" not in came, "no headings of Alpaca", repr(came), hints.PHI_MARKS)
        must(entry["output"] not in came, "no answer in it", repr(came), hints.ANSWER_GIVEN_AWAY)


def _encodes_phi(cls: Any) -> None:
    data = call("InstructionDatasetPhi", cls, (ENTRIES, Characters()), "(data, tokenizer)")
    for index, entry in enumerate(ENTRIES):
        text = text_of_item(data[index])
        must_hold(text, ["<|user|>", entry["instruction"], entry["input"]], hints.PHI_MARKS)
        must_hold(text, [entry["instruction"], "<|assistant|>", entry["output"]], hints.PHI_ANSWER)


def _gives_instruction_lengths(cls: Any) -> None:
    name = "InstructionDatasetWithMasking"
    data = call(name, cls, (ENTRIES, Characters()), "(data, tokenizer)")
    for index, entry in enumerate(ENTRIES):
        item = data[index]
        must(
            isinstance(item, (tuple, list)) and len(item) == 2,
            "a pair: length of the instruction, ids",
            type(item).__name__,
            hints.NOT_TENSOR,
        )
        length, text = int(item[0]), text_of_item(item[1])
        must_hold(
            text, [entry["instruction"], entry["input"], entry["output"]], hints.RESPONSE_MISSING
        )
        # With or without the heading of the response; the answer itself is never part of it.
        least = text.index(entry["input"] or entry["instruction"])
        least += len(entry["input"] or entry["instruction"])
        most = text.rindex(entry["output"])
        must(
            least <= length <= most,
            f"a length from {least} to {most}",
            f"{length}",
            hints.INSTRUCTION_LENGTH,
        )


PAD, IGNORE = 50256, -100
BATCH = ((2, [0, 1, 2, 3, 4]), (1, [5, 6]), (2, [7, 8, 9]))
TARGETS = torch.tensor(
    [
        [IGNORE, 2, 3, 4, PAD],
        [6, PAD, IGNORE, IGNORE, IGNORE],
        [IGNORE, 9, PAD, IGNORE, IGNORE],
    ]
)
FINAL = "(batch, pad_token_id=50256, ignore_index=-100, allowed_max_length=None, device='cpu')"


def _masks_instructions(function: Any) -> None:
    batch = [(length, list(ids)) for length, ids in BATCH]
    came = call("custom_collate_with_masking_fn", function, (batch,), FINAL)
    must(
        isinstance(came, (tuple, list)) and len(came) == 2,
        "a pair: inputs, targets",
        type(came).__name__,
        hints.NOT_TENSOR,
    )
    learned = TARGETS.clone()
    learned[0, 0], learned[2, 0] = 1, 8
    late = TARGETS.clone()
    late[0, 1], late[1, 0], late[2, 1] = IGNORE, IGNORE, IGNORE
    end_too = TARGETS.masked_fill(TARGETS == PAD, IGNORE)
    mistakes: Mistakes = {
        hints.INSTRUCTION_LEARNED: learned,
        hints.INSTRUCTION_OFF_BY_ONE: late,
        hints.END_MASKED: end_too,
    }
    must_equal(came[1], TARGETS, mistakes, hints.INSTRUCTION_LEARNED)


PHI, MASKING = "Exercise 7.1", "Exercise 7.2"
COLLATE = "custom_collate_with_masking_fn"
EXERCISE_CHECKS = (
    Check(PHI, "format_input_phi", "marks what the user says", _marks_the_user),
    Check(PHI, "InstructionDatasetPhi", "gives the ids of prompt and answer", _encodes_phi),
    Check(
        MASKING,
        "InstructionDatasetWithMasking",
        "tells how long the instruction is",
        _gives_instruction_lengths,
    ),
    Check(MASKING, COLLATE, "keeps instructions out of the loss", _masks_instructions),
)
