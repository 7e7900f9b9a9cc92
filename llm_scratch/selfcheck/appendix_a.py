"""The checks of appendix A: a first network, a first data set, a first accuracy."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import (
    Mistakes,
    call,
    fill,
    must,
    must_be_module,
    must_equal,
    must_have_parameters,
    randn,
)
from llm_scratch.selfcheck.outcome import Check

X = torch.tensor([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
Y = torch.tensor([0, 0, 0, 1, 1])
FILL = 0.05


def _network(cls: Any) -> nn.Module:
    network = call("NeuralNetwork", cls, (50, 3), "(num_inputs, num_outputs)")
    return must_be_module(network, "NeuralNetwork")


def _has_the_parameters(cls: Any) -> None:
    must_have_parameters(_network(cls), 2213, None)


def _runs_its_layers(cls: Any) -> None:
    network = fill(_network(cls), FILL)
    x = randn(4, 50)
    right, mistakes = _outputs(x)
    must_equal(network(x), right, mistakes, hints.ACTIVATIONS)


def _outputs(x: Tensor) -> tuple[Tensor, Mistakes]:
    def linear(t: Tensor, width: int) -> Tensor:
        return (FILL * t.sum(-1, keepdim=True) + FILL).expand(-1, width)

    first = linear(x, 30)
    right = linear(linear(first.relu(), 20).relu(), 3)
    mistakes: Mistakes = {
        hints.LOGITS: [right.softmax(-1), right.log_softmax(-1)],
        hints.ACTIVATIONS: [linear(linear(first, 20), 3), right.relu(), right.sigmoid()],
    }
    return right, mistakes


def _gives_examples(cls: Any) -> None:
    data = call("ToyDataset", cls, (X, Y), "(X, y)")
    features, label = data[3]
    must_equal(features, X[3], hint="See what __getitem__ looks up.")
    must(int(label) == 1, "the class 1", f"{label}", "See what __getitem__ looks up.")


def _knows_its_length(cls: Any) -> None:
    came = len(cls(X, Y))
    must(came == 5, "5 examples", f"{came}", "See what __len__ counts.")


class Sign(nn.Module):
    """A model that puts a point into class 1 if its first number is above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Score both classes: (B, 2) -> (B, 2)."""
        return self.scale * torch.stack([-x[:, 0], x[:, 0]], dim=1)


def _shares_the_right(function: Any) -> None:
    labels = torch.tensor([0, 1, 0, 1, 0])  # two of them wrong, spread unevenly over the batches
    loader = [(X[:4], labels[:4]), (X[4:], labels[4:])]
    args: tuple = (Sign(), loader)
    try:
        inspect.signature(function).bind(*args)
    except TypeError:  # the book's second form
        args += (torch.device("cpu"),)
    came = call("compute_accuracy", function, args, "(model, dataloader)")
    wrong: Mistakes = {hints.ACCURACY: [torch.tensor(value) for value in (3.0, 1.5, 0.375, 0.75)]}
    number = torch.as_tensor(came, dtype=torch.float32).detach()
    must_equal(number, torch.tensor(0.6), wrong, hints.ACCURACY)


CHECKS = (
    Check("A.5", "NeuralNetwork", "has 2,213 parameters for 50 inputs", _has_the_parameters),
    Check("A.5", "NeuralNetwork", "is linear, ReLU, linear, ReLU, linear", _runs_its_layers),
    Check("A.6", "ToyDataset", "gives an example and its class", _gives_examples),
    Check("A.6", "ToyDataset", "knows the number of examples", _knows_its_length),
    Check("A.7", "compute_accuracy", "is the share of right answers", _shares_the_right),
)
