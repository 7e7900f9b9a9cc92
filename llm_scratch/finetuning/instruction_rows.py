"""Instructions for the loop for real runs: answers kept, one end mark a row, little padding.

Prompt and answer are encoded apart and joined, so where the answer begins is known and never
searched for.

Shape letters: B rows of a batch, T tokens, n examples.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from llm_scratch.conversations.display import show_conversation
from llm_scratch.conversations.encoding import EncodedConversation, Format
from llm_scratch.finetuning.instructions import check_entry
from llm_scratch.finetuning.prompts import BOOK, Entry, encode_entry
from llm_scratch.text.shuffling import epoch_order
from llm_scratch.text.step_rows import Piece, rows_in_turn, rows_of_step
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.tokenizers.any_tokenizer import vocab_size_of

PackedBatch = tuple[Tensor, Tensor, Tensor, Tensor]


def instruction_rows(
    data: Sequence[Entry],
    tokenizer: Any,
    *,
    format: Format = BOOK,
    answer_only: bool = True,
    max_length: int = 1024,
    buckets: bool = True,
) -> TokenRows:
    """Prompts and answers as rows to learn from, each with one end mark as its last target.

    A row that is too long loses the beginning of its prompt, never of its answer. A row whose
    answer alone is too long is left out, as is one without output. A warning counts each.

    Args:
        data: dicts with instruction, input and output.
        tokenizer: any tokenizer; a special token written in a text is ordinary text.
        format: how an instruction and its answer become text.
        answer_only: whether the prompt is not learned.
        max_length: the most tokens of a row.
        buckets: whether rows of about the same length come together.

    Raises:
        ValueError: naming the row, if it has no instruction or output; if no row is left; if there
            is no end mark, or the tokenizer can't write the format.
    """
    rows, cut, empty, too_long = [], 0, 0, 0
    for number, entry in enumerate(data):
        if isinstance(entry, dict) and not str(entry.get("output", "?")).strip():
            empty += 1
            continue
        check_entry(f"data[{number}]", entry)
        prompt, answer = encode_entry(entry, format, tokenizer, entry["output"])
        if len(answer) > max_length:
            too_long += 1
            continue
        over = max(0, len(prompt) + len(answer) - 1 - max_length)
        cut += over > 0
        rows.append(answer_row(prompt[over:], answer, answer_only))
    if cut:
        warnings.warn(
            f"{cut} of {len(data)} rows are longer than {max_length} tokens and lost the beginning "
            "of their prompts",
            stacklevel=2,
        )
    if empty:
        warnings.warn(f"{empty} of {len(data)} rows have no output and are left out", stacklevel=2)
    if too_long:
        warnings.warn(
            f"{too_long} of {len(data)} rows have an answer above {max_length} tokens with its end "
            "mark and are left out",
            stacklevel=2,
        )
    if not rows:
        raise ValueError(f"no rows are left of {len(data)} to learn from")
    end = format.end_ids(tokenizer)[0]
    vocab_size = vocab_size_of(tokenizer) or 1 + max((max(ids) for ids, _ in rows), default=0)
    return TokenRows(rows, pad_id=end, vocab_size=max(vocab_size, end + 1), buckets=buckets)


def check_left_out(given: int, left: int) -> None:
    """Refuse to learn from data of which more than a tenth had to be left out.

    Args:
        given: rows of all parts.
        left: those that are left.

    Raises:
        ValueError: with both numbers.
    """
    if given - left > given / 10:
        raise ValueError(
            f"{given - left} of {given} rows would be left out, more than a tenth; take a model "
            "with a longer context, shorten the answers, or remove these rows"
        )


def answer_row(
    prompt: list[int], answer: list[int], answer_only: bool = True
) -> tuple[list[int], list[int]]:
    """Inputs and targets of a prompt and an answer; the prompt's last token has a target."""
    ids, hidden = prompt + answer, max(0, len(prompt) - 1) if answer_only else 0
    return ids[:-1], [IGNORE_INDEX] * hidden + ids[1 + hidden :]


def learned_share(rows: TokenRows) -> float:
    """The share of the tokens that are targets, between 0 and 1."""
    learned = sum(int((rows[row][1] != IGNORE_INDEX).sum()) for row in range(len(rows)))
    return learned / int(rows.lengths.sum())


