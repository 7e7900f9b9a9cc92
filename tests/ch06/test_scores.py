"""Confusion matrix, precision, recall and F1, against hand counts."""

from __future__ import annotations

import math

import pytest
import torch

from llm_scratch.finetuning.scores import (
    ClassScores,
    accuracy,
    class_scores,
    confusion_matrix,
    score_table,
)

LABELS = [0, 0, 0, 1, 1, 2]
PREDICTIONS = [0, 0, 1, 1, 0, 2]
MATRIX = torch.tensor([[2, 1, 0], [1, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_confusion_matrix_counts_true_classes_in_rows(kind):
    matrix = confusion_matrix(kind(LABELS), kind(PREDICTIONS), 3)
    assert matrix.dtype == torch.int64
    assert torch.equal(matrix, MATRIX)
    assert confusion_matrix([0], [1], 2).tolist() == [[0, 1], [0, 0]]


def test_confusion_matrix_agrees_with_a_loop():
    labels, predictions = torch.randint(0, 5, (2, 400), generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for true, said in zip(labels, predictions, strict=True):
        expected[true, said] += 1
    assert torch.equal(confusion_matrix(labels, predictions, 5), expected)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 3], [0, 1], r"labels\[1\] is 3, out of range; classes go from 0 to 2"),
        ([0, 1], [-1, 1], r"predictions\[0\] is -1, out of range"),
        ([0, 1], [0], "2 labels and 1 predictions"),
        ([], [], "at least 1"),
        ([0.0], [0], "integers"),
    ],
)
def test_confusion_matrix_refuses_what_it_can_not_count(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, predictions, 3)


def test_accuracy_is_the_share_of_the_diagonal():
    assert accuracy(MATRIX) == pytest.approx(4 / 6)
    assert accuracy(torch.eye(4, dtype=torch.int64)) == 1.0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [(torch.ones(2, 3), r"this one is \(2, 3\)"), (torch.zeros(2, 2), "counts no example")],
)
def test_accuracy_and_scores_refuse_what_is_no_confusion_matrix(matrix, message):
    for function in (accuracy, class_scores):
        with pytest.raises(ValueError, match=message):
            function(matrix)


def test_class_scores_are_those_of_a_hand_count():
    a, b, c = class_scores(MATRIX, ["a", "b", "c"])
    assert a == ClassScores(
        "a", pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3
    )
    assert b == ClassScores("b", 0.5, 0.5, 0.5, 2)
    assert c == ClassScores("c", 1.0, 1.0, 1.0, 1)


def test_class_scores_tell_precision_from_recall():
    # 8 of 10 spam messages found, 2 of 90 others called spam.
    ham, spam = class_scores(torch.tensor([[88, 2], [2, 8]]))
    assert (spam.precision, spam.recall) == (0.8, 0.8)
    cautious = class_scores(torch.tensor([[90, 0], [8, 2]]))[1]
    assert (cautious.precision, cautious.recall) == (1.0, 0.2)
    assert cautious.f1 == pytest.approx(2 * 1.0 * 0.2 / 1.2)
    assert (ham.name, spam.name) == ("0", "1")


def test_class_scores_give_0_to_a_class_never_predicted():
    scores = class_scores(torch.tensor([[3, 0], [2, 0]]))[1]
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


def test_scores_of_a_class_without_examples_are_not_defined():
    matrix = torch.tensor([[3, 1], [0, 0]])
    ham, spam = class_scores(matrix, ["ham", "spam"])
    assert (ham.recall, spam.precision) == (0.75, 0.0)
    assert math.isnan(spam.recall)
    assert math.isnan(spam.f1)
    lines = score_table(matrix, ["ham", "spam"]).splitlines()
    assert lines[2].split() == ["spam", "0.0%", "-", "-", "0"]
    assert len(set(map(len, lines))) == 1


def test_class_scores_need_a_name_for_each_class():
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        class_scores(torch.eye(2), ["a", "b", "c"])


def test_score_table_lines_up():
    lines = score_table(torch.tensor([[100, 0], [0, 7]]), ["ham", "a longer name"]).splitlines()
    assert len(lines) == 4
    assert len(set(map(len, lines))) == 1
    assert lines[-1].split() == ["accuracy", "100.0%", "107"]
