"""Training of byte-pair encoding: learning merges from text.

The idea fits in `train_by_hand`: count how often each pair of neighbours occurs, make the most
frequent pair a token, replace it everywhere, start again. `learn_merges` does exactly this, but
thousands of times faster, thanks to three observations:

1. A text repeats its words, so it is enough to keep each *distinct* piece once, with its count.
2. A merge changes few words, so only the pairs in those words need to be counted again.
3. The most frequent pair is at the top of a heap; nothing else needs to be looked at.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any

from llm_scratch.tokenizers.bpe_pieces import (
    Texts,
    blocks_of,
    can_be_cut,
    each_text,
    find_pieces,
    split_specials,
    text_blocks,
    text_sources,
)
from llm_scratch.tokenizers.bpe_vocabulary import BYTE_TOKENS, SpecialTokens, number_special_tokens
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN
from llm_scratch.tokenizers.simple import END_OF_TEXT

_BYTES = len(BYTE_TOKENS)
_BYTE_IDS = {token[0]: i for i, token in enumerate(BYTE_TOKENS)}
# Byte -> the character with the number of its id, for `str.translate` over Latin-1.
_CHARACTER_OF_BYTE = {byte: chr(i) for byte, i in _BYTE_IDS.items()}
_MOST_TOKENS = 0x110000  # as many as there are characters, see _Words


def train_by_hand(
    text: str,
    vocab_size: int,
    special_tokens: SpecialTokens = (END_OF_TEXT,),
    pattern: str = GPT2_PATTERN,
) -> list[tuple[bytes, bytes]]:
    """Learn merges by counting everything again after each one: str -> pairs of bytes, in order.

    This is the plain method, for reading; `BytePairTokenizer.train` learns the same merges quickly.
    Among equally frequent pairs, the one with the lowest ids wins.

    Source:
        Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019 (GPT-2).
    """
    parts = split_specials(text, list(special_tokens))[::2]
    pieces = [piece for part in parts for piece in find_pieces(part, pattern)]
    words = [[_BYTE_IDS[byte] for byte in piece.encode("utf-8")] for piece in pieces]
    tokens, merges = list(BYTE_TOKENS), []
    while len(tokens) < vocab_size - len(list(special_tokens)):
        counts = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [replace_pair(word, best, len(tokens)) for word in words]
        merges.append((tokens[best[0]], tokens[best[1]]))
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return merges


def replace_pair(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Write `new` for each occurrence of a pair, from left to right: [a, a, a] -> [aa, a]."""
    out: list[int] = []
    for token in ids:
        if out and (out[-1], token) == pair:
            out[-1] = new  # a new token cannot be the left part of the pair
        else:
            out.append(token)
    return out


def learn_merges(
    texts: Texts,
    vocab_size: int,
    special_tokens: SpecialTokens = (END_OF_TEXT,),
    pattern: str = GPT2_PATTERN,
    *,
    progress: bool = True,
) -> list[tuple[bytes, bytes]]:
    """Learn merges from texts or files; return pairs of bytes in the order of learning.

    Args:
        texts: a text, a path (read as UTF-8, in blocks), or several of them; see `text_sources`.
        vocab_size: bytes + merges + special tokens.
        special_tokens: cut out of the texts first, and never merged.
        pattern: the regular expression that splits a text into pieces.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        ValueError: if there is no text, or `vocab_size` has no room for bytes and special tokens.
    """
    specials = list(number_special_tokens(special_tokens, first=0))
    _check_size(vocab_size, len(specials))
    counts = count_pieces(texts, specials, pattern, progress=progress)
    if not counts:
        raise ValueError("there is no text to learn from; pass at least one that is not empty")
    words = _Words(counts)
    tokens, merges = list(BYTE_TOKENS), []
    for new in _with_bar(range(_BYTES, vocab_size - len(specials)), "merges", progress):
        if (pair := words.most_frequent_pair()) is None:
            warnings.warn(
                f"the text has no pairs left to merge: the vocabulary has {new + len(specials)} "
                f"tokens, not {vocab_size}; take the model's vocab_size from n_vocab",
                stacklevel=3,
            )
            break
        words.merge(pair, chr(new))
        left, right = tokens[ord(pair[0])], tokens[ord(pair[1])]
        merges.append((left, right))
        tokens.append(left + right)
    return merges


