"""Book 5.1: the loss of a batch and of a loader, as a mean over tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from llm_scratch.training.losses import (
    IGNORE_INDEX,
    calc_loss_batch,
    calc_loss_loader,
    next_token_loss,
)

V, ROWS, T = 13, 11, 5


@pytest.fixture
def model():
    """A table of logits for each id, as the smallest model that learns."""
    torch.manual_seed(0)
    return torch.nn.Embedding(V, V)


@pytest.fixture
def data():
    torch.manual_seed(1)
    return torch.randint(V, (ROWS, T)), torch.randint(V, (ROWS, T))


def batches(data, size):
    inputs, targets = data
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def token_losses(model, data):
    inputs, targets = data
    with torch.no_grad():
        return F.cross_entropy(model(inputs).transpose(1, 2), targets, reduction="none")  # (B, T)


class CountedLoader:
    """Gives batches without end and counts how many were taken."""

    def __init__(self, batch):
        self.batch = batch
        self.taken = 0

    def __iter__(self):
        while True:
            self.taken += 1
            yield self.batch


def test_calc_loss_batch_equals_cross_entropy_with_gradient(model, data):
    loss = calc_loss_batch(*data, model, "cpu")
    inputs, targets = data
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, model.weight)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_calc_loss_batch_of_even_guesses_is_log_of_vocabulary(model, data):
    torch.nn.init.zeros_(model.weight)
    assert calc_loss_batch(*data, model, "cpu").item() == pytest.approx(math.log(V), rel=1e-6)


def test_calc_loss_batch_counts_unmasked_targets_only(model, data):
    inputs, targets = data
    masked = targets.clone()
    masked[2:, 1:] = IGNORE_INDEX
    expected = token_losses(model, data)[masked != IGNORE_INDEX].mean()
    torch.testing.assert_close(calc_loss_batch(inputs, masked, model, "cpu").detach(), expected)


def test_calc_loss_batch_refuses_batch_without_targets(model, data):
    masked = torch.full_like(data[1], IGNORE_INDEX)
    with pytest.raises(ValueError, match="all 55 targets of this batch are masked with -100"):
        calc_loss_batch(data[0], masked, model, "cpu")


def test_calc_loss_batch_takes_targets_of_any_layout(model, data):
    inputs, targets = data
    strided = targets.t().contiguous().t()
    assert not strided.is_contiguous()
    losses = [calc_loss_batch(inputs, t, model, "cpu") for t in (strided, targets)]
    torch.testing.assert_close(*losses)


def test_next_token_loss_is_computed_in_float32(model, data):
    half = model.bfloat16()
    total, count = next_token_loss(half, *data)
    logits = half(data[0]).float()
    expected = F.cross_entropy(logits.flatten(0, 1), data[1].flatten(), reduction="sum")
    assert total.dtype == torch.float32
    assert count == ROWS * T
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_calc_loss_loader_does_not_depend_on_batches(model, data, size):
    expected = token_losses(model, data).mean().item()
    loss = calc_loss_loader(batches(data, size), model, "cpu")
    assert loss == pytest.approx(expected, abs=1e-6)


def test_calc_loss_loader_weighs_masked_batches_by_their_targets(model, data):
    inputs, targets = data
    masked = targets.clone()
    masked[0, 1:] = IGNORE_INDEX
    masked[5] = IGNORE_INDEX  # with one row per batch, a batch without any target
    expected = token_losses(model, data)[masked != IGNORE_INDEX].mean().item()
    loss = calc_loss_loader(batches((inputs, masked), 1), model, "cpu")
    assert loss == pytest.approx(expected, abs=1e-6)


def test_calc_loss_loader_averages_batches_as_the_book_does(model, data):
    losses = token_losses(model, data)
    expected = torch.stack([part.mean() for part in losses.split(8)]).mean().item()
    loss = calc_loss_loader(batches(data, 8), model, "cpu", average="batches")
    assert loss == pytest.approx(expected, abs=1e-6)
    assert abs(loss - calc_loss_loader(batches(data, 8), model, "cpu")) > 1e-3


def test_calc_loss_loader_leaves_batches_without_targets_out(model, data):
    inputs, targets = data
    masked = targets.clone()
    masked[:4] = IGNORE_INDEX
    expected = token_losses(model, data)[4:].mean(dim=1).mean().item()
    loss = calc_loss_loader(batches((inputs, masked), 1), model, "cpu", average="batches")
    assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("average", ["tokens", "batches"])
def test_calc_loss_loader_refuses_loader_without_targets(model, data, average):
    masked = torch.full_like(data[1], IGNORE_INDEX)
    with pytest.raises(ValueError, match="all targets of 6 batches are masked"):
        calc_loss_loader(batches((data[0], masked), 2), model, "cpu", average=average)


def test_calc_loss_loader_refuses_empty_loader(model):
    with pytest.raises(ValueError, match="the loader gives no batch"):
        calc_loss_loader([], model, "cpu")


@pytest.mark.parametrize("num_batches", [0, -1])
def test_calc_loss_loader_refuses_number_of_batches(model, data, num_batches):
    with pytest.raises(ValueError, match=f"num_batches={num_batches} must be 1 or more"):
        calc_loss_loader(batches(data, 2), model, "cpu", num_batches)


def test_calc_loss_loader_refuses_unknown_average(model, data):
    with pytest.raises(ValueError, match='average=\'rows\' must be "tokens" or "batches"'):
        calc_loss_loader(batches(data, 2), model, "cpu", average="rows")


@pytest.mark.parametrize("num_batches", [1, 3])
def test_calc_loss_loader_takes_no_batch_too_many(model, data, num_batches):
    loader = CountedLoader(data)
    calc_loss_loader(loader, model, "cpu", num_batches)
    assert loader.taken == num_batches


def test_calc_loss_loader_takes_the_batches_there_are(model, data):
    losses = [calc_loss_loader(batches(data, 4), model, "cpu", n) for n in (3, 100, None)]
    assert losses[0] == losses[1] == losses[2]


def test_calc_loss_loader_keeps_no_graph(model, data):
    seen = []

    def spy(model, inputs, targets):
        total, count = next_token_loss(model, inputs, targets)
        seen.append(total.requires_grad)
        return total, count

    assert isinstance(calc_loss_loader(batches(data, 4), model, "cpu", loss_fn=spy), float)
    assert seen == [False] * 3
    assert torch.is_grad_enabled()


def test_loss_fn_replaces_the_loss(model, data):
    def count_of_zeros(model, inputs, targets):
        return (targets == 0).float().sum(), torch.tensor(2 * targets.numel())

    expected = (data[1] == 0).float().mean().item() / 2
    batch = calc_loss_batch(*data, model, "cpu", loss_fn=count_of_zeros)
    loader = calc_loss_loader(batches(data, 3), model, "cpu", loss_fn=count_of_zeros)
    assert batch.item() == pytest.approx(expected)
    assert loader == pytest.approx(expected)
