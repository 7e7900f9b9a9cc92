"""A run of appendix D's training loop, with the rates and gradients of each step.

The optimizer passed to the reader's loop records them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.gpt import GPTModel
from llm_scratch.selfcheck.chapter2 import Letters
from llm_scratch.selfcheck.chapter5 import CPU, batches, mean_loss, tiny_model
from llm_scratch.selfcheck.compare import call, randomize
from llm_scratch.selfcheck.foreign import attempt
from llm_scratch.selfcheck.loops import Descent

TRAIN = (
    "(model, train_loader, val_loader, optimizer, device, n_epochs, eval_freq, eval_iter, "
    "start_context, tokenizer, warmup_steps, initial_lr=3e-05, min_lr=1e-6)"
)
EPOCHS, PER_EPOCH, WARMUP = 2, 4, 3
STEPS = EPOCHS * PER_EPOCH
FIRST, PEAK, LAST = 0.05, 0.2, 0.01
MOST_GRADIENT = 1.0


@dataclass
class Record:
    """The groups' rates and the gradients' norm at each step of an optimizer."""

    rates: list[list[float]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)  # norms after a step

    def note(self, groups: list[dict[str, Any]]) -> None:
        """Record a step before it is taken."""
        self.rates.append([float(group["lr"]) for group in groups])
        self.norms.append(_norm_of(p for group in groups for p in group["params"]))

    def look_back(self, parameters: Iterable[nn.Parameter]) -> None:
        """Record the gradients that a step has left, unless they are cleared."""
        if norm := _norm_of(parameters):
            self.left.append(norm)

    def of_first_group(self) -> Tensor:
        """Return the rates of the first group, one per step."""
        return torch.tensor([rates[0] for rates in self.rates])


def _norm_of(parameters: Iterable[nn.Parameter]) -> float:
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _halves(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Return the parameters of a model as two groups of an optimizer."""
    parameters = list(model.parameters())
    middle = len(parameters) // 2
    return [{"params": part, "lr": lr} for part in (parameters[:middle], parameters[middle:])]


class Noting(Descent):
    """Plain gradient descent with groups, which records its steps."""

    def __init__(self, model: nn.Module, record: Record) -> None:
        super().__init__(model, PEAK)
        self.record = record
        self.param_groups = _halves(model, PEAK)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.record.look_back(self.parameters)
        super().zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Take a step against the gradients, each group at its rate."""
        self.record.note(self.param_groups)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * parameter.grad)


def _torch_descent(model: nn.Module, record: Record) -> torch.optim.Optimizer:
    """Return the same as one of torch's optimizers, which take a second to import."""
    optimizer = torch.optim.SGD(_halves(model, PEAK), lr=PEAK)
    optimizer.register_step_pre_hook(lambda own, args, words: record.note(own.param_groups))
    return optimizer


@dataclass
class Run:
    """A run of the reader's loop: the trained model, the result, and the recorded steps."""

    model: GPTModel
    came: Any
    record: Record


def steep_model() -> GPTModel:
    """Return a model whose gradients always exceed the norm that they are clipped to."""
    model = tiny_model()
    randomize(model, 0.8)
    return model


def train(function: Any, model: GPTModel | None = None) -> Run:
    """Train with a reader's loop; if it uses torch's schedulers, it gets torch's optimizer."""
    runs: list[Run] = []
    error = attempt(lambda: runs.append(_run(function, Noting, model)))
    if isinstance(error, TypeError) and "not an Optimizer" in str(error):
        return _run(function, _torch_descent, model)
    if error is not None:
        raise error
    return runs[0]


def _run(function: Any, make: Callable[..., Any], model: GPTModel | None) -> Run:
    model, record = model or steep_model(), Record()
    loaders = batches(PER_EPOCH), batches(1, seed=8)
    args = (model, *loaders, make(model, record), CPU, EPOCHS, 1, 1, "abcd", Letters())
    came = call("train_model", function, (*args, WARMUP, FIRST, LAST), TRAIN)
    record.look_back(model.parameters())
    return Run(model, came, record)


@lru_cache(maxsize=1)
def trained(function: Any) -> Run:
    """Return one run for all checks that look at it; the first check repeats it."""
    return train(function)


def limits_of(record: Record) -> list[float]:
    """Return the norm that each step's gradients were clipped to, infinity if they were not.

    Gradients count as clipped if their norm is 1, or that of the last step.
    """
    known = (MOST_GRADIENT, record.norms[-1])
    return [
        norm if any(abs(norm - other) < 1e-3 for other in known) else torch.inf
        for norm in record.norms
    ]


def by_hand(record: Record, clear: bool = True) -> tuple[Tensor, Tensor]:
    """Train by hand with the rates and the clipping of a record.

    Return the head's weights at the end, and the norm of each step's gradients before clipping.
    """
    model = steep_model()
    optimizer = Noting(model, Record())
    norms: list[float] = []
    for (inputs, targets), rates, limit in zip(
        batches(PER_EPOCH) * EPOCHS, record.rates, limits_of(record), strict=True
    ):
        if clear:
            optimizer.zero_grad()
        mean_loss(model(inputs), targets).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), limit)))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step()
    return head_of(model), torch.tensor(norms)


def head_of(model: GPTModel) -> Tensor:
    """Return the weights of the last layer."""
    return torch.as_tensor(model.out_head.weight).detach()
