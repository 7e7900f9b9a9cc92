"""How pieces are merged: two ways that agree, bounded time, a bounded cache."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_merging import SHORT, PieceCache, SelfMade, merge_long, merge_short

LONG = 200_000


@pytest.fixture(scope="module")
def gpt2() -> BytePairTokenizer:
    return BytePairTokenizer.gpt2()


def merge_plainly(ids: list[int], pairs: dict[tuple[int, int], int]) -> list[int]:
    """One merge after the other, each time the lowest rank, of those the leftmost."""
    while known := [pair for pair in zip(ids, ids[1:], strict=False) if pair in pairs]:
        best = min(known, key=pairs.__getitem__)
        at = next(i for i in range(len(ids)) if tuple(ids[i : i + 2]) == best)
        ids = [*ids[:at], pairs[best], *ids[at + 2 :]]
    return ids


@st.composite
def merging(draw) -> tuple[list[int], dict[tuple[int, int], int]]:
    """A table of merges over three letters, each made of tokens before it, and a word."""
    pairs: dict[tuple[int, int], int] = {}
    for new in range(3, 3 + draw(st.integers(0, 12))):
        pairs.setdefault(draw(st.tuples(st.integers(0, new - 1), st.integers(0, new - 1))), new)
    return draw(st.lists(st.integers(0, 2), max_size=60)), pairs


@settings(max_examples=500)
@given(merging())
# At rank 4, the left letter has another neighbour than when its place was noted.
@example(([0, 1, 2], {(1, 2): 3, (0, 1): 4, (0, 3): 5}))
def test_merge_short_and_merge_long_equal_the_plain_way(case):
    ids, pairs = case
    expected = merge_plainly(ids, pairs)
    assert merge_short(list(ids), pairs) == expected
    assert merge_long(list(ids), pairs) == expected


@settings(max_examples=500)
@given(merging(), st.randoms(use_true_random=False))
def test_merge_short_and_merge_long_agree_on_ranks_of_any_order(case, generator):
    ids, pairs = case
    made = list(pairs.values())
    ranks = list(range(len(made)))
    generator.shuffle(ranks)
    made = [made[ranks.index(rank)] for rank in range(len(made))]
    pairs = dict(zip(pairs, ranks, strict=True))
    assert merge_long(list(ids), pairs, made) == merge_short(list(ids), pairs, made)


@settings(max_examples=500)
@given(merging())
@example(([], {(0, 0): 3, (0, 3): 4}))  # the first two letters merge, which leaves (3, 0)
def test_self_made_is_sure_of_no_token_that_merges_into_others(case):
    _, pairs = case
    self_made = SelfMade(pairs, range(20))
    letters = {0: [0], 1: [1], 2: [2]}
    for (left, right), new in pairs.items():
        if {left, right} <= letters.keys():
            letters[new] = letters[left] + letters[right]
            if new in self_made:
                assert merge_plainly(letters[new], pairs) == [new]


@pytest.mark.parametrize("length", [SHORT - 1, SHORT, SHORT + 1])
def test_encode_is_the_same_on_both_sides_of_the_length_that_counts_as_short(gpt2, length):
    text = ("abracadabra" * SHORT)[:length]
    pairs, byte_ids = gpt2._vocabulary.pairs, gpt2._cache._byte_ids
    ids = [byte_ids[byte] for byte in text.encode()]
    assert gpt2.encode(text) == merge_short(ids, pairs)


@pytest.mark.parametrize("letters", ["a", "ab", "^", " ", "é", "etaoinshrdlu"])
def test_encode_takes_no_quadratic_time_on_one_long_piece(gpt2, letters):
    text = letters * (LONG // len(letters))
    start = time.perf_counter()
    ids = gpt2.encode(text)
    # Ten times what it takes; time that grows with the square would be hundreds of seconds.
    assert time.perf_counter() - start < 10
    assert gpt2.decode(ids) == text


def test_cache_stays_within_its_bounds():
    ids = {bytes([byte]): byte for byte in range(256)}
    cache = PieceCache(ids, {}, most=10, longest=5)
    for number in range(100):
        assert cache[f"p{number}"] == tuple(f"p{number}".encode())
        assert len(cache) <= 10
    before = dict(cache)
    assert cache["a long piece"] == tuple(b"a long piece")
    assert cache == before


def test_encode_keeps_the_cache_bounded(gpt2):
    tokenizer = BytePairTokenizer([(b"a", b"b")])
    tokenizer._cache._most = 50
    text = " ".join(f"word{chr(97 + i % 26)}{'b' * (i % 60)}" for i in range(5_000))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer._cache) <= 50
