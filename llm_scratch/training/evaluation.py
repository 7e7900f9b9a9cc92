"""Evaluation of a model during training: losses on both parts, and a sample of text (book 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import context_length_of
from llm_scratch.tokenizers.any_tokenizer import decode, text_to_token_ids
from llm_scratch.training.losses import LossFunction, calc_loss_loader, next_token_loss

Loader = Iterable[tuple[Tensor, Tensor]]


def evaluate_model(
    model: Any,
    train_loader: Loader,
    val_loader: Loader,
    device: torch.device | str,
    eval_iter: int | None,
    *,
    loss_fn: LossFunction = next_token_loss,
) -> tuple[float, float]:
    """Return training and validation loss without dropout, in nats per target.

    The modes of the model are left as found (the book leaves it in train mode).

    Args:
        model: maps (B, T) ids to (B, T, V) logits.
        train_loader: yields (inputs, targets) of the training part.
        val_loader: yields (inputs, targets) of the validation part.
        device: the device that batches are moved to.
        eval_iter: the most batches of each loader; None is all of them.
        loss_fn: another loss: `loss_fn(model, inputs, targets) -> (sum, count)`.

    Raises:
        ValueError: if a loader gives no batch.

    Source:
        Book 5.2.
    """
    with evaluation_mode(model):
        train_loss, val_loss = (
            calc_loss_loader(loader, model, device, eval_iter, loss_fn=loss_fn)
            for loader in (train_loader, val_loader)
        )
    return train_loss, val_loss


def generate_and_print_sample(
    model: Any,
    tokenizer: Any,
    device: torch.device | str,
    start_context: str,
    *,
    log: Callable[[str], object] = print,
) -> None:
    """Log the start and a greedy continuation of 50 tokens, on one line.

    The modes of the model are left as found (the book leaves it in train mode).

    Args:
        model: a `GPTModel`.
        tokenizer: the one that the model was trained with.
        device: the device of the model.
        start_context: the text to continue.
        log: called with the line.

    Source:
        Book 5.2.
    """
    idx = text_to_token_ids(start_context, tokenizer).to(device)
    context_size = context_length_of(model)
    ids = generate_text_simple(model, idx, max_new_tokens=50, context_size=context_size)
    log(decode(tokenizer, ids[0].tolist()).replace("\n", " "))
