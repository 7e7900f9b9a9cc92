"""The loop shared by the book's four training functions: epochs of steps, with evaluations.

Data, measurements and logs differ; see `training.simple`, `training.appendix_d`,
`finetuning.spam_classifier` and `finetuning.dpo_simple`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from llm_scratch.checks import check_count
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.training.losses import IGNORE_INDEX


def run_epochs(
    model: Any,
    train_loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    num_epochs: int,
    eval_freq: int,
    *,
    loss_of: Callable[[Any], Tensor],
    size_of: Callable[[Any], int],
    evaluate: Callable[[int, int, int], object],
    close_epoch: Callable[[], object],
    update: Callable[[int], object] | None = None,
) -> int:
    """Train for some epochs and return the number of tokens or examples seen.

    The modes of the model are restored at the end.

    Args:
        model: the model to train; in train mode at the start of each epoch.
        train_loader: yields batches of any kind.
        optimizer: made from the model's parameters.
        num_epochs: the number of passes over the loader.
        eval_freq: steps from one call of `evaluate` to the next, beginning with step 0.
        loss_of: batch -> the loss to call `backward` on, a scalar.
        size_of: batch -> its number of tokens or examples.
        evaluate: called with the epoch (from 1), the step (from 0) and the number seen.
        close_epoch: called at the end of each epoch.
        update: called with the step once its gradients are computed; None is `optimizer.step()`.
    """
    seen, step = 0, -1
    with evaluation_mode(model):  # its exit restores the modes from before the run
        for epoch in range(1, num_epochs + 1):
            model.train()
            for batch in with_targets(train_loader):
                step += 1
                optimizer.zero_grad()
                loss_of(batch).backward()
                optimizer.step() if update is None else update(step)
                seen += size_of(batch)
                if step % eval_freq == 0:
                    evaluate(epoch, step, seen)
            close_epoch()
    return seen


def check_run(
    train_loader: Iterable[Any],
    val_loader: Iterable[Any],
    num_epochs: int,
    eval_freq: int,
    eval_iter: int | None,
) -> None:
    """Check, before the first step, arguments that would end a run later.

    Raises:
        ValueError: if a number is below 1, or a loader gives no batch.
        TypeError: if a loader is an iterator, which would be used up after one pass.
    """
    check_count("num_epochs", num_epochs)
    check_count("eval_freq", eval_freq)
    if eval_iter is not None:
        check_count("eval_iter", eval_iter, note="None is all batches")
    _check_loader("training", train_loader)
    _check_loader("validation", val_loader)


def check_start(start_context: str, tokenizer: Any) -> None:
    """Check that a sample can start from a text.

    Raises:
        ValueError: if the text has no token.
    """
    if not encode(tokenizer, start_context):
        raise ValueError(f"{start_context=} gives no token to start a sample from; give a word")


def with_targets(train_loader: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of an epoch that have a target; the others have no loss.

    Raises:
        ValueError: at the end, if no batch had a target.
    """
    count, masked = 0, []
    for batch in train_loader:
        if _has_target(batch):
            yield batch
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
            stacklevel=4,
        )


def _has_target(batch: Any) -> bool:
    if isinstance(batch, Mapping):  # pairs of answers: their loss reports rows without a target
        return True
    return bool((batch[1] != IGNORE_INDEX).any())


def _check_loader(name: str, loader: Iterable[Any]) -> None:
    if isinstance(loader, Iterator):
        raise TypeError(
            f"the {name} loader is an iterator, used up after one pass; give a DataLoader or a list"
        )
    try:
        batches = len(loader)  # type: ignore[arg-type]
    except TypeError:  # a stream of unknown length
        return
    if not batches:
        raise ValueError(
            f"the {name} loader gives no batch; use more text, or a smaller max_length or "
            "batch_size"
        )
