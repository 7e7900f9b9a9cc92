"""The book's batches of instructions, and files of them that are not as they should be."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.finetuning import instructions
from llm_scratch.finetuning.instructions import (
    InstructionDataset,
    InstructionDatasetPhi,
    InstructionDatasetWithMasking,
    check_entry,
    custom_collate_draft_1,
    custom_collate_draft_2,
    custom_collate_fn,
    custom_collate_with_masking_fn,
    download_and_load_file,
    load_instructions,
)
from llm_scratch.finetuning.prompts import BOOK_PHI, format_input, format_input_phi, prompt_text

END = 50256
GOOD = {"instruction": "Name a bird.", "input": "", "output": "A gull."}
SORT = {"instruction": "Sort the words.", "input": "tide, bell", "output": "bell, tide"}
ROWS = st.lists(st.lists(st.sampled_from([1, 2, END]), min_size=1, max_size=9), min_size=1)


def test_collate_fn_keeps_the_end_id_inside_of_a_text_as_a_target():
    inputs, targets = custom_collate_fn([[1, END, 2, END, 3], [4, END], [5]])
    assert targets.tolist() == [
        [END, 2, END, 3, END],
        [END, END, -100, -100, -100],
        [END, -100, -100, -100, -100],
    ]
    assert inputs.tolist() == [
        [1, END, 2, END, 3],
        [4, END, END, END, END],
        [5, END, END, END, END],
    ]


@given(ROWS)
def test_collate_fn_learns_each_text_and_one_end_a_row(rows):
    inputs, targets = custom_collate_fn(rows)
    assert inputs.shape == targets.shape == (len(rows), max(map(len, rows)))
    for ids, line, wanted in zip(rows, inputs.tolist(), targets.tolist(), strict=True):
        padding = len(line) - len(ids)
        assert line == ids + [END] * padding
        assert wanted == [*ids[1:], END] + [-100] * padding


@given(ROWS, st.integers(1, 12))
def test_collate_fn_cuts_what_is_too_long(rows, most):
    whole = custom_collate_fn(rows)
    cut = custom_collate_fn(rows, allowed_max_length=most)
    assert all(torch.equal(a[:, :most], b) for a, b in zip(whole, cut, strict=True))
    assert cut[0].shape[1] == min(most, whole[0].shape[1])


def test_collate_fn_takes_other_ids_and_another_index():
    inputs, targets = custom_collate_fn([[1, 2], [3]], pad_token_id=9, ignore_index=-1)
    assert inputs.tolist() == [[1, 2], [3, 9]]
    assert targets.tolist() == [[2, 9], [9, -1]]
    assert inputs.dtype == targets.dtype == torch.int64


def test_collate_drafts_pad_with_the_end_id():
    assert custom_collate_draft_1([[1, 2], [3]], 9).tolist() == [[1, 2], [3, 9]]
    inputs, targets = custom_collate_draft_2([[1, 2], [3]], 9)
    assert inputs.tolist() == [[1, 2], [3, 9]]
    assert targets.tolist() == [[2, 9], [9, 9]]


def test_collate_leaves_the_rows_as_they_are():
    rows = [[1, 2, 3], [4]]
    custom_collate_fn(rows)
    custom_collate_draft_2(rows)
    assert rows == [[1, 2, 3], [4]]


def test_collate_with_masking_hides_the_instruction_alone():
    batch = [(3, [1, 2, 3, 4, END, 5]), (1, [6, 7]), (2, [8, END])]
    inputs, targets = custom_collate_with_masking_fn(batch)
    assert torch.equal(inputs, custom_collate_fn([ids for _, ids in batch])[0])
    assert targets.tolist() == [
        [-100, -100, 4, END, 5, END],
        [7, END, -100, -100, -100, -100],
        [-100, END, -100, -100, -100, -100],
    ]


def test_collate_with_masking_hides_nothing_of_an_empty_instruction():
    assert custom_collate_with_masking_fn([(0, [1, 2, 3])], 9)[1].tolist() == [[2, 3, 9]]


def test_collate_with_masking_cuts_and_takes_another_index():
    _, targets = custom_collate_with_masking_fn([(3, [1, 2, 3, 4])], 9, -1, 3)
    assert targets.tolist() == [[-1, -1, 4]]


@pytest.mark.parametrize(
    "collate", [custom_collate_draft_1, custom_collate_draft_2, custom_collate_fn]
)
def test_collate_refuses_empty_batches_and_texts(collate):
    with pytest.raises(ValueError, match="batch of 0 rows"):
        collate([])
    with pytest.raises(ValueError, match="of which one is empty"):
        collate([[1], []])


@pytest.mark.parametrize("most", [0, -1])
def test_collate_fn_refuses_a_length_below_one(most):
    with pytest.raises(ValueError, match="must be 1 or more; None means no limit"):
        custom_collate_fn([[1]], allowed_max_length=most)


def test_dataset_holds_prompt_heading_and_answer(tokenizer):
    data = InstructionDataset([GOOD, SORT], tokenizer)
    assert len(data) == 2
    assert tokenizer.decode(data[0]) == format_input(GOOD) + "\n\n### Response:\nA gull."
    assert tokenizer.decode(data[1]) == format_input(SORT) + "\n\n### Response:\nbell, tide"


def test_dataset_with_masking_knows_the_length_of_the_instruction(tokenizer):
    data = InstructionDatasetWithMasking([GOOD, SORT], tokenizer)
    for entry, (length, ids) in zip([GOOD, SORT], [data[0], data[1]], strict=True):
        assert tokenizer.decode(ids[:length]) == format_input(entry)


def test_dataset_phi_has_the_other_style(tokenizer):
    data = InstructionDatasetPhi([SORT], tokenizer)
    assert tokenizer.decode(data[0]) == prompt_text(SORT, BOOK_PHI) + "bell, tide"
    assert tokenizer.decode(data[0]).startswith(format_input_phi(SORT))


def test_dataset_reads_a_special_token_as_text(tokenizer):
    entry = {**GOOD, "output": "It is written <|endoftext|>."}
    ids = InstructionDataset([entry], tokenizer)[0]
    assert END not in ids
    assert tokenizer.decode(ids).endswith("It is written <|endoftext|>.")


def test_dataset_names_the_bad_row(tokenizer):
    with pytest.raises(ValueError, match=r"data\[1\] has no output; it has instruction"):
        InstructionDataset([GOOD, {"instruction": "a"}], tokenizer)


def test_load_instructions_gives_the_entries(tmp_path):
    path = tmp_path / "data.json"
    entries = [GOOD, {"instruction": "Straße?", "output": "ß", "more": 3}]
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    assert load_instructions(path) == load_instructions(str(path)) == entries


def test_load_instructions_takes_a_null_input_for_none(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{**GOOD, "input": None}]), encoding="utf-8")
    (entry,) = load_instructions(path)
    assert format_input(entry) == format_input(GOOD)
    with pytest.raises(ValueError, match="here: output is of type NoneType, not a text"):
        check_entry("here", {**GOOD, "output": None})


def test_load_instructions_takes_a_byte_order_mark(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD]), encoding="utf-8-sig")
    assert load_instructions(path) == [GOOD]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a", "input": ""}, "row 2 has no output; it has instruction, input"),
        ({"output": "a"}, "row 2 has no instruction; it has output"),
        ({"text": "a"}, "row 2 has no instruction and no output; it has text"),
        ({**GOOD, "output": ""}, "row 2 has an empty output; leave the row out"),
        ({**GOOD, "output": " \n"}, "row 2 has an empty output"),
        ({**GOOD, "output": 7}, "row 2: output is of type int, not a text"),
        ({**GOOD, "instruction": ["a"]}, "row 2: instruction is of type list, not a text"),
        ({**GOOD, "input": 1.5}, "row 2: input is of type float, not a text"),
        (["a"], "row 2 is a list, not an object"),
        ("a", "row 2 is a str, not an object"),
    ],
)
def test_load_instructions_names_file_and_row(tmp_path, row, message):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD, row, {}]), encoding="utf-8")
    with pytest.raises(ValueError, match=f"data.json: {message}"):
        load_instructions(path)
    if isinstance(row, dict):
        with pytest.raises(ValueError, match=f"^{message}"):
            check_entry("row 2", row)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data.json: has no rows; rows with instruction and output are needed"),
        (b'[{"instruction": "a", "out', "data.json: row 1 is not JSON: .* is it cut short"),
        (b'[{"instruction": "a", "output": "b"}', "data.json: row 1 is followed by ''"),
        (b"instruction,output\na,b\n", "data.json: line 1 is not JSON"),
        (b"\xff\xfe[\x00]\x00", "data.json: is UTF-16, not UTF-8; save it as UTF-8"),
        (b"[\x00\n\x00", "data.json: is UTF-16"),
        (b"[" * 100_000, "data.json: row 1 can't be read: "),
        (b"{}", "data.json: line 1 has no instruction and no output; it has nothing"),
        (b"[]", "data.json: has no rows"),
        (b"null", "data.json: line 1 is a NoneType, not an object"),
        (b"[] []", "data.json: continues after its list, which has 0 rows"),
    ],
)
def test_load_instructions_refuses_what_is_no_list(tmp_path, content, message):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_instructions(path)


def test_load_instructions_refuses_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_instructions(tmp_path / "nothing.json")


def test_download_and_load_file_fetches_once(tmp_path, monkeypatch):
    asked = []

    def fetch(url, path):
        asked.append(url)
        path.write_text(json.dumps([GOOD]), encoding="utf-8")

    monkeypatch.setattr(instructions, "download_file", fetch)
    for _ in range(2):
        assert download_and_load_file(tmp_path / "data.json", "https://there/data.json") == [GOOD]
    assert asked == ["https://there/data.json"]