class PackedRows:
    """Several short rows in one long one, side by side and blind to each other: a `TrainData`.

    A batch is inputs, targets and positions, (B, T) each, and which token may see which, (B, T, T)
    booleans: positions begin anew with every row, and no token sees another row. Loss and
    gradients are those of the rows one by one; next to nothing is padded.

    Args:
        rows: what is packed.
        length: the most tokens of a pack.

    Raises:
        ValueError: if a row is longer than `length`.
    """

    def __init__(self, rows: TokenRows, length: int) -> None:
        rows.num_rows(length)
        self._rows = rows
        self.vocab_size = rows.vocab_size
        self.packs = pack(rows.lengths.tolist(), length)
        """The rows of each pack, by number."""

    def __len__(self) -> int:
        return len(self.packs)

    def __repr__(self) -> str:
        return f"PackedRows({len(self._rows):,} rows in {len(self):,} packs)"

    def num_rows(self, length: int) -> int:
        """How many packs an epoch has.

        Raises:
            ValueError: if one is longer than `length`.
        """
        longest = max(sum(self._rows.lengths[pack]) for pack in self.packs)
        if longest > length:
            raise ValueError(
                f"a pack has {longest} tokens, at most {length} fit; pack them shorter"
            )
        return len(self)

    def batch(
        self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]
    ) -> PackedBatch:
        """The packs of a training step, as `TokenRows.batch` chooses its rows."""
        return self.packed(shuffled_rows(seed, self.num_rows(length), step, rows, **piece))

    def rows_in_order(self, length: int, rows: int) -> Iterator[PackedBatch]:
        """Yield every pack once, `rows` at a time."""
        return map(self.packed, rows_in_turn(self.num_rows(length), rows))

    def packed(self, chosen: Sequence[int]) -> PackedBatch:
        """Some packs as a batch: inputs, targets, positions (B, T), and who sees whom (B, T, T)."""
        T = max(int(self._rows.lengths[self.packs[i]].sum()) for i in chosen)
        inputs = torch.full((len(chosen), T), self._rows.pad_id)
        targets = torch.full((len(chosen), T), IGNORE_INDEX)
        positions = torch.zeros(len(chosen), T, dtype=torch.int64)
        owners = torch.full((len(chosen), T), -1)  # padding sees padding
        for place, i in enumerate(chosen):
            start = 0
            for row in self.packs[i]:
                ids, wanted = self._rows[row]
                here = slice(start, start + len(ids))
                inputs[place, here], targets[place, here] = ids, wanted
                positions[place, here], owners[place, here] = torch.arange(len(ids)), row
                start += len(ids)
        seen = (owners[:, :, None] == owners[:, None, :]).tril()  # (B, T, T)
        return inputs, targets, positions, seen


def shuffled_rows(seed: int, n: int, step: int, rows: int, **piece: Unpack[Piece]) -> list[int]:
    """Which of n rows a step reads; see `rows_of_step`."""
    places = rows_of_step(n, step, rows, **piece)
    return [row for place in places for row in epoch_order(seed, place[0], n, *place[1:]).tolist()]


def pack(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of rows, put together so that each pack has at most `most` tokens.

    Long rows first, each where the least room is left over ("best fit, decreasing").
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int, int]] = []  # tokens left in a pack, the last one used first
    for turn, row in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        place = bisect_left(rooms, (lengths[row], -turn, 0))
        if place == len(rooms):
            left, number = most, len(packs)
            packs.append([])
        else:
            left, _, number = rooms.pop(place)
        packs[number].append(row)
        insort(rooms, (left - lengths[row], -turn, number))
    return packs


def show_mask(tokenizer: Any, inputs: Tensor, targets: Tensor, *, color: bool = True) -> str:
    """A row as text, what is learned set off from what is not.

    Args:
        tokenizer: the one that the row was made with.
        inputs: (T,) ids.
        targets: (T,) ids, -100 where nothing is learned.
        color: green and grey for a terminal; without it, learned parts stand between [[ and ]].
    """
    ids = [*inputs.tolist(), int(targets[-1])]
    learned = [False, *(targets != IGNORE_INDEX).tolist()]
    while len(ids) > 1 and not learned[-1]:  # padding
        ids, learned = ids[:-1], learned[:-1]
    encoded = EncodedConversation(tuple(ids), tuple(learned))
    return show_conversation(encoded, tokenizer, color=color)
