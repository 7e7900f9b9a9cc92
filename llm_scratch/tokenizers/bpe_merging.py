"""Merging of a piece's bytes into its tokens.

A byte-level BPE knows one thing: which pairs of tokens become one token, and in which order it
learned them. Encoding repeats the training: of all neighbours that can merge, those learned first
merge first, from left to right, until no neighbours form a known pair.
"""

from __future__ import annotations

import sys
from bisect import insort
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from operator import neg

# (left id, right id) -> the rank of their merge; lower ranks merge first. `made[rank]` is the id of
# the token that they become. In a vocabulary learned by this library, ids grow in the order of
# learning, so the id serves as the rank; other vocabularies have ids in any order.
Pairs = dict[tuple[int, int], int]
RANKS_ARE_IDS = range(sys.maxsize)

NEVER = sys.maxsize  # the rank of a pair that does not merge
SHORT = 128  # tokens: up to this length, searching the list is faster than bookkeeping


def merge_piece(ids: list[int], pairs: Pairs, made: Sequence[int] = RANKS_ARE_IDS) -> list[int]:
    """Merge the bytes of one piece as far as possible: list of ids -> shorter list of ids."""
    merge = merge_short if len(ids) <= SHORT else merge_long
    return merge(ids, pairs, made)


def merge_short(ids: list[int], pairs: Pairs, made: Sequence[int] = RANKS_ARE_IDS) -> list[int]:
    """Merge a short piece, in place: find the lowest rank, merge there, look again.

    `ranks[i]` is the rank of the pair `ids[i], ids[i + 1]`. A merge shortens both lists by one
    and changes only the ranks on its two sides. Time grows with the square of the length.
    """
    rank_of, never = pairs.get, NEVER  # local names are found faster
    ranks = [rank_of(pair, never) for pair in zip(ids, ids[1:], strict=False)]
    while ranks and (rank := min(ranks)) != never:
        at = ranks.index(rank)  # the leftmost of the lowest
        ids[at] = new = made[rank]
        del ids[at + 1], ranks[at]
        if at > 0:
            ranks[at - 1] = rank_of((ids[at - 1], new), never)
        if at < len(ranks):
            ranks[at] = rank_of((new, ids[at + 1]), never)
    return ids


def merge_long(ids: list[int], pairs: Pairs, made: Sequence[int] = RANKS_ARE_IDS) -> list[int]:
    """Merge a piece of any length like `merge_short`, in about the time it takes to sort it.

    The tokens form a chain: each place knows the place `before` and `after` it. `places` lists,
    for each rank, where its pair begins; a heap yields the lowest remaining rank. A place whose
    pair was broken up in the meantime is skipped.
    """
    tokens = [*ids, NEVER]  # the mark at the end merges with nothing
    end = len(ids)
    before, after = list(range(-1, end)), list(range(1, end + 2))
    places: dict[int, list[int]] = {}
    for place, pair in enumerate(zip(ids, ids[1:], strict=False)):
        if (rank := pairs.get(pair)) is not None:
            places.setdefault(rank, []).append(place)
    ranks = list(places)
    heapify(ranks)
    begun: set[int] = set()  # the ranks whose places are sorted, leftmost last
    while ranks:
        lowest = ranks[0]
        line = places[lowest]
        if lowest not in begun:
            line.sort(reverse=True)
            begun.add(lowest)
        while line and ranks[0] == lowest:  # a merge may make a pair of lower rank
            place = line.pop()
            right = after[place]
            if pairs.get((tokens[place], tokens[right])) != lowest:
                continue
            tokens[place], tokens[right] = made[lowest], NEVER
            after[place] = follower = after[right]
            before[follower] = place
            for left, next_one in ((before[place], place), (place, follower)):
                if (rank := pairs.get((tokens[left], tokens[next_one]))) is None:
                    continue
                if rank not in places:
                    places[rank] = []
                    heappush(ranks, rank)
                if rank in begun:
                    insort(places[rank], left, key=neg)
                else:
                    places[rank].append(left)
        if not line and ranks[0] == lowest:
            del places[heappop(ranks)]
            begun.remove(lowest)
    return [token for token in tokens if token != NEVER]


