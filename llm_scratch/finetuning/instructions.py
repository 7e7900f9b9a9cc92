"""Instructions and their answers as the book batches them (book 7.2 to 7.4).

Masks follow from lengths, never from ids, so the end-of-text id may be the padding and may occur
inside a text. `instruction_rows` is the counterpart for the loop for real runs.

Shape letters: B rows of a batch, T tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from llm_scratch.checks import check_count
from llm_scratch.data_files import Columns, file_rows
from llm_scratch.download import download_file
from llm_scratch.files import parse_any_json
from llm_scratch.finetuning.prompts import BOOK, BOOK_PHI, entry_messages, prompt_text
from llm_scratch.text.token_rows import IGNORE_INDEX
from llm_scratch.tokenizers.any_tokenizer import encode

KEYS = ("instruction", "output")


def load_instructions(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the entries of a file (JSON, JSON Lines, CSV, TSV): instruction, input, output.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and row, if it holds something else, or nothing.
    """
    return load_entries(path, KEYS)


def load_entries(path: str | os.PathLike[str], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of a file that have an instruction and answers; see `check_entry`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and row, if it holds something else, or nothing.
    """
    rows = list(file_rows(path, Columns(tuple(keys), ("input",))))
    for where, entry in rows:
        check_entry(where, entry, keys)
    return [entry for _, entry in rows]


def check_entry(where: str, entry: Any, keys: Sequence[str] = KEYS) -> None:
    """Refuse an entry that is not an instruction with its answers.

    Args:
        where: the entry's name in errors.
        entry: a dict with `keys`, and optionally an input.
        keys: the key of the instruction, then those of the answers, which must not be empty.

    Raises:
        ValueError: if the entry is anything else; says what is wrong with it.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is a {type(entry).__name__}; a dict is needed")
    if missing := [key for key in keys if key not in entry]:
        has = ", ".join(map(str, entry)) or "nothing"
        raise ValueError(f"{where} has no {' and no '.join(missing)}; it has {has}")
    for key in (*keys, "input"):
        if key == "input" and entry.get(key) is None:
            continue  # as other tools write a missing one
        if not isinstance(entry[key], str):
            raise ValueError(f"{where}: {key} is of type {type(entry[key]).__name__}, not a text")
    for key in keys[1:]:
        if not entry[key].strip():
            raise ValueError(f"{where} has an empty {key}; leave the row out")


def download_and_load_file(file_path: str | os.PathLike[str], url: str) -> Any:
    """Return the content of a JSON file, downloaded once if it is not there.

    Raises:
        DownloadError: if it can't be downloaded; nothing half-written stays behind.
        ValueError: if it is not JSON; names the file.

    Source:
        Book 7.2.
    """
    path = Path(file_path)
    if not path.is_file():
        download_file(url, path)
    return parse_any_json(path, path.read_bytes())


class InstructionDataset(Dataset):
    """Instructions with their answers as ids: item i is a list of int.

    A special token written in a text is ordinary text.

    Args:
        data: dicts with instruction, input and output.
        tokenizer: any tokenizer.

    Source:
        Book 7.3.
    """

    format = BOOK

    def __init__(self, data: Sequence[Any], tokenizer: Any) -> None:
        self.data = data
        self.encoded_texts: list[list[int]] = []
        for number, entry in enumerate(data):
            check_entry(f"data[{number}]", entry)
            text = prompt_text(entry, self.format) + entry["output"]
            self.encoded_texts.append(encode(tokenizer, text, "text"))

    def _instruction(self, entry: Any) -> str:
        return self.format.plain_text(entry_messages(entry, self.format))

    def __getitem__(self, index: int) -> Any:
        return self.encoded_texts[index]

    def __len__(self) -> int:
        return len(self.data)


class InstructionDatasetWithMasking(InstructionDataset):
    """The same with the number of ids in the instruction: item i is (length, ids).

    Source:
        Book exercise 7.2.
    """

    def __init__(self, data: Sequence[Any], tokenizer: Any) -> None:
        super().__init__(data, tokenizer)
        self.instruction_lengths = [
            len(encode(tokenizer, self._instruction(entry), "text")) for entry in data
        ]

    def __getitem__(self, index: int) -> tuple[int, list[int]]:
        return self.instruction_lengths[index], self.encoded_texts[index]


class InstructionDatasetPhi(InstructionDataset):
    """The same in Phi-3's style.

    Source:
        Book exercise 7.1.
    """

    format = BOOK_PHI


def custom_collate_draft_1(
    batch: Sequence[Sequence[int]], pad_token_id: int = 50256, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the texts of a batch, padded to the longest: (B, T).

    Source:
        Book 7.3.
    """
    return _pad(batch, pad_token_id).to(device)


def custom_collate_draft_2(
    batch: Sequence[Sequence[int]], pad_token_id: int = 50256, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, which are one token ahead and end with padding: each (B, T).

    Source:
        Book 7.3.
    """
    targets = [[*ids[1:], pad_token_id] for ids in batch]
    return _pad(batch, pad_token_id).to(device), _pad(targets, pad_token_id).to(device)


def custom_collate_fn(
    batch: Sequence[Sequence[int]],
    pad_token_id: int = 50256,
    ignore_index: int = IGNORE_INDEX,
    allowed_max_length: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets: each (B, T). One end mark per row is learned, padding is not.

    Padding is told by the lengths, so the same id inside a text is learned like any other. (The
    book masks by the id.)

    Args:
        batch: lists of ids.
        pad_token_id: the id that rows end with and are filled with.
        ignore_index: the target of padding.
        allowed_max_length: the length that rows are cut to, end mark included.
        device: where the tensors go. With worker processes, leave it and move the batch later.

    Raises:
        ValueError: if the batch or a text is empty, or `allowed_max_length` is below 1.

    Source:
        Book 7.3.
    """
    most = allowed_max_length
    if most is not None:
        check_count("allowed_max_length", most, note="None means no limit")
    inputs = _pad(batch, pad_token_id)[:, :most]
    targets = _pad([[*ids[1:], pad_token_id] for ids in batch], ignore_index)[:, :most]
    return inputs.to(device), targets.to(device)


def custom_collate_with_masking_fn(
    batch: Sequence[tuple[int, Sequence[int]]],
    pad_token_id: int = 50256,
    ignore_index: int = IGNORE_INDEX,
    allowed_max_length: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets in which the instructions are masked too: each (B, T).

    Args:
        batch: items of `InstructionDatasetWithMasking`.
        pad_token_id: as in `custom_collate_fn`, like the rest.
        ignore_index: the target of padding and instructions.
        allowed_max_length: the length that rows are cut to.
        device: where the tensors go.

    Raises:
        ValueError: as `custom_collate_fn`.

    Source:
        Book exercise 7.2.
    """
    texts = [ids for _, ids in batch]
    inputs, targets = custom_collate_fn(texts, pad_token_id, ignore_index, allowed_max_length)
    for row, (length, _) in enumerate(batch):
        targets[row, : max(length - 1, 0)] = ignore_index
    return inputs.to(device), targets.to(device)


def _pad(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Return rows of ids, filled up on the right: (B, T)."""
    if not len(rows) or not all(len(row) for row in rows):
        raise ValueError(f"a batch of {len(rows)} rows, of which one is empty, can't be padded")
    tensors = [torch.as_tensor(ids, dtype=torch.int64) for ids in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill)
