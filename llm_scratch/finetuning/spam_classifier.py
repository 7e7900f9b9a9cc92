"""A spam classifier as the book builds it: data, accuracy, training loop, use (book chapter 6).

The book pads every message to one length and reads the answer at the end of the padded row, so
the answer also depends on the padding. The code that reads at the last real token is in
`labelled_texts` and `text_classifier`. `calc_accuracy_loader` and `train_classifier_simple` take
both kinds of batches.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from llm_scratch.checks import check_count
from llm_scratch.finetuning.labelled_rows import Row, read_rows
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import context_length_of
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.training.epochs import check_run, run_epochs
from llm_scratch.training.evaluation import Loader, evaluate_model
from llm_scratch.training.losses import IGNORE_INDEX, calc_loss_batch, first_batches

SPAM_LABELS = {"ham": 0, "spam": 1}


class SpamDataset(Dataset):
    """Messages as rows of ids of one length: item -> (max_length,) int64 and its label.

    Args:
        csv_file: a CSV file with the header "Label,Text" (or another file for `read_rows`), rows
            (label, text), or a DataFrame. Labels are 0 and 1, or "ham" and "spam".
        tokenizer: any tokenizer.
        max_length: the number of ids in a row. Longer messages are cut, with a warning that counts
            them; None takes the longest message.
        pad_token_id: the id that fills shorter messages.

    Attributes:
        data: {"Label": [...], "Text": [...]}, labels as numbers.
        encoded_texts: a list of `max_length` ids for each message.
        max_length: the number of ids in a row.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no message, a column is missing, or a label is not one of these.

    Source:
        Book 6.3.
    """

    def __init__(
        self,
        csv_file: str | os.PathLike[str] | Iterable[Row] | Any,
        tokenizer: Any,
        max_length: int | None = None,
        pad_token_id: int = 50256,
    ) -> None:
        rows = read_rows(csv_file)
        if not rows:
            raise ValueError("there are no messages to learn from")
        if max_length is not None:
            check_count("max_length", max_length, note="None takes the longest message")
        labels = [_spam_label(row.where, row.label) for row in rows]
        texts = [row.text for row in rows]
        self.data: dict[str, list[Any]] = {"Label": labels, "Text": texts}
        encoded = [encode(tokenizer, text, "text") for text in texts]
        self.max_length = max(map(len, encoded)) if max_length is None else max_length
        warn_of_cut(encoded, self.max_length)
        self.encoded_texts = [
            ids[: self.max_length] + [pad_token_id] * (self.max_length - len(ids))
            for ids in encoded
        ]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.encoded_texts[index]), torch.tensor(self.data["Label"][index])

    def __len__(self) -> int:
        return len(self.encoded_texts)


def warn_of_cut(encoded: Iterable[list[int]], max_length: int) -> None:
    """Warn of the number of texts that are cut to `max_length` tokens, if there are any."""
    lengths = [len(ids) for ids in encoded]
    if cut := sum(length > max_length for length in lengths):
        warnings.warn(
            f"{cut} of {len(lengths)} texts are cut to {max_length} tokens; the longest has "
            f"{max(lengths)}",
            stacklevel=3,
        )


def class_logits(
    model: Any, inputs: Tensor, targets: Tensor, *, position: int = -1
) -> tuple[Tensor, Tensor]:
    """Return logits at the place where each row is read, and the labels: (n, N) float32, and (n,).

    Args:
        model: maps (B, T) ids to (B, T, N) logits.
        inputs: (B, T) ids.
        targets: (B,) labels, read at `position`; or (B, T) targets that hold the label at the
            place to read and -100 elsewhere, as `ClassificationDataset` gives them.
        position: -1 is the end of the padded row, 0 the first token.

    Raises:
        ValueError: if both the targets and `position` say where to read.
    """
    logits = model(inputs).float()  # (B, T, N)
    if targets.dim() == 1:
        return logits[:, position], targets
    if position != -1:
        raise ValueError(f"{position=} has no effect: these targets themselves say where to read")
    real = targets != IGNORE_INDEX  # (B, T)
    return logits[real], targets[real]


def classification_loss(
    model: Any, inputs: Tensor, targets: Tensor, *, position: int = -1
) -> tuple[Tensor, Tensor]:
    """Return the sum of cross entropies in nats, and the number of labels: two scalars.

    This is the `loss_fn=` of a classifier, for both kinds of batches. The arguments are those of
    `class_logits`.
    """
    logits, labels = class_logits(model, inputs, targets, position=position)
    return F.cross_entropy(logits, labels, reduction="sum"), torch.tensor(len(labels))


def last_position_loss(model: Any, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the book's loss, read at the end of each padded row: sum and count, two scalars.

    `calc_loss_batch(..., loss_fn=last_position_loss)` is the book's `calc_loss_batch`. The same
    goes for `calc_loss_loader` and `evaluate_model`.

    Args:
        model: maps (B, T) ids to (B, T, N) logits.
        inputs: (B, T) ids.
        labels: (B,) labels, 0 to N - 1.

    Source:
        Book 6.6.
    """
    if labels.dim() != 1:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)}; one per row is needed (classification_loss "
            "reads at the place that the targets mark)"
        )
    return classification_loss(model, inputs, labels)


