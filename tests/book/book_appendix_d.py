"""What appendix D needs models for: each function makes one, and returns what came out of it."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import torch
from book_ch05 import START, EnoughError, adamw, loaders, seeded_model
from torch.utils.data import DataLoader, Subset

from llm_scratch.training.appendix_d import find_highest_gradient, train_model
from llm_scratch.training.losses import calc_loss_batch

EPOCHS = 15
LOG_LINE = re.compile(r"Ep (\d+) \(Iter (\d{6})\): Train loss (\d+\.\d{3}), Val loss (\d+\.\d{3})")


def train(
    both: Any, tokenizer: Any, n_epochs: int, warmup_steps: int, log: Any
) -> tuple[list[float], list[float], list[int], list[float]]:
    """The book's call of `train_model`, with a new model."""
    model = seeded_model()
    return train_model(
        model,
        *both,
        adamw(model, lr=1e-3),
        "cpu",
        n_epochs=n_epochs,
        eval_freq=5,
        eval_iter=1,
        start_context=START,
        tokenizer=tokenizer,
        warmup_steps=warmup_steps,
        initial_lr=1e-5,
        min_lr=1e-5,
        log=log,
    )


def largest_gradients(text: str) -> list[float]:
    """The largest entry of all gradients before and after clipping.

    The batch is the last one of two runs of 15 epochs each, which the sections before draw.
    """
    torch.manual_seed(123)
    train_loader, _ = loaders(text)
    for _ in range(2 * EPOCHS):
        for batch in train_loader:
            inputs, targets = batch
    model = seeded_model()
    calc_loss_batch(inputs, targets, model, "cpu").backward()
    before = find_highest_gradient(model, signed=True).item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    return [before, find_highest_gradient(model, signed=True).item()]


def training_log(text: str, tokenizer: Any) -> list[list[float]]:
    """The numbers that the book's run logs: epoch, step, training loss, validation loss."""
    lines: list[str] = []
    train(loaders(text), tokenizer, EPOCHS, 27, lines.append)
    found = [LOG_LINE.fullmatch(line) for line in lines]
    return [[int(m[1]), int(m[2]), float(m[3]), float(m[4])] for m in found if m]


def losses_after_one_window(text: str, tokenizer: Any) -> list[float]:
    """Training and validation loss after the first step on a single window."""
    both = [DataLoader(Subset(loader.dataset, range(1)), batch_size=1) for loader in loaders(text)]
    lines: list[str] = []

    def log_one(line: str) -> None:
        lines.append(line)
        raise EnoughError

    with contextlib.suppress(EnoughError):
        train(both, tokenizer, n_epochs=6, warmup_steps=1, log=log_one)
    (found,) = map(LOG_LINE.fullmatch, lines)
    assert found
    return [float(found[3]), float(found[4])]
