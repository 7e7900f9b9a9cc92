"""The book's training loop, with the book's random stream, and its checkpoints (book 5.2, 5.4)."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import WRAPPERS
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.training.checkpoints import check_plain
from llm_scratch.training.evaluation import Loader, evaluate_model, generate_and_print_sample
from llm_scratch.training.losses import IGNORE_INDEX, calc_loss_batch


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
    seed and settings the numbers are the book's. The modes of the model are left as found. A batch
    whose targets are all masked is passed over, with a warning that numbers them.

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
        ValueError: if a number is below 1, a loader gives no batch, the training loader no target
            that counts, or `start_context` no token.
        TypeError: if a loader is an iterator, which would be used up after one pass.

    Source:
        Book 5.2.
    """
    if num_epochs < 1 or eval_freq < 1:
        raise ValueError(f"{num_epochs=} and {eval_freq=} must be 1 or more")
    check_run(train_loader, val_loader, eval_iter, start_context, tokenizer)
    train_losses: list[float] = []
    val_losses: list[float] = []
    tokens_at: list[int] = []
    tokens_seen, step = 0, -1
    with evaluation_mode(model):  # for its way out: modes as they were before the run
        for epoch in range(1, num_epochs + 1):
            model.train()
            for inputs, targets in with_targets(train_loader):
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
            generate_and_print_sample(model, tokenizer, device, start_context, log=log)
    return train_losses, val_losses, tokens_at


def check_run(
    train_loader: Loader,
    val_loader: Loader,
    eval_iter: int | None,
    start_context: str,
    tokenizer: Any,
) -> None:
    """Refuse, before the first step, what would end a run of the book's loops later on."""
    if eval_iter is not None and eval_iter < 1:
        raise ValueError(f"{eval_iter=} must be 1 or more; None is all batches")
    _check_loader("training", train_loader)
    _check_loader("validation", val_loader)
    if not encode(tokenizer, start_context):
        raise ValueError(f"{start_context=} gives no token to start a sample from; give a word")


def with_targets(train_loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch that have a target: without one there is no loss to learn from.

    Raises:
        ValueError: at the end, if there was none.
    """
    count, masked = 0, []
    for inputs, targets in train_loader:
        if bool((targets != IGNORE_INDEX).any()):
            yield inputs, targets
        else:
            masked.append(count)
        count += 1
    if not count:
        raise ValueError("the training loader gives no batch")
    if len(masked) == count:
        raise ValueError(
            f"all targets of the {count} training batches are masked: nothing to learn"
        )
    if masked:
        warnings.warn(
            f"{len(masked)} of {count} training batches had no target, all of them masked with "
            f"{IGNORE_INDEX}, and were passed over: {', '.join(map(str, masked[:10]))}"
            f"{' ...' if len(masked) > 10 else ''} (from 0); their texts may be cut too early",
            stacklevel=3,
        )


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
    when missing. With AdamW it is three times as large as the model. A compiled model, or one in
    data parallel, is written without its wrapper.

    Raises:
        TypeError: if a setting of the optimizer could not be read back, such as a rate that is a
            number of numpy.

    Source:
        Book 5.4.
    """
    state = {
        "model_state_dict": _without_wrapper(model).state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    check_plain(state)
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

    A file that holds the model's state dict alone is read too, and one whose names still have what
    a compiled or parallel model puts before them (a warning says so). Tensors go to where the model
    is.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no such checkpoint, is damaged, contains code instead of plain
            tensors, lacks the optimizer, or does not fit. Model and optimizer are as before then.
    """
    state = _read_checkpoint(Path(path))
    if optimizer is not None and "optimizer_state_dict" not in state:
        raise ValueError(f"{path} holds a model and no optimizer; load it without an optimizer")
    model = _without_wrapper(model)
    weights = _without_prefixes(path, state.get("model_state_dict", state))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        model.load_state_dict(weights)
        if optimizer is not None:  # checks the groups before it changes anything
            optimizer.load_state_dict(state["optimizer_state_dict"])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as err:
        model.load_state_dict(before)
        reason = " ".join(str(err).split())[:300]
        raise ValueError(
            f"{path} does not fit: {reason}; build model and optimizer as they were when saved"
        ) from err


def _without_wrapper(model: Any) -> nn.Module:
    """The model itself, without what compiling or data parallel wraps around it."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def _without_prefixes(path: str | os.PathLike[str], weights: Any) -> Any:
    """The weights by their own names, where every name has a wrapper's before it."""
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        return weights  # load_state_dict says what is wrong
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
