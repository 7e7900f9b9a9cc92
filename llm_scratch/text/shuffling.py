"""A shuffled order that is not stored: item i of an epoch is computed, not looked up.

A permutation of n numbers as a list takes 8 n bytes. A Feistel network (the idea behind many
ciphers) permutes the numbers 0 .. 4^k - 1 by arithmetic alone, so that distinct numbers stay
distinct. If n is not a power of 4, the network is made for the next power, and a result of n or
more goes through it again until it falls below n ("cycle walking"). This also keeps distinct
numbers distinct, and takes fewer than four passes on average.

Source:
    Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains".
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llm_scratch.checks import check_count

ROUNDS = 6
CHUNK = 256  # positions computed at once: numpy takes as long for a few as for many


def epoch_shift(seed: int, epoch: int) -> int:
    """Return a random 64-bit number for an epoch."""
    return int(_epoch_keys(seed, epoch)[ROUNDS])


def epoch_order(seed: int, epoch: int, n: int, begin: int, end: int) -> np.ndarray:
    """Return the items at positions begin .. end - 1 of an epoch's order: (end - begin,) int64.

    The n positions hold the numbers 0 .. n - 1, each once, in the same order on every machine.
    """
    first, last = begin // CHUNK, (end - 1) // CHUNK
    chunks = [_chunk(seed, epoch, n, number) for number in range(first, last + 1)]
    return np.concatenate(chunks)[begin - first * CHUNK : end - first * CHUNK]


@lru_cache(maxsize=64)
def _chunk(seed: int, epoch: int, n: int, number: int) -> np.ndarray:
    positions = np.arange(number * CHUNK, min((number + 1) * CHUNK, n), dtype=np.uint64)
    half = max(1, ((n - 1).bit_length() + 1) // 2)  # bits in each half
    keys = _epoch_keys(seed, epoch)[:ROUNDS]
    items = _feistel(positions, half, keys)
    while (outside := items >= n).any():
        items[outside] = _feistel(items[outside], half, keys)
    return items.astype(np.int64)


@lru_cache(maxsize=64)
def _epoch_keys(seed: int, epoch: int) -> np.ndarray:
    check_count("seed", seed, 0)
    return np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS + 1, np.uint64)


def _feistel(items: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    """Mix 2 * half bits: each round changes one half by the other and a key, and swaps them."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = items >> bits, items & mask
    for key in keys:
        left, right = right, left ^ (_hash(right ^ key) & mask)
    return (left << bits) | right


def _hash(values: np.ndarray) -> np.ndarray:
    """Scramble 64 bits, so that every bit of the result depends on every bit of the value.

    Source:
        Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators" (SplitMix64).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
