"""Batches of a part: every window once an epoch, in an order that nothing remembers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.text.shuffling import epoch_order
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.text.token_parts import TokenPart

LENGTH = 8


def part_of(num_tokens):
    return TokenPart.from_tokens(np.arange(num_tokens), max(num_tokens, 1))


def starts_of(part, seed, epoch, length=LENGTH):
    """The first token of each window of an epoch, in the order they come."""
    inputs, _ = part.batch(seed, epoch, part.num_rows(length), length)
    return inputs[:, 0].tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 5000])
def test_epoch_order_has_every_number_once(n):
    for epoch in range(5):
        order = epoch_order(0, epoch, n, 0, n)
        assert sorted(order.tolist()) == list(range(n))


@given(st.integers(1, 10**12), st.integers(0, 10**6), st.data())
def test_epoch_order_is_the_same_in_pieces_of_any_size(n, seed, data):
    begin = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(begin + 1, min(begin + 600, n)))
    middle = data.draw(st.integers(begin, end - 1))
    whole = epoch_order(seed, 3, n, begin, end)
    assert len({*whole.tolist()}) == end - begin
    assert 0 <= whole.min() <= whole.max() < n
    assert whole[middle - begin] == epoch_order(seed, 3, n, middle, middle + 1)[0]


def test_epoch_order_never_changes():
    # A run that is resumed by a later version must go on in the same order.
    assert epoch_order(123, 4, 1000, 0, 6).tolist() == [798, 993, 679, 355, 192, 103]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_epoch_order_takes_every_order_about_equally_often(n):
    times = 100 * math.factorial(n)
    found = Counter(tuple(epoch_order(7, epoch, n, 0, n).tolist()) for epoch in range(times))
    assert len(found) == math.factorial(n)
    assert all(60 <= count <= 150 for count in found.values())  # 100 and four standard deviations


def test_epoch_order_looks_random():
    orders = np.stack([epoch_order(1, epoch, 400, 0, 400) for epoch in range(400)])
    steps = np.abs(np.diff(orders, axis=1)).mean()
    assert steps == pytest.approx(400 / 3, rel=0.02)  # neighbours are torn apart
    # The place of a number does not depend on the number.
    by_chance = 400 / math.sqrt(12) / math.sqrt(400)
    assert orders.mean(axis=0).std() == pytest.approx(by_chance, rel=0.25)
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 4 / math.sqrt(400)


def test_batch_has_inputs_and_the_tokens_behind_them():
    inputs, targets = part_of(1000).batch(3, 5, 4, LENGTH)
    assert inputs.shape == targets.shape == (4, LENGTH)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(LENGTH))


@pytest.mark.parametrize("num_tokens", [9, 10, 16, 17, 18, 24, 25, 100, 1001])
def test_batch_visits_every_window_once_an_epoch(num_tokens):
    part = part_of(num_tokens)
    for epoch in range(4):
        starts = sorted(starts_of(part, 0, epoch))
        assert len(set(starts)) == part.num_rows(LENGTH) == (num_tokens - 1) // LENGTH
        gaps = np.diff(starts)
        assert (gaps[:-1] == LENGTH).all()  # one grid; the last window may be moved into the part
        assert (gaps[-1:] <= LENGTH).all()
        assert starts[0] < LENGTH
        assert starts[-1] + LENGTH < num_tokens


def test_batch_cuts_each_epoch_by_another_grid_in_another_order():
    part = part_of(1000)
    epochs = [starts_of(part, 0, epoch) for epoch in range(30)]
    assert len({min(starts) for starts in epochs}) == LENGTH  # every token begins a window some day
    assert len({tuple(np.argsort(starts)) for starts in epochs}) == 30
    assert starts_of(part, 1, 0) != epochs[0]


def test_batch_is_a_function_of_its_arguments():
    again = part_of(1000)
    for step in (7, 2, 7, 10**12):
        for ours, theirs in zip(
            part_of(1000).batch(5, step, 3, LENGTH), again.batch(5, step, 3, LENGTH), strict=True
        ):
            assert torch.equal(ours, theirs)
    state = torch.get_rng_state()
    again.batch(0, 0, 2, LENGTH)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("rows", [1, 3, 7, 200])
def test_batch_goes_on_over_the_end_of_an_epoch(rows):
    part = part_of(50)  # 6 windows
    one_by_one = [part.batch(0, i, 1, LENGTH)[0][0, 0].item() for i in range(2 * rows)]
    together = [part.batch(0, step, rows, LENGTH)[0][:, 0].tolist() for step in range(2)]
    assert together[0] + together[1] == one_by_one


def test_batch_of_a_step_can_be_taken_in_pieces():
    part = part_of(1000)
    whole, _ = part.batch(0, 9, 12, LENGTH)
    pieces = [
        part.batch(0, 9, rows, LENGTH, first_row=first, step_rows=12)[0]
        for first, rows in ((0, 5), (5, 1), (6, 6))
    ]
    assert torch.equal(torch.cat(pieces), whole)


def test_batch_gives_tensors_of_its_own():
    part = part_of(100)
    inputs, targets = part.batch(0, 0, 2, LENGTH)
    before = targets.clone()
    inputs.zero_()
    assert torch.equal(targets, before)
    assert part.tokens.tolist() == list(range(100))


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("num_tokens", [9, 16, 17, 18, 50])
def test_rows_in_order_have_every_token_but_the_first_as_a_target_once(num_tokens, rows):
    batches = list(part_of(num_tokens).rows_in_order(LENGTH, rows))
    targets = [token for _, batch in batches for token in batch.flatten().tolist()]
    assert targets == list(range(1, num_tokens))
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in batches)
    assert all(len(inputs) <= rows for inputs, _ in batches)


@pytest.mark.parametrize("num_tokens", [1, 3, 8])
def test_windows_need_a_token_more_than_their_length(num_tokens):
    part = part_of(num_tokens)
    message = f"got {num_tokens} tokens, need at least length . 1 = 9; .* smaller length"
    for ask in (
        lambda: part.num_rows(LENGTH),
        lambda: part.batch(0, 0, 1, LENGTH),
        lambda: part.rows_in_order(LENGTH, 1),  # at the call, not at the first batch
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_batch_refuses_windows_without_a_token():
    with pytest.raises(ValueError, match="length=0 must be 1 or more"):
        part_of(100).batch(0, 0, 2, 0)


def test_batch_finds_an_id_that_no_embedding_has():
    part = TokenPart(np.array([0, 1, 300, 3], dtype=np.uint16), 256)
    with pytest.raises(
        TokenFileError, match="damaged: token id 300 is outside a vocabulary of 256"
    ):
        part.batch(0, 0, 1, 3)
