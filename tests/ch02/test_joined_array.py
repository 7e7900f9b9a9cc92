"""Arrays in several places, read as one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.text.joined_array import JoinedArray, between

LISTS = st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=6)
PLACES = st.one_of(st.none(), st.integers(-35, 35))


def joined_of(lists, added):
    arrays = [np.array(numbers, dtype="<u8") for numbers in lists]
    whole = [number + shift for numbers, shift in zip(lists, added, strict=True)
             for number in numbers]  # fmt: skip
    return JoinedArray(arrays, added), whole


@given(LISTS, PLACES, PLACES, st.sampled_from([None, 1, 2, 5, -1, -3]), st.data())
def test_joined_array_is_read_like_a_list(lists, start, stop, step, data):
    added = data.draw(st.lists(st.integers(0, 9), min_size=len(lists), max_size=len(lists)))
    joined, whole = joined_of(lists, added)
    assert len(joined) == len(whole) == joined.shape[0]
    assert joined[start:stop:step].tolist() == whole[start:stop:step]
    assert joined.tolist() == whole == list(joined) == np.asarray(joined).tolist()
    assert joined[start:stop].dtype == joined.dtype == np.uint64
    if whole:
        place = data.draw(st.integers(-len(whole), len(whole) - 1))
        assert joined[place] == whole[place]


@given(LISTS, st.data())
def test_between_is_a_part_that_is_read_like_the_whole(lists, data):
    joined, whole = joined_of(lists, list(range(len(lists))))
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    part = between(joined, start, stop)
    assert part[:].tolist() == whole[start:stop] == part.tolist()
    assert between(part, 0, len(part)).tolist() == whole[start:stop]


def test_between_within_one_array_is_that_array_and_no_copy():
    arrays = [np.arange(5), np.arange(5, 9)]
    part = JoinedArray(arrays).between(1, 4)
    assert np.shares_memory(part, arrays[0])
    assert np.shares_memory(between(arrays[0], 1, 4), arrays[0])
    assert isinstance(JoinedArray(arrays).between(1, 6), JoinedArray)


def test_joined_array_knows_its_end_and_that_it_is_no_array():
    joined = JoinedArray([np.arange(2), np.arange(2)])
    with pytest.raises(IndexError):
        joined[4]
    with pytest.raises(ValueError, match="only as a copy"):
        np.array(joined, copy=False)
    assert "4 numbers of int64 in 2 arrays" in repr(joined)
    assert JoinedArray([np.empty(0, np.uint16)])[:].dtype == np.uint16