class SelfMade:
    """The set of tokens whose bytes certainly merge into them, found without merging.

    A token belongs to it if both of its parts do, and no merge across the seam between the parts
    comes first. The tokens on both sides of the seam are traced back in time: the younger side
    splits into its parts, and no merge of the two sides may be older than that.

    Args:
        pairs: the pairs that merge.
        made: the id that each rank makes.
    """

    def __init__(self, pairs: Pairs, made: Sequence[int]) -> None:
        self._pairs = pairs
        self._known: dict[int, bool] = {}
        self._parts = {made[rank]: pair for pair, rank in pairs.items()}
        self._ranks = ranks = {made[rank]: rank for rank in pairs.values()}
        # Otherwise there are several ways to make a token, or it is older than its parts.
        self._usable = len(ranks) == len(pairs) and all(
            ranks.get(left, -1) < rank and ranks.get(right, -1) < rank
            for (left, right), rank in pairs.items()
        )

    def __contains__(self, token: int) -> bool:
        if token not in self._known:
            parts = self._parts.get(token)
            self._known[token] = parts is None or (
                self._usable and parts[0] in self and parts[1] in self and self._seam_holds(*parts)
            )
        return self._known[token]

    def _seam_holds(self, left: int, right: int) -> bool:
        ranks, parts, rank_of = self._ranks, self._parts, self._pairs.get
        while True:
            left_rank, right_rank = ranks.get(left, -1), ranks.get(right, -1)
            if left_rank == right_rank == -1:
                return True
            if left_rank > right_rank:
                limit, left = left_rank, parts[left][1]
            else:
                limit, right = right_rank, parts[right][0]
            if rank_of((left, right), NEVER) <= limit:
                return False


class PieceCache(dict[str, tuple[int, ...]]):
    """A cache from a piece to its ids, which are computed when the piece is first asked for.

    English repeats itself: a million characters hold some fifteen thousand distinct pieces, so
    nearly every lookup is a hit. Half of the others are themselves tokens (merging their bytes
    would give the same), and the rest are merged. Pieces above `longest` characters are not kept,
    and a full cache is emptied, so that memory stays bounded whatever is encoded. A byte without a
    token is left out, as in Hugging Face's library.

    Args:
        ids: the id of each token, by its bytes.
        pairs: the pairs that merge.
        made: the id that each rank makes.
        whole: whether a piece that is a token becomes it, even if its bytes merge into others.
        most: the number of pieces to keep.
        longest: the length in characters of the longest piece to keep.
    """

    def __init__(
        self,
        ids: Mapping[bytes, int],
        pairs: Pairs,
        made: Sequence[int] = RANKS_ARE_IDS,
        *,
        whole: bool = True,
        most: int = 1 << 16,
        longest: int = 64,
    ) -> None:
        super().__init__()
        self._ids = ids
        self._pairs, self._made = pairs, made
        self._self_made = None if whole else SelfMade(pairs, made)
        self._byte_ids = [ids.get(bytes([byte]), NEVER) for byte in range(256)]
        self._unknown = bytes(byte for byte, i in enumerate(self._byte_ids) if i == NEVER)
        self._most, self._longest = most, longest

    def __missing__(self, piece: str) -> tuple[int, ...]:
        token, byte_ids = piece.encode("utf-8"), self._byte_ids
        if (known := self._ids.get(token)) is not None and (
            self._self_made is None or known in self._self_made
        ):
            ids: tuple[int, ...] = (known,)
        else:
            if self._unknown:
                token = token.translate(None, self._unknown)
            ids = tuple(merge_piece([byte_ids[byte] for byte in token], self._pairs, self._made))
        if len(piece) <= self._longest:
            if len(self) >= self._most:
                self.clear()
            self[piece] = ids
        return ids
