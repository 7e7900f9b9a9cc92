"""The book's training loop, with the book's random stream, and its checkpoints (book 5.2, 5.4)."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm_scratch.model.modes import evaluation_mode
from llm_scratch.text.tokens import encode
from llm_scratch.training.evaluation import Loader, evaluate_model, generate_and_print_sample
from llm_scratch.training.losses import calc_loss_batch


def train_model_simple(
    model: Any,
    train_loader: Loader,
    val_loader: Loader,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    num_epochs: int,
    eval_freq: int,
    eval_iter: int | None,
    start_context: str,
    tokenizer: Any,
    *,
    log: Callable[[str], object] = print,
) -> tuple[list[float], list[float], list[int]]:
    """Train for some epochs: training losses, validation losses, and tokens seen at each of them.

    A line is logged every `eval_freq` steps and a sample of text after each epoch. With the book's
    seed and settings the numbers are the book's. The modes of the model are left as found.

    Args:
        model: a `GPTModel`, on `device`.
        train_loader: gives (inputs, targets) to learn from.
        val_loader: gives (inputs, targets) to measure on.
        optimizer: made from the model's parameters.
        device: where the model is.
        num_epochs: how often the training part is gone through.
        eval_freq: steps from one evaluation to the next.
        eval_iter: how many batches an evaluation takes of each part.
        start_context: what the samples of text start with.
        tokenizer: the one that the loaders were made with.
        log: what each line is given to.

    Raises:
        ValueError: if a number is below 1, a loader gives no batch, or `start_context` no token.
        TypeError: if a loader is an iterator, which would be used up after one pass.

    Source:
        Book 5.2.
    """
    _check_run(num_epochs, eval_freq, eval_iter)
    _check_loader("training", train_loader)
    _check_loader("validation", val_loader)
    if not encode(tokenizer, start_context):
        raise ValueError(f"{start_context=} gives no token to start a sample from; give a word")
    train_losses: list[float] = []
    val_losses: list[float] = []
    tokens_at: list[int] = []
    tokens_seen, step = 0, -1
    with evaluation_mode(model):  # for its way out: modes as they were before the run
        for epoch in range(1, num_epochs + 1):
            model.train()
            for inputs, targets in train_loader:
                optimizer.zero_grad()
                loss = calc_loss_batch(inputs, targets, model, device)
                loss.backward()
                optimizer.step()
                tokens_seen += inputs.numel()
                step += 1
                if step % eval_freq == 0:
                    losses = evaluate_model(model, train_loader, val_loader, device, eval_iter)
                    train_losses.append(losses[0])
                    val_losses.append(losses[1])
                    tokens_at.append(tokens_seen)
                    log(
                        f"Ep {epoch} (Step {step:06d}): "
                        f"Train loss {losses[0]:.3f}, Val loss {losses[1]:.3f}"
                    )
            if step < 0:
                raise ValueError("the training loader gives no batch")
            generate_and_print_sample(model, tokenizer, device, start_context, log=log)
    return train_losses, val_losses, tokens_at


def _check_run(num_epochs: int, eval_freq: int, eval_iter: int | None) -> None:
    if num_epochs < 1 or eval_freq < 1:
        raise ValueError(f"{num_epochs=} and {eval_freq=} must be 1 or more")
    if eval_iter is not None and eval_iter < 1:
        raise ValueError(f"{eval_iter=} must be 1 or more; None is all batches")


def _check_loader(name: str, loader: Loader) -> None:
    if isinstance(loader, Iterator):
        raise TypeError(
            f"the {name} loader is an iterator, used up after one pass; give a DataLoader or a list"
        )
    try:
        batches = len(loader)  # type: ignore[arg-type]
    except TypeError:  # a stream, whose length nobody knows
        return
    if not batches:
        raise ValueError(
            f"the {name} loader gives no batch; use more text, or a smaller max_length or "
            "batch_size"
        )


def save_checkpoint(
    path: str | os.PathLike[str], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write model and optimizer as the book does, whole or not at all.

    The file holds a dict with `model_state_dict` and `optimizer_state_dict`; its folder is made
    when missing. With AdamW it is three times as large as the model.

    Source:
        Book 5.4.
    """
    state = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(unfinished, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the old file's place
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Fill `model`, and `optimizer` if given, from a file of `save_checkpoint` or of the book.

    A file that holds the model's state dict alone is read too. Tensors go to where the model is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no such checkpoint, is damaged, contains code instead of plain
            tensors, lacks the optimizer, or does not fit. Model and optimizer are as before then.
    """
    state = _read_checkpoint(Path(path))
    if optimizer is not None and "optimizer_state_dict" not in state:
        raise ValueError(f"{path} holds a model and no optimizer; load it without an optimizer")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        model.load_state_dict(state.get("model_state_dict", state))
        if optimizer is not None:  # checks the groups before it changes anything
            optimizer.load_state_dict(state["optimizer_state_dict"])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as err:
        model.load_state_dict(before)
        reason = " ".join(str(err).split())[:300]
        raise ValueError(
            f"{path} does not fit: {reason}; build model and optimizer as they were when saved"
        ) from err


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise ValueError(
            f"{path} is refused: it holds objects other than plain tensors, whose reading could "
            "run code"
        ) from err
    except Exception as err:  # a foreign format: damage shows as many types of error
        reason = f"{type(err).__name__}: {err}".partition("\n")[0][:200]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason})") from err
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state
