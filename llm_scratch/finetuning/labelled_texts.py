"""Texts with any number of classes, each text read at its last real token."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llm_scratch.checks import check_count
from llm_scratch.finetuning.labelled_rows import LONGEST_NUMBER, LabelledRow, Row, read_rows
from llm_scratch.finetuning.spam_classifier import warn_of_cut
from llm_scratch.finetuning.splits import split_rows
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.tokenizers.any_tokenizer import encode, vocab_size_of


class ClassificationDataset(Dataset):
    """Labelled texts, without padding: item -> (T,) ids and (T,) targets, int64.

    All targets are -100 except the last, which is the class. There the model has read the whole
    text and nothing else. In a batch, padding is on the right and is never read, so a text's logits
    do not depend on its batch. `next_token_loss`, and with it the loop for real runs, learns from
    these batches directly.

    Args:
        rows: pairs (label, text), a file for `read_rows`, or a DataFrame. A label is the name or
            the number of a class.
        tokenizer: any tokenizer.
        class_names: the classes in the order of their numbers. None takes the labels' names in
            alphabetical order, or "0", "1", ... up to the highest number.
        max_length: longer texts are cut, with a warning that counts them; None cuts nothing.
        pad_token_id: the id that pads batches; any id of the tokenizer will do.

    Attributes:
        class_names: the classes in the order of their numbers.
        labels: the class of each text, a number.
        texts: the texts.
        rows: the same as `TokenRows`, for the loop for real runs.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there are no rows, a text has no token, a label is not a class, or names and
            numbers are mixed; names the row.
    """

    def __init__(
        self,
        rows: Iterable[Row] | str | os.PathLike[str] | Any,
        tokenizer: Any,
        *,
        class_names: Sequence[str] | None = None,
        max_length: int | None = None,
        pad_token_id: int = 0,
    ) -> None:
        pairs = read_rows(rows)
        if not pairs:
            raise ValueError("there are no rows; pairs of a label and a text are needed")
        if max_length is not None:
            check_count("max_length", max_length, note="None cuts nothing")
        self.class_names = _names_of(pairs) if class_names is None else tuple(class_names)
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"two classes have one name: {', '.join(self.class_names)}")
        self.labels = [_number_of(row, self.class_names) for row in pairs]
        self.texts = [row.text for row in pairs]
        encoded = [encode(tokenizer, text, "text") for text in self.texts]
        for row, ids in zip(pairs, encoded, strict=True):
            if not ids:
                raise ValueError(f"the text of {row.where} has no token; leave the row out")
        if max_length is not None:
            warn_of_cut(encoded, max_length)
        vocab_size = vocab_size_of(tokenizer) or max(map(max, encoded)) + 1
        cut = [
            (ids[:max_length], [IGNORE_INDEX] * (len(ids[:max_length]) - 1) + [label])
            for ids, label in zip(encoded, self.labels, strict=True)
        ]
        self.rows = TokenRows(
            cut, pad_id=pad_token_id, vocab_size=vocab_size, num_targets=len(self.class_names)
        )

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.rows[row]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        return f"ClassificationDataset({counts})"

    def counts(self) -> dict[str, int]:
        """Return how many texts each class has."""
        return {name: self.labels.count(number) for number, name in enumerate(self.class_names)}

    def loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> DataLoader:
        """Return batches for the book's training functions: inputs and targets, (B, T) each.

        Args:
            batch_size: texts per batch.
            shuffle: whether the order changes with every pass.
            drop_last: whether to leave out an incomplete last batch.
            generator: the source of the order; None is PyTorch's global generator.
        """
        positions: Any = range(len(self))  # `padded` fetches the rows
        return DataLoader(
            positions, batch_size, shuffle, drop_last=drop_last, generator=generator,
            collate_fn=self.rows.padded,
        )  # fmt: skip


def split_texts(
    rows: Iterable[Row], tokenizer: Any, *, seed: int, max_length: int | None = None
) -> tuple[ClassificationDataset, ClassificationDataset, ClassificationDataset]:
    """Return a training, a validation and a test part of labelled texts, with the same classes.

    Args:
        rows: pairs (label, text).
        tokenizer: any tokenizer.
        seed: decides which rows go where; see `split_rows`.
        max_length: longer texts are cut.

    Raises:
        ValueError: if there is only one class, a class has too few rows for three parts, or a row
            is invalid; see `ClassificationDataset`.
    """
    rows = read_rows(rows)
    names = _names_of(rows)
    if len(names) < 2:
        raise ValueError(f"all {len(rows)} rows have one label, {names[0]!r}; two are needed")
    train, validation, test = (
        ClassificationDataset(part, tokenizer, class_names=names, max_length=max_length)
        for part in split_rows(rows, seed, class_of=lambda row: row.label)
    )
    return train, validation, test


def _names_of(rows: Sequence[LabelledRow]) -> tuple[str, ...]:
    if all(isinstance(row.label, str) for row in rows):
        return tuple(sorted({row.label for row in rows}))
    highest = max(_number_of(row, None) for row in rows)
    if highest >= 10**LONGEST_NUMBER:
        raise ValueError(f"the label {highest} is too high for the number of a class; give names")
    return tuple(str(number) for number in range(highest + 1))


def _number_of(row: LabelledRow, names: Sequence[str] | None) -> int:
    """Return the number of a class; without names, the label itself, which must be a number."""
    label, where = row.label, row.where
    if isinstance(label, str) and names is not None:
        if label not in names:
            raise ValueError(f"{where} has the label {label!r}; there are {', '.join(names)}")
        return names.index(label)
    try:
        number = index(label)
    except TypeError as err:
        raise ValueError(
            f"{where} has the label {label!r}; all labels must be names, or all numbers"
        ) from err
    if number < 0 or (names is not None and number >= len(names)):
        last = "up" if names is None else f"to {len(names) - 1} ({', '.join(names)})"
        raise ValueError(f"{where} has the label {number}, out of range; classes go from 0 {last}")
    return number
