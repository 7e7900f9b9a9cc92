"""Losses of one batch and of a whole loader, averaged over tokens (book 5.1).

A loss function here is `loss_fn(model, inputs, targets) -> (sum of losses, count)`: sums and counts
give the right average for one batch and for many together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_scratch.checks import check_count
from llm_scratch.text.token_rows import IGNORE_INDEX

LossFunction = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]


def next_token_loss(model: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of cross entropies in nats, and the number of targets: two scalars.

    Args:
        model: maps (B, T) ids to (B, T, V) logits, in any floating-point type.
        inputs: (B, T) ids.
        targets: (B, T) ids; -100 means no target.
    """
    logits = model(inputs).float().flatten(0, 1)  # (B * T, V)
    flat_targets = targets.flatten()  # (B * T,)
    total = F.cross_entropy(logits, flat_targets, ignore_index=IGNORE_INDEX, reduction="sum")
    return total, (flat_targets != IGNORE_INDEX).sum()


def calc_loss_batch(
    input_batch: Tensor,
    target_batch: Tensor,
    model: Any,
    device: torch.device | str,
    *,
    loss_fn: LossFunction = next_token_loss,
) -> Tensor:
    """Return the mean loss of a batch, in nats per target: a scalar to call `backward` on.

    Args:
        input_batch: (B, T) ids.
        target_batch: (B, T) ids of the tokens that follow; -100 means no target.
        model: maps (B, T) ids to (B, T, V) logits.
        device: the device to move the batch to, which already holds the model.
        loss_fn: another loss: `loss_fn(model, inputs, targets) -> (sum, count)`.

    Raises:
        ValueError: if no target of the batch counts, as the mean would be NaN.

    Source:
        Book 5.1.2.
    """
    total, count = loss_fn(model, input_batch.to(device), target_batch.to(device))
    if not count:
        raise ValueError(
            f"all {target_batch.numel()} targets of this batch are masked with {IGNORE_INDEX}, "
            "so it has no loss"
        )
    return total / count


def first_batches(data_loader: Iterable[Any], num_batches: int | None) -> Iterator[Any]:
    """Return the first `num_batches` (at least 1) batches of a loader; None means all."""
    if num_batches is not None:
        check_count("num_batches", num_batches, note="None is all batches")
    return islice(data_loader, num_batches)


@torch.no_grad()
def calc_loss_loader(
    data_loader: Iterable[tuple[Tensor, Tensor]],
    model: Any,
    device: torch.device | str,
    num_batches: int | None = None,
    *,
    average: Literal["tokens", "batches"] = "tokens",
    loss_fn: LossFunction = next_token_loss,
) -> float:
    """Return the mean loss over a loader, in nats per target, for batches of any size.

    The caller sets the model's mode (as `evaluate_model` does).

    Args:
        data_loader: yields (inputs, targets).
        model: maps (B, T) ids to (B, T, V) logits.
        device: the device to move the batches to.
        num_batches: the most batches to use; None is all of them.
        average: "tokens" weights every target equally; "batches" is the book's mean of batch
            means, in which a short last batch has too much weight.
        loss_fn: another loss: `loss_fn(model, inputs, targets) -> (sum, count)`.

    Raises:
        ValueError: if the loader gives no batch, or no target in it counts.

    Source:
        Book 5.1.3.
    """
    if average not in ("tokens", "batches"):
        raise ValueError(f'{average=} must be "tokens" or "batches"')
    sums, counts = [], []
    for inputs, targets in first_batches(data_loader, num_batches):
        total, count = loss_fn(model, inputs.to(device), targets.to(device))
        sums.append(total.item())
        counts.append(int(count))
    if not sums:
        raise ValueError("the loader gives no batch; is the text shorter than one batch?")
    if not sum(counts):
        raise ValueError(f"all targets of {len(sums)} batches are masked, so there is no loss")
    if average == "tokens":
        return sum(sums) / sum(counts)
    means = [total / count for total, count in zip(sums, counts, strict=True) if count]
    return sum(means) / len(means)
