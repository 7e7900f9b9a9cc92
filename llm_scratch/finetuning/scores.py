"""Scores of a classifier: confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class ClassScores(NamedTuple):
    """The scores of one class, each from 0 to 1, and its number of examples.

    Precision is the share of its predictions that are right. Recall is the share of its examples
    that were found. F1 is the harmonic mean of the two.
    """

    name: str
    precision: float
    recall: float
    f1: float
    examples: int


def confusion_matrix(
    labels: Sequence[int] | Tensor, predictions: Sequence[int] | Tensor, num_classes: int
) -> Tensor:
    """Count how often each class was taken for each: (N, N) int64, rows are the true classes.

    Args:
        labels: the true class of each example, 0 to N - 1.
        predictions: the predicted class of each example.
        num_classes: N.

    Raises:
        ValueError: if the two differ in length, there is no example, or a class is out of range.
    """
    true, said = (torch.as_tensor(values).cpu().flatten() for values in (labels, predictions))
    if len(true) != len(said) or not len(true):
        raise ValueError(f"{len(true)} labels and {len(said)} predictions; the numbers must be "
                         "equal, and at least 1")  # fmt: skip
    for name, values in (("labels", true), ("predictions", said)):
        if values.is_floating_point():
            raise ValueError(f"{name} are of type {values.dtype}; numbers of classes are integers")
        wrong = ((values < 0) | (values >= num_classes)).nonzero().flatten()
        if len(wrong):
            raise ValueError(
                f"{name}[{wrong[0]}] is {values[wrong[0]]}, out of range; classes go from 0 to "
                f"{num_classes - 1}"
            )
    pairs = true.long() * num_classes + said.long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy(matrix: Tensor) -> float:
    """Return the share of examples on the diagonal of a confusion matrix, 0 to 1.

    Raises:
        ValueError: if it is not a square matrix, or counts no example.
    """
    _check_matrix(matrix)
    return int(matrix.trace()) / int(matrix.sum())


def class_scores(matrix: Tensor, class_names: Sequence[str] | None = None) -> list[ClassScores]:
    """Return precision, recall and F1 of every class of a confusion matrix.

    The precision of a class that was never predicted is 0. Without examples, recall and F1 of a
    class are undefined: NaN.

    Args:
        matrix: (N, N) counts, rows are the true classes.
        class_names: the N names; None calls them "0", "1", ...

    Raises:
        ValueError: if there are not N names.
    """
    _check_matrix(matrix)
    names = [str(i) for i in range(len(matrix))] if class_names is None else list(class_names)
    if len(names) != len(matrix):
        raise ValueError(f"{len(names)} class names for {len(matrix)} classes; give one for each")
    examples, said = matrix.sum(dim=1).tolist(), matrix.sum(dim=0).tolist()
    return [
        ClassScores(
            name,
            right / n_said if n_said else 0.0,
            right / n if n else math.nan,
            2 * right / (n + n_said) if n else math.nan,
            n,
        )
        for name, right, n, n_said in zip(
            names, matrix.diagonal().tolist(), examples, said, strict=True
        )
    ]


def score_table(matrix: Tensor, class_names: Sequence[str] | None = None) -> str:
    """Return a table of the scores per class and the accuracy; "-" is an undefined score."""
    scores = class_scores(matrix, class_names)
    width = max(len("accuracy"), *(len(score.name) for score in scores))
    lines = [f"{'':{width}}  precision  recall      F1  examples"]
    lines += [
        f"{s.name:{width}}  {s.precision:9.1%}  {_share(s.recall)}  {_share(s.f1)}  {s.examples:8}"
        for s in scores
    ]
    lines.append(f"{'accuracy':{width}}  {accuracy(matrix):9.1%}{int(matrix.sum()):26}")
    return "\n".join(lines)


def _share(value: float) -> str:
    return f"{'-':>6}" if math.isnan(value) else f"{value:6.1%}"


def _check_matrix(matrix: Tensor) -> None:
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a confusion matrix is (N, N), this one is {tuple(matrix.shape)}")
    if not int(matrix.sum()):
        raise ValueError("the confusion matrix counts no example")
