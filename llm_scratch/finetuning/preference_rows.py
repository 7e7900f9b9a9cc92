"""Pairs of answers as rows for the loop for real runs, with the reference's log-probabilities.

Shape letters: B pairs of a batch, T tokens, n all pairs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_scratch.conversations.encoding import Format
from llm_scratch.finetuning.dpo_simple import ANSWERS, PAIR
from llm_scratch.finetuning.instruction_rows import answer_row
from llm_scratch.finetuning.instructions import check_entry, load_entries
from llm_scratch.finetuning.prompts import BOOK, Entry, encode_entry
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import device_of
from llm_scratch.text.step_rows import Piece, rows_in_turn, shuffled_rows
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.tokenizers.any_tokenizer import vocab_size_of
from llm_scratch.training.config import Precision
from llm_scratch.training.precision import autocast, pick_precision

Row = tuple[list[int], list[int]]


class PreferenceRows:
    """Pairs of answers to learn from: a `TrainData` whose rows are pairs.

    A batch has inputs (2B, T), first the chosen answers, then the rejected ones in the same order;
    targets (2B, T), -100 outside the answers; and the reference's log-probabilities (B, 2).

    Args:
        pairs: (chosen, rejected), each a row as in `TokenRows`: inputs and targets.
        pad_id: the id that pads inputs; any id will do.
        vocab_size: every id is below it.

    Raises:
        ValueError: as `TokenRows`; row 2 i is the chosen answer of pair i, row 2 i + 1 the other.
    """

    def __init__(self, pairs: Sequence[tuple[Row, Row]], *, pad_id: int, vocab_size: int) -> None:
        rows = [row for pair in pairs for row in pair]
        self._rows = TokenRows(rows, pad_id=pad_id, vocab_size=vocab_size, buckets=False)
        self.vocab_size = vocab_size
        self.reference: Tensor | None = None
        """(n, 2) log-probabilities of chosen and rejected answers; see `measure_reference`."""

    def __len__(self) -> int:
        return len(self._rows) // 2

    def __repr__(self) -> str:
        lengths = self._rows.lengths
        return f"PreferenceRows({len(self):,} pairs of {lengths.min()} to {lengths.max()} tokens)"

    def num_rows(self, length: int) -> int:
        """Return the number of pairs in an epoch.

        Raises:
            ValueError: if an answer and its prompt are longer than `length`.
        """
        longest = int(self._rows.lengths.argmax())
        if self._rows.lengths[longest] > length:
            raise ValueError(
                f"pair {longest // 2} has {self._rows.lengths[longest]} tokens, at most {length} "
                "fit; cut its prompt, or leave it out"
            )
        return len(self)

    def batch(
        self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pairs of a step, which depend only on the arguments; see `TokenRows.batch`.

        Raises:
            ValueError: if a pair is longer than `length`, or the reference was not measured.
        """
        return self.pairs(shuffled_rows(seed, self.num_rows(length), step, rows, **piece))

    def rows_in_order(self, length: int, rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield every pair once, `rows` at a time."""
        return map(self.pairs, rows_in_turn(self.num_rows(length), rows))

    def pairs(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return some pairs as a batch: inputs (2B, T), targets (2B, T), reference (B, 2)."""
        if self.reference is None:
            raise ValueError("the reference is not known yet; call measure_reference(model, rows)")
        return *self.texts(chosen), self.reference[list(chosen)]

    def texts(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return both answers of some pairs: inputs and targets, each (2B, T)."""
        places = [2 * pair for pair in chosen] + [2 * pair + 1 for pair in chosen]
        return self._rows.padded(places)


def load_preferences(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a file (JSON, JSON Lines, CSV, TSV) of dicts with instruction, input, chosen, rejected.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and row, if it holds something else, or nothing.
    """
    return load_entries(path, PAIR)


def preference_rows(
    entries: Sequence[Entry],
    tokenizer: Any,
    *,
    length: int,
    format: Format = BOOK,
) -> PreferenceRows:
    """Return pairs as rows: prompt, answer and one end token; only answer and end are targets.

    A prompt that is too long loses its beginning. Pairs with equal answers, or with an answer that
    does not fit, are left out; a warning counts them.

    Args:
        entries: dicts with instruction, input, chosen and rejected.
        tokenizer: the model's.
        length: the maximum number of tokens in a row.
        format: how an instruction and its answers become text.

    Raises:
        ValueError: if an entry is not a pair, naming it; if none is left; if the tokenizer can't
            write the format.
    """
    pairs: list[tuple[Row, Row]] = []
    equal = too_long = 0
    for number, entry in enumerate(entries):
        check_entry(f"entries[{number}]", entry, PAIR)
        both = [encode_entry(entry, format, tokenizer, entry[name]) for name in ANSWERS]
        prompt, answers = both[0][0], [answer for _, answer in both]
        room = length + 1 - max(map(len, answers))  # the last id is a target alone
        if answers[0] == answers[1]:
            equal += 1
        elif room < 1:
            too_long += 1
        else:
            chosen, rejected = (answer_row(prompt[-room:], answer) for answer in answers)
            pairs.append((chosen, rejected))
    if equal or too_long:
        warnings.warn(
            f"of {len(entries)} pairs, {equal} with equal answers and {too_long} with an answer "
            f"above {length} tokens are left out",
            stacklevel=2,
        )
    if not pairs:
        raise ValueError(f"no pair of {len(entries)} is left to learn from")
    size, end = vocab_size_of(tokenizer), format.end_ids(tokenizer)[0]
    highest = max(max(row[0]) for pair in pairs for row in pair) + 1
    return PreferenceRows(pairs, pad_id=end, vocab_size=size or max(highest, end + 1))


def answer_logprobs(
    model: Any, inputs: Tensor, targets: Tensor, *, average: bool = False
) -> Tensor:
    """Return the log-probability of each row's targets, in nats: (B,).

    Logits are computed only where there is a target.

    Args:
        model: a `GPTModel`, or anything that maps (B, T) ids to (B, T, V) logits.
        inputs: (B, T) ids.
        targets: (B, T) ids that follow; -100 where none counts.
        average: whether to take the mean over a row's targets instead of their sum.
    """
    counted = targets != IGNORE_INDEX  # (B, T)
    if hasattr(model, "hidden_states"):
        logits = model.out_head(model.hidden_states(inputs)[counted])  # (targets, V)
    else:
        logits = model(inputs)[counted]
    losses = F.cross_entropy(logits.float(), targets[counted], reduction="none")
    rows = counted.nonzero()[:, 0]
    sums = losses.new_zeros(len(inputs)).index_add(0, rows, -losses)  # (B,)
    return sums / counted.sum(dim=1) if average else sums


def measure_reference(
    model: Any,
    rows: PreferenceRows,
    *,
    average: bool = False,
    batch_size: int = 8,
    precision: Precision = "float32",
) -> Tensor:
    """Return a model's current log-probabilities of all pairs, as their reference: (n, 2).

    Args:
        model: the model to train, before training.
        rows: the pairs; `rows.reference` is set.
        average: see `answer_logprobs`.
        batch_size: pairs at a time.
        precision: as in training; otherwise the first loss is not ln 2.
    """
    rows.reference = pair_logprobs(model, rows, average, batch_size, precision)
    return rows.reference


@torch.no_grad()
def pair_logprobs(
    model: Any, rows: PreferenceRows, average: bool, batch_size: int, precision: Precision
) -> Tensor:
    """Return log-probabilities of all pairs without dropout: (n, 2) float32, chosen and rejected.

    The modes of the model are left as found. The arguments are those of `measure_reference`.
    """
    device = device_of(model)
    found, places = [], range(len(rows))
    with evaluation_mode(model), autocast(device, pick_precision(precision, device)):
        for first in range(0, len(rows), batch_size):
            inputs, targets = rows.texts(places[first : first + batch_size])
            batch = inputs.to(device), targets.to(device)
            found.append(answer_logprobs(model, *batch, average=average).view(2, -1).T)
    return torch.cat(found).float().cpu()