def _check_size(vocab_size: int, num_special: int) -> None:
    if not isinstance(vocab_size, int):
        raise TypeError(f"vocab_size must be an int, got {vocab_size!r}")
    if not _BYTES + num_special <= vocab_size <= _MOST_TOKENS:
        raise ValueError(
            f"{vocab_size=} must be at least {_BYTES + num_special} (256 bytes and {num_special} "
            f"special tokens) and at most {_MOST_TOKENS}; the rest are merges"
        )


def count_pieces(
    texts: Texts,
    special_tokens: Iterable[str] = (),
    pattern: str = GPT2_PATTERN,
    *,
    progress: bool = False,
) -> Counter[str]:
    """Count how often each piece occurs: texts or files -> {piece: count}.

    Memory grows with the number of distinct pieces, not with the length of the texts.
    """
    specials = list(special_tokens)
    whole = not can_be_cut(pattern, specials)
    counts: Counter[str] = Counter()
    named = each_text(text_sources(texts))
    chunks = (chunk for text in named for chunk in blocks_of(text.source, whole))
    for chunk in _with_bar(chunks, "blocks of text", progress):
        for part in split_specials(chunk, specials)[::2]:
            for block in text_blocks(part, pattern):
                counts.update(find_pieces(block, pattern))
    return counts


def _with_bar(items: Iterable[Any], unit: str, progress: bool) -> Iterable[Any]:
    from tqdm import tqdm

    look: dict[str, Any] = {"desc": "BPE training", "unit": f" {unit}", "leave": False}
    return tqdm(items, delay=1.0, disable=not progress, **look)


class _Words:
    """The distinct words with their counts, and the counts of all pairs in them.

    A word is a str with one character per token: the character whose number is the token's id.
    So a pair is a str of two characters, a merge is `str.replace` (from left to right, without
    overlap), and pairs compare like their ids.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self.words = [
            piece.encode("utf-8").decode("latin-1").translate(_CHARACTER_OF_BYTE)
            for piece in counts
        ]
        self.numbers = list(counts.values())
        self.pair_counts: defaultdict[str, int] = defaultdict(int)
        self.words_with: defaultdict[str, set[int]] = defaultdict(set)
        for i, (word, number) in enumerate(zip(self.words, self.numbers, strict=True)):
            for left, right in zip(word, word[1:], strict=False):
                self.pair_counts[left + right] += number
                self.words_with[left + right].add(i)
        # The smallest entry has the highest count and, among equals, the lowest pair of ids.
        self.heap = [(-number, pair) for pair, number in self.pair_counts.items()]
        heapify(self.heap)

    def most_frequent_pair(self) -> str | None:
        """Return the next pair to merge, None if none is left.

        Counts fall as other pairs merge. The heap is corrected here, when an entry with an outdated
        count reaches the top: it goes back with its true count.
        """
        while self.heap:
            count, pair = self.heap[0]
            now = self.pair_counts.get(pair, 0)
            if now == -count:
                return pair
            if now > 0:
                heapreplace(self.heap, (-now, pair))
            else:
                heappop(self.heap)
        return None

    def merge(self, pair: str, new: str) -> None:
        """Replace a pair by a new token in the words that hold it, and update the counts."""
        changes: defaultdict[str, int] = defaultdict(int)
        for i in self.words_with.pop(pair):
            word = self.words[i].replace(pair, new)
            self.words[i] = word
            self._count_around(word, i, pair, new, changes)
        for changed, by in changes.items():
            self.pair_counts[changed] += by
            if by > 0:  # a pair with the new token, seen for the first time
                heappush(self.heap, (-by, changed))
        del self.pair_counts[pair]

    def _count_around(
        self, word: str, i: int, pair: str, new: str, changes: defaultdict[str, int]
    ) -> None:
        """Add to `changes` the pairs that a word lost and gained beside each new token."""
        left, right = pair[0], pair[1]
        number = self.numbers[i]
        last = len(word) - 1
        at = word.find(new)
        while at >= 0:
            if at > 0:
                neighbour = word[at - 1]
                # If the neighbour is also new, its right half was here before.
                changes[(right if neighbour == new else neighbour) + left] -= number
                changes[neighbour + new] += number
                self.words_with[neighbour + new].add(i)
            if at < last and (neighbour := word[at + 1]) != new:
                changes[right + neighbour] -= number
                changes[new + neighbour] += number
                self.words_with[new + neighbour].add(i)
            at = word.find(new, at + 1)
