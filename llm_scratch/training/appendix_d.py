"""Warm-up, cosine decay and gradient clipping as the book adds them to its loop (appendix D).

The loop for real runs is `llm_scratch.training.loop.train`. It fixes what this module keeps as in
the book: gradients are not clipped during warm-up, the last step does not reach the smallest rate,
and the peak is read from the optimizer, so a second call begins at the rate where the first ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.checks import check_count, is_number
from llm_scratch.training.epochs import check_run
from llm_scratch.training.evaluation import Loader
from llm_scratch.training.optimizers import set_learning_rate
from llm_scratch.training.simple import train_model_simple

MOST_GRADIENT = 1.0


def book_learning_rate(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    peak_lr: float,
    initial_lr: float = 3e-05,
    min_lr: float = 1e-6,
) -> float:
    """Return the book's learning rate at a step: a linear rise, then half a cosine down.

    Real runs use `schedules.learning_rate`.

    Args:
        step: the step, counted from 0.
        total_steps: the number of steps of the whole run.
        warmup_steps: steps of linear rise; at step `warmup_steps` the rate is the peak.
        peak_lr: the largest rate.
        initial_lr: the rate of step 0.
        min_lr: the rate that the cosine approaches; step `total_steps` would have it.

    Source:
        Book D.1 and D.2.
    """
    if step < warmup_steps:
        return initial_lr + step * (peak_lr - initial_lr) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (peak_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def find_highest_gradient(model: nn.Module, *, signed: bool = False) -> Tensor:
    """Return the largest absolute value in all gradients of a model: a scalar.

    Args:
        model: a model after `backward`.
        signed: True compares signed values, as the book does, and so misses large negative
            gradients.

    Raises:
        ValueError: if no parameter has a gradient.

    Source:
        Book D.3.
    """
    gradients = [p.grad.detach() for p in model.parameters() if p.grad is not None]
    if not gradients:
        raise ValueError("no parameter has a gradient; call backward on a loss first")
    return torch.stack([(g if signed else g.abs()).max() for g in gradients]).max()


def train_model(
    model: Any,
    train_loader: Loader,
    val_loader: Loader,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    n_epochs: int,
    eval_freq: int,
    eval_iter: int | None,
    start_context: str,
    tokenizer: Any,
    warmup_steps: int,
    initial_lr: float = 3e-05,
    min_lr: float = 1e-6,
    orig_book_version: bool = False,
    *,
    log: Callable[[str], object] = print,
) -> tuple[list[float], list[float], list[int], list[float]]:
    """Train for some epochs; return training losses, validation losses, tokens seen, all rates.

    This is the loop of chapter 5 with warm-up, cosine decay and, after warm-up, gradients clipped
    to a norm of 1. With the book's seed and settings the numbers are the book's. The modes of the
    model are left as found.

    Args:
        model: a `GPTModel`, on `device`.
        train_loader: yields (inputs, targets) to train on; its length is known.
        val_loader: yields (inputs, targets) to validate on.
        optimizer: its rate is the peak; every group gets the same rate.
        device: the device of the model.
        n_epochs: the number of passes over the training part.
        eval_freq: steps from one evaluation to the next.
        eval_iter: the number of batches of each part per evaluation; None is all.
        start_context: the text that samples start with.
        tokenizer: the one that the loaders were made with.
        warmup_steps: steps of linear rise.
        initial_lr: the rate of the first step.
        min_lr: the rate that the cosine approaches.
        orig_book_version: True leaves the first step after warm-up unclipped, as the first
            printing does.
        log: called with each line.

    Raises:
        ValueError: if a number is out of range, a loader gives no batch, `start_context` gives no
            token, or warm-up takes the whole run.
        TypeError: if a loader is an iterator, or `train_loader` a stream of unknown length.

    Source:
        Book D.4.
    """
    if not is_number(initial_lr, 0) or not is_number(min_lr, 0):
        raise ValueError(f"{initial_lr=} and {min_lr=} must be 0 or more")
    check_count("n_epochs", n_epochs)
    check_count("warmup_steps", warmup_steps, 0)
    check_run(train_loader, val_loader, n_epochs, eval_freq, eval_iter)
    total_steps = _count_steps(train_loader, n_epochs, warmup_steps)
    peak_lr = optimizer.param_groups[0]["lr"]
    schedule = {"total_steps": total_steps, "warmup_steps": warmup_steps, "peak_lr": peak_lr}
    first_clipped = warmup_steps + 1 if orig_book_version else warmup_steps
    rates: list[float] = []

    def update(step: int) -> None:
        rate = book_learning_rate(step, **schedule, initial_lr=initial_lr, min_lr=min_lr)
        rates.append(rate)
        set_learning_rate([optimizer], rate)
        if step >= first_clipped:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=MOST_GRADIENT)
        optimizer.step()

    losses = train_model_simple(
        model, train_loader, val_loader, optimizer, device, n_epochs, eval_freq, eval_iter,
        start_context, tokenizer, log=log, update=update,
    )  # fmt: skip
    return *losses, rates


def _count_steps(train_loader: Any, n_epochs: int, warmup_steps: int) -> int:
    try:
        batches = len(train_loader)
    except TypeError:
        raise TypeError(
            "the training loader does not know its length, and the cosine needs the number of "
            "steps; give a DataLoader over a data set with a length, or a list"
        ) from None
    if warmup_steps >= batches * n_epochs:
        raise ValueError(
            f"{warmup_steps=} must be below the {batches * n_epochs} steps of the run: "
            f"{batches} batches, {n_epochs} epochs"
        )
    return batches * n_epochs
