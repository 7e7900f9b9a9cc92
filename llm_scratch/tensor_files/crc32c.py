"""CRC-32C, the checksum of TensorFlow's files, at the speed of numpy."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
MASK_DELTA = 0xA282EAD8

Words = NDArray[np.uint32]
Octets = bytes | bytearray | memoryview | NDArray[np.uint8]


def crc32c(data: Octets) -> int:
    """Compute the CRC-32C of some bytes, many lanes at a time.

    A CRC is linear: the bytes are cut into equal lanes, all lanes advance together by four bytes
    per step, and the lanes are joined pairwise by shifting the left one past the right one.
    """
    octets = np.frombuffer(data, dtype=np.uint8)
    state = 0xFFFFFFFF
    while len(octets) >= 1024:
        n_lanes = min(1 << 15, 1 << (len(octets) // 256).bit_length() - 1)
        n_words = len(octets) // (4 * n_lanes)
        used = 4 * n_lanes * n_words
        lanes = octets[:used].view("<u4").reshape(n_lanes, n_words)
        state = _join(_advance(lanes, state), 4 * n_words)
        octets = octets[used:]
    table = _byte_table().tolist()
    for octet in octets.tolist():
        state = table[(state ^ octet) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


@cache
def _byte_table() -> Words:
    """Return the state that each byte produces from zero: (256,)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    return table


def unmask(masked: int) -> int:
    """Return the checksum behind the masked form that TensorFlow and LevelDB store."""
    rotated = (masked - MASK_DELTA) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


def _past_zeros(state: Words, n_bytes: int) -> Words:
    """Return each state after `n_bytes` bytes of zero."""
    for _ in range(n_bytes):
        state = _byte_table()[state & 0xFF] ^ (state >> 8)
    return state


@cache
def _half_tables() -> tuple[Words, Words]:
    """Return the tables for the low and the high half of a word: four bytes in two lookups."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    return _past_zeros(halves, 4), _past_zeros(halves << np.uint32(16), 4)


def _advance(lanes: Words, first_state: int) -> Words:
    """Return the state of every lane after its words: (lanes, words) -> (lanes,)."""
    low, high = _half_tables()
    state = np.zeros(len(lanes), dtype=np.uint32)
    state[0] = first_state
    for word in range(lanes.shape[1]):
        state ^= lanes[:, word]
        state = low[state & 0xFFFF] ^ high[state >> 16]
    return state


def _apply(operator: Words, states: Words) -> Words:
    """Apply a linear map, given by its results for each of the 32 bits, to many states."""
    result = np.zeros_like(states)
    for bit in range(32):
        result ^= np.where((states >> bit) & 1, operator[bit], np.uint32(0))
    return result


def _join(states: Words, lane_bytes: int) -> int:
    """Join the states of lanes, a power of two of them, each `lane_bytes` long, into one."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    shift, step = bits, _past_zeros(bits, 1)
    while lane_bytes:  # the shift past `lane_bytes` zeros, by repeated squaring
        if lane_bytes & 1:
            shift = _apply(step, shift)
        step = _apply(step, step)
        lane_bytes >>= 1
    while len(states) > 1:
        states = _apply(shift, states[0::2]) ^ states[1::2]
        shift = _apply(shift, shift)
    return int(states[0])
