"""Several rows packed into one, side by side and invisible to each other.

Shape letters: B rows of a batch, T tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Unpack

import torch
from torch import Tensor

from llm_scratch.text.step_rows import Piece, rows_in_turn, shuffled_rows
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows

PackedBatch = tuple[Tensor, Tensor, Tensor, Tensor]


class PackedRows:
    """A `TrainData` of packs: short rows side by side in one long row, invisible to each other.

    A batch is inputs, targets and positions, (B, T) each, and a mask of which token may see which,
    (B, T, T) booleans. Positions restart with every row, and no token sees another row. Loss and
    gradients equal those of the separate rows, with hardly any padding.

    Args:
        rows: the rows to pack.
        length: the maximum number of tokens per pack.

    Raises:
        ValueError: if a row is longer than `length`.
    """

    def __init__(self, rows: TokenRows, length: int) -> None:
        rows.num_rows(length)
        self.rows = rows
        """The rows that are packed."""
        self.vocab_size = rows.vocab_size
        self.packs = pack(rows.lengths.tolist(), length)
        """The numbers of the rows in each pack."""

    def __len__(self) -> int:
        return len(self.packs)

    def __repr__(self) -> str:
        return f"PackedRows({len(self.rows):,} rows in {len(self):,} packs)"

    def num_rows(self, length: int) -> int:
        """Count the packs of an epoch.

        Raises:
            ValueError: if a pack is longer than `length`.
        """
        longest = max(sum(self.rows.lengths[pack]) for pack in self.packs)
        if longest > length:
            raise ValueError(
                f"a pack has {longest} tokens, at most {length} fit; make shorter packs"
            )
        return len(self)

    def batch(
        self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]
    ) -> PackedBatch:
        """Return the packs of a training step, chosen as `TokenRows.batch` chooses rows."""
        return self.packed(shuffled_rows(seed, self.num_rows(length), step, rows, **piece))

    def rows_in_order(self, length: int, rows: int) -> Iterator[PackedBatch]:
        """Yield every pack once, `rows` at a time."""
        return map(self.packed, rows_in_turn(self.num_rows(length), rows))

    def packed(self, chosen: Sequence[int]) -> PackedBatch:
        """Return packs as a batch: inputs, targets, positions (B, T), and a mask (B, T, T)."""
        T = max(int(self.rows.lengths[self.packs[i]].sum()) for i in chosen)
        inputs = torch.full((len(chosen), T), self.rows.pad_id)
        targets = torch.full((len(chosen), T), IGNORE_INDEX)
        positions = torch.zeros(len(chosen), T, dtype=torch.int64)
        owners = torch.full((len(chosen), T), -1)  # padding sees padding
        for place, i in enumerate(chosen):
            start = 0
            for row in self.packs[i]:
                ids, wanted = self.rows[row]
                here = slice(start, start + len(ids))
                inputs[place, here], targets[place, here] = ids, wanted
                positions[place, here], owners[place, here] = torch.arange(len(ids)), row
                start += len(ids)
        seen = (owners[:, :, None] == owners[:, None, :]).tril()  # (B, T, T)
        return inputs, targets, positions, seen


def pack(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Group row numbers into packs of at most `most` tokens each.

    Longest rows come first, each in the fullest pack that has room for it ("best-fit decreasing").
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int, int]] = []  # (tokens left, -turn of its last use, pack), sorted
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
