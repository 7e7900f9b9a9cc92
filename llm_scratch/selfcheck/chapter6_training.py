"""The checks of the middle of chapter 6: accuracies and losses of a classifier, and training.

The checks of plots and of using the classifier are in `chapter6_use`.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.gpt import GPTModel
from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter2 import Letters
from llm_scratch.selfcheck.chapter5 import tiny_model
from llm_scratch.selfcheck.chapter6_use import USE_CHECKS, Parities, must_not_train
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_equal, number, randint
from llm_scratch.selfcheck.foreign import attempt, describe
from llm_scratch.selfcheck.forms import other_than, with_its_loss
from llm_scratch.selfcheck.loops import (
    CPU,
    Batch,
    Descent,
    Task,
    builds_no_graph,
    evaluates_both,
    evaluates_without_dropout,
    loss_of_loader,
    must_train_in_training_mode,
    takes_num_batches,
    trained_by_hand,
    trains_on_afterwards,
)
from llm_scratch.selfcheck.outcome import Check, MistakeError

B, T = 3, 6
LEARNING = ("trf_blocks", "final_norm", "out_head")


def classifier(drop_rate: float = 0.0) -> GPTModel:
    """Return a small GPT with a head for two classes; its embeddings are frozen."""
    model = tiny_model(drop_rate)
    model.out_head = nn.Linear(model.cfg.emb_dim, 2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(LEARNING)
    return model


def batches(count: int, seed: int = 1) -> list[Batch]:
    """Return batches of ids (B, T) and labels (B,)."""
    ids = randint(Letters.n_vocab, count, B, T, seed=seed)
    return list(zip(ids, randint(2, count, B, seed=seed + 1), strict=True))


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, -1], labels)


TASK = Task(classifier, batches, _mean_loss)


ACCURACY = "(data_loader, model, device, num_batches=None)"
# Three of five are right at the last place, two at the first, one in the middle.
EXAMPLES = torch.tensor([[2, 4, 1], [3, 6, 8], [0, 2, 5], [4, 7, 9], [5, 0, 2]])
LABELS = torch.tensor([1, 0, 1, 0, 1])
LOADER = [(EXAMPLES[:4], LABELS[:4]), (EXAMPLES[4:], LABELS[4:])]


def _accuracy(function: Any, *args: Any) -> tuple[Tensor, Parities]:
    model = Parities().train()
    results: list[Any] = []
    every = (LOADER, model, CPU, *args)
    error = attempt(lambda: results.append(call("calc_accuracy_loader", function, every, ACCURACY)))
    if isinstance(error, (RuntimeError, ValueError, IndexError)):
        raise MistakeError("a share between 0 and 1", describe(error), hints.CLASS_POSITION)
    if error is not None:
        raise error
    return number(results[0]), model


def _shares_the_right(function: Any) -> None:
    came, _ = _accuracy(function)
    mistakes: Mistakes = {
        hints.CLASS_FIRST: torch.tensor(0.4),
        hints.CLASS_POSITION: torch.tensor(0.2),
        hints.ACCURACY_BATCHES: [torch.tensor(value) for value in (0.375, 1.5, 3.0, 0.75)],
        hints.ACCURACY_PERCENT: torch.tensor(60.0),
    }
    must_equal(came, torch.tensor(0.6), mistakes, hints.ACCURACY)


def _shares_of_num_batches(function: Any) -> None:
    came, _ = _accuracy(function, 1)
    mistakes: Mistakes = {hints.LOADER_NUM_BATCHES: [torch.tensor(0.6), torch.tensor(0.375)]}
    must_equal(came, torch.tensor(0.75), mistakes, hints.ACCURACY)
    came, _ = _accuracy(function, 9)
    must_equal(came, torch.tensor(0.6), hint=hints.LOADER_NUM_BATCHES)


def _measures_without_dropout(function: Any) -> None:
    must_not_train(_accuracy(function)[1].modes)


LOSS = "(input_batch, target_batch, model, device)"


def _loss_reads_the_last_token(function: Any) -> None:
    model = classifier().eval()
    inputs, labels = batches(1)[0]
    results: list[Any] = []
    args = (inputs, labels, model, CPU)
    error = attempt(lambda: results.append(call("calc_loss_batch", function, args, LOSS)))
    if isinstance(error, (RuntimeError, ValueError, IndexError)):
        raise MistakeError("a loss", describe(error), hints.CLASS_POSITION)
    if error is not None:
        raise error
    with torch.no_grad():
        logits = model(inputs)
    mistakes: Mistakes = {
        hints.CLASS_FIRST: F.cross_entropy(logits[:, 0], labels),
        hints.CLASS_POOLED: [
            F.cross_entropy(logits.mean(1), labels),
            F.cross_entropy(logits.amax(1), labels),
            F.cross_entropy(logits.sum(1), labels),
        ],
        hints.CLASS_POSITION: [F.cross_entropy(logits[:, t], labels) for t in range(1, T - 1)],
        hints.LOSS_SUM: B * _mean_loss(logits, labels),
        hints.LOSS_SOFTMAX: F.cross_entropy(logits[:, -1].softmax(-1), labels),
        hints.LABELS_INVERTED: F.cross_entropy(logits[:, -1], 1 - labels),
    }
    must_equal(results[0], _mean_loss(logits, labels), mistakes, hints.CLASS_POSITION)


def _loss_reaches_the_head(function: Any) -> None:
    model = classifier()
    loss = function(*batches(1)[0], model, CPU)
    must(
        isinstance(loss, Tensor) and loss.requires_grad,
        "a loss to call backward on",
        "a number without a graph",
        hints.GRADIENT,
    )
    loss.backward()
    _must_reach(model.out_head, "the new head", hints.HEAD_CUT_OFF)
    _must_reach(model.final_norm, "the layers before the head", hints.BODY_CUT_OFF)


def _must_reach(layer: nn.Module, what: str, hint: str) -> None:
    gradients = [parameter.grad for parameter in layer.parameters()]
    reached = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    must(reached, f"a gradient that reaches {what}", "none there", hint)


TRAIN = "(model, train_loader, val_loader, optimizer, device, num_epochs, eval_freq, eval_iter)"
EPOCHS = 2
STEPS = EPOCHS * 3


def _train(function: Any) -> tuple[GPTModel, Any]:
    model = classifier()
    optimizer = Descent(model, lr=0.5)
    args = (model, batches(3), batches(1, seed=8), optimizer, CPU, EPOCHS, 1, 1)
    return model, call("train_classifier_simple", function, args, TRAIN)


@cache
def _by_hand(epochs: int, clear: bool = True, update: bool = True) -> dict[str, Tensor]:
    return trained_by_hand(TASK, epochs, clear=clear, update=update)


def _updates_what_learns(function: Any) -> None:
    model, _ = _train(function)
    before, after = _by_hand(0), _by_hand(EPOCHS)
    came = {name: tensor.detach() for name, tensor in model.named_parameters()}
    head, norm = "out_head.weight", "final_norm.scale"
    for still, other, hint in ((head, norm, hints.HEAD_CUT_OFF), (norm, head, hints.BODY_CUT_OFF)):
        stuck = torch.equal(came[still], before[still])
        must(
            not stuck or torch.equal(came[other], before[other]),
            f"{still} to change in training",
            f"it stays, while {other} changes",
            hint,
        )
    mistakes: Mistakes = {
        hints.NO_STEP: before[head],
        hints.NO_ZERO_GRAD: _by_hand(EPOCHS, clear=False)[head],
        hints.EPOCHS: [_by_hand(1)[head], _by_hand(EPOCHS + 1)[head]],
    }
    must_equal(came[head], after[head], mistakes, hints.TRAINING_STEP, atol=1e-4)


def _leaves_frozen_layers(function: Any) -> None:
    model, _ = _train(function)
    for name in ("tok_emb.weight", "pos_emb.weight"):
        must(
            torch.equal(model.get_parameter(name), _by_hand(0)[name]),
            f"{name}, which is frozen, as it was",
            "different numbers",
            hints.FROZEN,
        )


def _tells_losses_and_accuracies(function: Any) -> None:
    _, came = _train(function)
    must(
        isinstance(came, (tuple, list)) and len(came) == 5,
        "train_losses, val_losses, train_accs, val_accs, examples_seen",
        f"{type(came).__name__}",
        hints.NOT_TENSOR,
    )
    losses, accuracies = [len(part) for part in came[:2]], [len(part) for part in came[2:4]]
    must(
        losses == [STEPS] * 2,
        f"{STEPS} evaluations with eval_freq=1",
        f"{losses}",
        "See when the loop evaluates, and what it appends.",
    )
    must(
        accuracies == [EPOCHS] * 2,
        f"{EPOCHS} accuracies of each part, one per epoch",
        f"{accuracies}",
        hints.ACCURACIES_KEPT,
    )
    shares = [float(share) for part in came[2:4] for share in part]
    between = all(0 <= share <= 1 for share in shares)
    must(between, "accuracies from 0 to 1", f"{shares}", hints.ACCURACY_PERCENT)
    seen = int(came[4])
    must(seen == B * STEPS, f"{B * STEPS} examples seen", f"{seen}", hints.EXAMPLES_SEEN)


def _trains_with_dropout(function: Any) -> None:
    model = classifier(drop_rate=0.5)
    data = (batches(2), batches(1), Descent(model, lr=0.1), CPU)
    must_train_in_training_mode(model, lambda: function(model, *data, 2, 1, 1))


ROWS = (
    ("6.6", "calc_accuracy_loader", "is the share of right answers", _shares_the_right),
    ("6.6", "calc_accuracy_loader", "stops after num_batches", _shares_of_num_batches),
    ("6.6", "calc_accuracy_loader", "switches dropout off", _measures_without_dropout),
    ("6.6", "calc_loss_batch", "is the loss at the last token", _loss_reads_the_last_token),
    ("6.6", "calc_loss_batch", "reaches the layers that learn", _loss_reaches_the_head),
    ("6.6", "calc_loss_loader", "averages over the batches", partial(loss_of_loader, TASK)),
    ("6.6", "calc_loss_loader", "stops after num_batches", partial(takes_num_batches, TASK)),
    ("6.7", "evaluate_model", "gives training and validation loss", partial(evaluates_both, TASK)),
    ("6.7", "evaluate_model", "switches dropout off", partial(evaluates_without_dropout, TASK)),
    ("6.7", "evaluate_model", "leaves the model training", partial(trains_on_afterwards, TASK)),
    ("6.7", "evaluate_model", "builds no graph for gradients", partial(builds_no_graph, TASK)),
    (
        "6.7",
        "train_classifier_simple",
        "leaves frozen layers alone",
        partial(with_its_loss, 6, _leaves_frozen_layers),
    ),
    ("6.7", "train_classifier_simple", "updates the layers that learn", _updates_what_learns),
    ("6.7", "train_classifier_simple", "returns what it measured", _tells_losses_and_accuracies),
    ("6.7", "train_classifier_simple", "trains in training mode", _trains_with_dropout),
)
OTHER = other_than(6)
TRAINING_CHECKS = (*(Check(*row, other=OTHER.get(row[1])) for row in ROWS), *USE_CHECKS)