@torch.no_grad()
def calc_accuracy_loader(
    data_loader: Iterable[tuple[Tensor, Tensor]],
    model: Any,
    device: torch.device | str,
    num_batches: int | None = None,
    *,
    position: int = -1,
) -> float:
    """Return the share of rows whose likeliest class is the right one, 0 to 1.

    The modes of the model are left as found (the book leaves it in eval mode).

    Args:
        data_loader: yields (inputs, labels), read at the end of the padded row as in the book, or
            (inputs, targets) of a `ClassificationDataset`, read at the last real token.
        model: maps (B, T) ids to (B, T, N) logits.
        device: the device that batches are moved to.
        num_batches: the maximum number of batches; None is all of them.
        position: another place to read the class; 0 is the first token.

    Raises:
        ValueError: if the loader yields no batch.

    Source:
        Book 6.6.
    """
    correct, count = 0, 0
    with evaluation_mode(model):
        for inputs, targets in first_batches(data_loader, num_batches):
            batch = inputs.to(device), targets.to(device)
            logits, labels = class_logits(model, *batch, position=position)
            correct += int((logits.argmax(dim=-1) == labels).sum())
            count += len(labels)
    if not count:
        raise ValueError("the loader gives no batch; are there fewer rows than one batch has?")
    return correct / count


def train_classifier_simple(
    model: Any,
    train_loader: Loader,
    val_loader: Loader,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    num_epochs: int,
    eval_freq: int,
    eval_iter: int | None,
    *,
    position: int = -1,
    log: Callable[[str], object] = print,
) -> tuple[list[float], list[float], list[float], list[float], int]:
    """Train for some epochs; return losses and accuracies on both parts, and the examples seen.

    Losses are measured every `eval_freq` steps, accuracies after each epoch. With the book's seed
    and settings the numbers are the book's. The modes of the model are left as found.

    Args:
        model: a `GPTModel` with a head for classes, on `device`.
        train_loader: yields batches as for `calc_accuracy_loader`, to learn from.
        val_loader: the same, to measure on.
        optimizer: made from the model's parameters.
        device: where the model is.
        num_epochs: the number of passes over the training part.
        eval_freq: steps from one evaluation to the next.
        eval_iter: the number of batches that an evaluation takes from each part; None is all.
        position: another place to read the class; 0 is the first token.
        log: called with each line.

    Returns:
        train_losses, val_losses, train_accs, val_accs, examples_seen.

    Raises:
        ValueError: if a number is below 1, or a loader has no batch.
        TypeError: if a loader is an iterator, which would be used up after one pass.

    Source:
        Book 6.7.
    """
    check_run(train_loader, val_loader, num_epochs, eval_freq, eval_iter)
    losses: list[tuple[float, float]] = []
    accuracies: list[tuple[float, float]] = []
    loss_fn = partial(classification_loss, position=position)

    def evaluate(epoch: int, step: int, _: int) -> None:
        both = evaluate_model(model, train_loader, val_loader, device, eval_iter, loss_fn=loss_fn)
        losses.append(both)
        log(f"Ep {epoch} (Step {step:06d}): Train loss {both[0]:.3f}, Val loss {both[1]:.3f}")

    def close_epoch() -> None:
        train_share, val_share = (
            calc_accuracy_loader(loader, model, device, eval_iter, position=position)
            for loader in (train_loader, val_loader)
        )
        accuracies.append((train_share, val_share))
        log(f"Training accuracy: {train_share:.2%} | Validation accuracy: {val_share:.2%}")

    examples_seen = run_epochs(
        model, train_loader, optimizer, num_epochs, eval_freq,
        loss_of=lambda batch: calc_loss_batch(batch[0], batch[1], model, device, loss_fn=loss_fn),
        size_of=lambda batch: len(batch[0]),
        evaluate=evaluate,
        close_epoch=close_epoch,
    )  # fmt: skip
    pairs = [*zip(*losses, strict=True), *zip(*accuracies, strict=True)]
    train_losses, val_losses, train_accs, val_accs = map(list, pairs)
    return train_losses, val_losses, train_accs, val_accs, examples_seen


@torch.no_grad()
def classify_review(
    text: str,
    model: Any,
    tokenizer: Any,
    device: torch.device | str,
    max_length: int | None = None,
    pad_token_id: int = 50256,
) -> str:
    """Return "spam" or "not spam" for a message.

    Args:
        text: the message; tokens beyond `max_length` or the model's context are not read.
        model: a `GPTModel` with a head for two classes.
        tokenizer: the one that the model was trained with.
        device: where the model is.
        max_length: shorter messages are padded to it and read at the end of the padding, as the
            book's model was trained. None reads at the last token of the message itself.
        pad_token_id: the id that pads messages.

    Raises:
        ValueError: if the message has no token, or `max_length` is out of range.

    Source:
        Book 6.8.
    """
    context_length = context_length_of(model)
    if max_length is not None and not 1 <= max_length <= context_length:
        raise ValueError(
            f"{max_length=} must be from 1 to the model's context length of {context_length}"
        )
    ids = encode(tokenizer, text, "text")[: max_length or context_length]
    if not ids:
        raise ValueError("the message has no token; there is nothing to classify")
    ids += [pad_token_id] * ((max_length or 0) - len(ids))
    with evaluation_mode(model):
        logits = model(torch.tensor([ids], device=device))[0, -1]  # (N,)
    if len(logits) != 2:
        raise ValueError(f"the model has {len(logits)} classes, not two; use classify_texts")
    return "spam" if logits.argmax() == 1 else "not spam"


def _spam_label(where: str, label: Any) -> int:
    found = SPAM_LABELS.get(label, label) if isinstance(label, str) else label
    if found not in (0, 1):
        raise ValueError(
            f"{where} has the label {label!r}; labels here must be 0 or ham, and 1 or spam "
            "(ClassificationDataset takes any)"
        )
    return int(found)
