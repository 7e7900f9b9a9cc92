"""The book's training loop, with its stream of random numbers, and checkpoints (book 5.2, 5.4)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.files import written_whole
from llm_scratch.model.wrappers import WRAPPERS, unwrapped
from llm_scratch.tensor_files.pickles import load_plain
from llm_scratch.training.epochs import check_run, check_start, run_epochs
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
    update: Callable[[int], object] | None = None,
) -> tuple[list[float], list[float], list[int]]:
    """Train for some epochs; return training losses, validation losses, and tokens seen at each.

    A line is logged every `eval_freq` steps and a sample of text after each epoch. With the book's
    seed and settings the numbers are the book's. The modes of the model are left as found. Batches
    whose targets are all masked are skipped, with a warning that gives their numbers.

    Args:
        model: a `GPTModel`, on `device`.
        train_loader: yields (inputs, targets) to train on.
        val_loader: yields (inputs, targets) to validate on.
        optimizer: made from the model's parameters.
        device: the device of the model.
        num_epochs: the number of passes over the training part.
        eval_freq: steps from one evaluation to the next.
        eval_iter: the number of batches of each part per evaluation; None is all.
        start_context: the text that samples start with.
        tokenizer: the one that the loaders were made with.
        log: called with each line.
        update: called with the step, from 0, once its gradients are computed, instead of
            `optimizer.step()`; the log then counts "Iter", as in appendix D.

    Raises:
        ValueError: if a number is below 1, a loader gives no batch, the training loader no target
            that counts, or `start_context` no token.
        TypeError: if a loader is an iterator, which would be used up after one pass.

    Source:
        Book 5.2.
    """
    check_run(train_loader, val_loader, num_epochs, eval_freq, eval_iter)
    check_start(start_context, tokenizer)
    step_name = "Step" if update is None else "Iter"
    found: list[tuple[float, float, int]] = []

    def evaluate(epoch: int, step: int, tokens_seen: int) -> None:
        train, val = evaluate_model(model, train_loader, val_loader, device, eval_iter)
        found.append((train, val, tokens_seen))
        log(f"Ep {epoch} ({step_name} {step:06d}): Train loss {train:.3f}, Val loss {val:.3f}")

    run_epochs(
        model, train_loader, optimizer, num_epochs, eval_freq,
        loss_of=lambda batch: calc_loss_batch(batch[0], batch[1], model, device),
        size_of=lambda batch: batch[0].numel(),
        evaluate=evaluate,
        close_epoch=lambda: generate_and_print_sample(
            model, tokenizer, device, start_context, log=log
        ),
        update=update,
    )  # fmt: skip
    train_losses, val_losses, tokens_at = map(list, zip(*found, strict=True))
    return train_losses, val_losses, tokens_at


def save_checkpoint(
    path: str | os.PathLike[str], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write model and optimizer as the book does, atomically.

    The file holds a dict with `model_state_dict` and `optimizer_state_dict`; its folder is created
    if missing. With AdamW the file is three times as large as the model. A compiled or
    data-parallel model is written without its wrapper.

    Raises:
        TypeError: if a setting of the optimizer could not be read back, such as a learning rate
            that is a NumPy number.

    Source:
        Book 5.4.
    """
    state = {
        "model_state_dict": unwrapped(model).state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    check_plain(state)
    with written_whole(path) as file:
        torch.save(state, file)


def check_plain(value: Any, name: str = "state") -> None:
    """Check that a value can be read back without running code.

    Raises:
        TypeError: naming the place of the offending value and its type.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_plain(key, name)
            check_plain(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{name}[{index}]")
    elif type(value) not in (int, float, str, bool, type(None)) and not isinstance(value, Tensor):
        raise TypeError(
            f"{name} is a {type(value).__name__}; a checkpoint holds tensors, numbers, texts, "
            "lists and dicts"
        )


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Fill `model`, and `optimizer` if given, from a file of `save_checkpoint` or of the book.

    The file may also hold only the model's state dict. Names may still have the prefix of a
    compiled or parallel model, which is removed with a warning. Tensors go to the model's device.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not such a checkpoint, is damaged, contains code instead of plain
            tensors, lacks the optimizer, or does not fit. Model and optimizer are then unchanged.
    """
    state = _read_checkpoint(Path(path))
    if optimizer is not None and "optimizer_state_dict" not in state:
        raise ValueError(f"{path} holds a model and no optimizer; load it without an optimizer")
    model = unwrapped(model)
    weights = _without_prefixes(path, state.get("model_state_dict", state))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        model.load_state_dict(weights)
        if optimizer is not None:  # PyTorch checks the groups before it changes anything
            optimizer.load_state_dict(state["optimizer_state_dict"])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as err:
        model.load_state_dict(before)
        reason = " ".join(str(err).split())[:300]
        raise ValueError(
            f"{path} does not fit: {reason}; build model and optimizer as they were when saved"
        ) from err


def _without_prefixes(path: str | os.PathLike[str], weights: Any) -> Any:
    """Return the weights without the prefixes that wrappers add to every name."""
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        return weights  # load_state_dict reports the fault
    found = ""
    while prefix := next(
        (p for p in WRAPPERS if weights and all(n.startswith(found + p) for n in weights)), ""
    ):
        found += prefix
    if found:
        warnings.warn(
            f"{path} was saved from a wrapped model; {found!r} is left out of its names",
            stacklevel=3,
        )
    return {name.removeprefix(found): tensor for name, tensor in weights.items()}


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    state = load_plain(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state
