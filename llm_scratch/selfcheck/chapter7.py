"""The checks of chapter 7: prompts, data sets of instructions, and their batches.

The checks of exercises, judge and preferences are in files of their own.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter7_exercises import EXERCISE_CHECKS
from llm_scratch.selfcheck.chapter7_judging import JUDGING_CHECKS
from llm_scratch.selfcheck.chapter7_preferences import PREFERENCE_CHECKS
from llm_scratch.selfcheck.chapter7_texts import ENTRIES, Characters, must_hold, text_of_item
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_be_tensor, must_equal
from llm_scratch.selfcheck.forms import other_than_rows
from llm_scratch.selfcheck.outcome import Check, MistakeError
from llm_scratch.selfcheck.server import Served, serving

DATA = [{"instruction": "Name a café drink.", "input": "", "output": "Tea"}]
FETCH = "(file_path, url)"


def _load(function: Any, there: str | None) -> tuple[Any, str, int]:
    """Return the result, the content of the file afterwards, and the number of downloads."""
    body = json.dumps(DATA, ensure_ascii=False).encode()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        serving(Served(body)) as served,
    ):
        path = Path(folder) / "data.json"
        if there is not None:
            path.write_text(there, encoding="utf-8")
        args = (str(path), f"{served.url}data.json")
        came = call("download_and_load_file", function, args, FETCH)
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        return came, found, served.fetched


def _loads_a_file(function: Any) -> None:
    came, found, _ = _load(function, None)
    must(came == DATA, f"{DATA}", f"{came!r}", hints.PARSED)
    must(
        bool(found) and json.loads(found) == DATA,
        "the data at file_path",
        repr(found),
        hints.FILE_KEPT,
    )


def _loads_what_is_there(function: Any) -> None:
    came, _, fetched = _load(function, '[{"instruction": "kept"}]')
    must(fetched == 0, "no download if the file is there", f"{fetched}", hints.FILE_KEPT)
    must(came == [{"instruction": "kept"}], "the file's content", f"{came!r}", hints.FILE_KEPT)


def _format(function: Any, entry: dict[str, str]) -> str:
    came = call("format_input", function, (dict(entry),), "(entry)")
    must(isinstance(came, str), "a text", type(came).__name__, hints.NOT_TENSOR)
    return str(came)


def _puts_parts_under_headings(function: Any) -> None:
    entry = ENTRIES[0]
    parts = ["### Instruction:", entry["instruction"], "### Input:", entry["input"]]
    must_hold(_format(function, entry), parts, hints.HEADINGS)


def _leaves_out_an_empty_input(function: Any) -> None:
    entry = ENTRIES[1]
    came = _format(function, entry)
    must_hold(came, ["### Instruction:", entry["instruction"]], hints.HEADINGS)
    must("Input" not in came, "no section for an empty input", repr(came[-40:]), hints.EMPTY_INPUT)


def _keeps_the_answer_back(function: Any) -> None:
    for entry in ENTRIES:
        came = _format(function, entry)
        must(entry["output"] not in came, "no answer in it", repr(came), hints.ANSWER_GIVEN_AWAY)


def _words_it_like_the_book(function: Any) -> None:
    from llm_scratch.finetuning.prompts import format_input

    for entry in ENTRIES:
        came, book = _format(function, entry), format_input(entry)
        if came != book:
            same = [a == b for a, b in zip(came, book, strict=False)]
            start = max(same.index(False) if False in same else len(same), 10) - 10
            texts = [repr(text[start : start + 50]) for text in (book, came)]
            raise MistakeError(texts[0], texts[1], hints.PROMPT_TEXT, counts=False)


def _items(cls: Any) -> list[Any]:
    data = call("InstructionDataset", cls, (ENTRIES, Characters()), "(data, tokenizer)")
    must(len(data) == len(ENTRIES), f"{len(ENTRIES)} items", f"{len(data)}", hints.ROWS_COUNTED)
    return [data[index] for index in range(len(ENTRIES))]


def _encodes_prompt_and_answer(cls: Any) -> None:
    for item, entry in zip(_items(cls), ENTRIES, strict=True):
        text = text_of_item(item)
        must_hold(text, [entry["instruction"]], hints.PROMPT_MISSING)
        must_hold(text, [entry["output"]], hints.RESPONSE_MISSING)
        parts = [entry["instruction"], entry["input"], "### Response:", entry["output"]]
        must_hold(text, parts, hints.RESPONSE_HEADING)


def _ends_with_the_answer(cls: Any) -> None:
    for item, entry in zip(_items(cls), ENTRIES, strict=True):
        text = text_of_item(item)
        ends = text.rstrip().endswith(entry["output"])
        must(
            ends,
            f"a text that ends with {entry['output']!r}",
            repr(text[-30:]),
            hints.RESPONSE_MISSING,
        )


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
        hints.PADDING_LEARNED: TARGETS,
        hints.END_MASKED: every,
        hints.TARGETS_NOT_SHIFTED: [
            INPUTS,
            INPUTS.masked_fill(INPUTS == PAD, IGNORE),
            unshifted,
        ],
    }
    must_equal(targets, MASKED, mistakes, hints.PADDING_LEARNED)


def _truncates(function: Any) -> None:
    inputs, targets = _pair(function(_batch(), PAD, IGNORE, 3))
    for came, whole in ((inputs, INPUTS), (targets, MASKED)):
        must_be_tensor(came, (3, 3), hints.TRUNCATION)
        must_equal(came, whole[:, :3], hint=hints.TRUNCATION)


LOADED, DATASET = "download_and_load_file", "InstructionDataset"
DRAFT_1, DRAFT_2, COLLATE = (f"custom_collate_{end}" for end in ("draft_1", "draft_2", "fn"))
CHECKS = (
    Check("7.2", LOADED, "downloads a file and parses it", _loads_a_file),
    Check("7.2", LOADED, "reads a file that is already there", _loads_what_is_there),
    Check("7.2", "format_input", "puts parts under headings", _puts_parts_under_headings),
    Check("7.2", "format_input", "leaves an empty input out", _leaves_out_an_empty_input),
    Check("7.2", "format_input", "does not show the answer", _keeps_the_answer_back),
    Check("7.2", "format_input", "is worded like the book's", _words_it_like_the_book),
    Check("7.3", DATASET, "gives the ids of prompt and answer", _encodes_prompt_and_answer),
    Check("7.3", DATASET, "ends each text with its answer", _ends_with_the_answer),
    Check("7.3", DRAFT_1, "pads to the longest text", _pads_inputs),
    Check("7.3", DRAFT_2, "gives inputs and shifted targets", _shifts_targets),
    Check("7.3", COLLATE, "keeps padding out of the loss", _masks_padding, other=other_than_rows),
    Check("7.3", COLLATE, "cuts at allowed_max_length", _truncates, other=other_than_rows),
    *JUDGING_CHECKS,
    *EXERCISE_CHECKS,
    *PREFERENCE_CHECKS,
)
