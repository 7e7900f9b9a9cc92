"""The checks of losses, evaluation and training that chapters 5 and 6 share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_equal, number
from llm_scratch.selfcheck.outcome import MistakeError

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]
LOADER = "(data_loader, model, device, num_batches=None)"
EVALUATE = "(model, train_loader, val_loader, device, eval_iter)"


@dataclass(frozen=True)
class Task:
    """The task that a model learns in a chapter.

    Args:
        model: a dropout rate -> a small model.
        batches: (how many, seed) -> batches of inputs and targets.
        loss: logits, targets -> the mean loss.
    """

    model: Callable[[float], nn.Module]
    batches: Callable[[int, int], list[Batch]]
    loss: Callable[[Tensor, Tensor], Tensor]

    def losses(self, model: nn.Module, loader: list[Batch]) -> Tensor:
        """Return the loss of each batch."""
        with torch.no_grad():
            return torch.stack([self.loss(model(inputs), targets) for inputs, targets in loader])


class Descent:
    """Plain gradient descent; torch's own optimizers take seconds to import."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.parameters = list(model.parameters())
        self.lr = lr

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step against the gradients."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.sub_(self.lr * parameter.grad)


def trained_by_hand(
    task: Task, epochs: int, *, clear: bool = True, update: bool = True
) -> dict[str, Tensor]:
    """Return the parameters after a training run, or after one without some of its steps."""
    model = task.model(0.0)
    optimizer = Descent(model, lr=0.5)
    for _ in range(epochs):
        for inputs, targets in task.batches(3, 1):
            if clear:
                optimizer.zero_grad()
            task.loss(model(inputs), targets).backward()
            if update:
                optimizer.step()
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def loss_of_loader(task: Task, function: Any) -> None:
    """Check that a loader's loss is the mean of its batches' losses."""
    model, loader = task.model(0.0).eval(), task.batches(4, 1)
    losses = task.losses(model, loader)
    came = call("calc_loss_loader", function, (loader, model, CPU), LOADER)
    mistakes: Mistakes = {
        hints.LOADER_DIVISOR: losses.sum(),
        hints.LOADER_LAST: [losses[-1], losses[-1] / 4],
    }
    must_equal(number(came), losses.mean(), mistakes, hints.LOADER_DIVISOR)


def takes_num_batches(task: Task, function: Any) -> None:
    """Check that only num_batches batches count, or all if there are fewer."""
    model, loader = task.model(0.0).eval(), task.batches(4, 1)
    losses = task.losses(model, loader)
    mistakes: Mistakes = {
        hints.LOADER_DIVISOR: [losses[:2].sum() / 4, losses.sum() / 2, losses[:2].sum()],
        hints.LOADER_NUM_BATCHES: [losses.mean(), losses[:3].mean(), losses[:3].sum() / 2],
    }
    must_equal(number(function(loader, model, CPU, 2)), losses[:2].mean(), mistakes)
    came = number(function(loader, model, CPU, 9))
    must_equal(came, losses.mean(), {hints.LOADER_NUM_BATCHES: losses.sum() / 9})


def evaluates_both(task: Task, function: Any) -> None:
    """Check that both losses come back, over eval_iter batches each."""
    model, train, val = task.model(0.0), task.batches(3, 1), task.batches(3, 8)
    came = call("evaluate_model", function, (model, train, val, CPU, 2), EVALUATE)
    must(
        isinstance(came, (tuple, list)) and len(came) == 2,
        "a pair: training loss, validation loss",
        f"{came}",
        hints.NOT_TENSOR,
    )
    losses = [task.losses(model, loader)[:2].mean() for loader in (train, val)]
    whole = torch.stack([task.losses(model, loader).mean() for loader in (train, val)])
    pair = torch.stack([number(loss) for loss in came])
    expected = torch.stack(losses)
    mistakes: Mistakes = {hints.SWAPPED_LOADERS: expected.flip(0), hints.LOADER_NUM_BATCHES: whole}
    must_equal(pair, expected, mistakes, hints.LOADER_DIVISOR)


def evaluates_without_dropout(task: Task, function: Any) -> None:
    """Check that dropout is off while evaluating."""
    model, train, val = task.model(0.5), task.batches(2, 1), task.batches(2, 8)
    expected = torch.stack([task.losses(model.eval(), loader).mean() for loader in (train, val)])
    model.train()
    came = torch.stack([number(loss) for loss in function(model, train, val, CPU, 2)])
    must_equal(came, expected, hint=hints.EVAL_MODE)


def trains_on_afterwards(task: Task, function: Any) -> None:
    """Check that the model is in training mode after an evaluation."""
    model = task.model(0.5).train()
    function(model, task.batches(1, 1), task.batches(1, 1), CPU, 1)
    must(model.training, "a model in training mode, as it was", "evaluation mode", hints.TRAIN_MODE)


def builds_no_graph(task: Task, function: Any) -> None:
    """Report, as a note, a graph that evaluation builds for nothing."""
    model = task.model(0.0)
    tracked: list[bool] = []
    model.register_forward_hook(lambda _, args, out: tracked.append(out.requires_grad))
    function(model, task.batches(1, 1), task.batches(1, 1), CPU, 1)
    if any(tracked):
        raise MistakeError("no graph for gradients", "one", hints.NO_GRAD, counts=False)


def must_train_in_training_mode(model: nn.Module, train: Callable[[], object]) -> None:
    """Check that a training function has the model in training mode at every step."""
    modes: list[bool] = []

    def note(module: nn.Module, _: Any, out: Tensor) -> None:
        mode = module.training
        if out.requires_grad:  # noted when a gradient comes back, as evaluation may build a graph
            out.register_hook(lambda gradient: modes.append(mode))

    model.register_forward_hook(note)
    train()
    must(
        len(modes) > 1 and all(modes[1:]),
        "training mode in every training step",
        "evaluation mode after the first evaluation",
        hints.TRAIN_MODE,
    )
