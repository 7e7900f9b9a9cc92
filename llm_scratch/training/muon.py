"""Muon: momentum with orthogonalised updates, for the matrices inside a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from llm_scratch.training.sharding import divided_like, gathered

# Coefficients of a quintic that moves singular values from 0 to 1 close to 1 in a few rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Return each matrix with all singular values near 1: (N, rows, columns), same shape.

    This is a Newton-Schulz iteration, which needs only matrix products. It may be coarse: the
    singular values need only be of similar size, not equal.

    Source:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT  # (N, short, short)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates; matrices of one shape are updated together.

    Updates have the size of AdamW's, so that both optimizers take the same learning rate.

    Args:
        params: matrices, two dimensions each.
        lr: learning rate.
        momentum: share of the running average of gradients kept from one step to the next.
        weight_decay: share of the weights, times the rate, that each step removes.
        rounds: rounds of the Newton-Schulz iteration.

    Raises:
        ValueError: if a parameter does not have two dimensions.

    Source:
        Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982, section 2.2, for the size.
    """

    STATE = ("momentum_buffer",)  # the state of a parameter, for checkpoints

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        rounds: int = 5,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "rounds": rounds}
        super().__init__(params, defaults)
        for group in self.param_groups:
            if wrong := [tuple(p.shape) for p in group["params"] if p.dim() != 2]:
                raise ValueError(f"Muon takes matrices, got a parameter of shape {wrong[0]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the result of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape, parameter.dtype, parameter.device].append(parameter)
            for parameters in alike.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = []
        for parameter in parameters:
            average = self.state[parameter].setdefault(
                "momentum_buffer", torch.zeros_like(parameter)
            )
            gradient: Any = parameter.grad
            average.lerp_(gradient, 1 - group["momentum"])
            gradients.append(gradient.lerp(average, group["momentum"]))  # Nesterov
        # Each process gathers divided matrices whole, and takes its part of the update.
        updates = orthogonalised(torch.stack(list(map(gathered, gradients))), group["rounds"])
        # A matrix with singular values 1 has entries of about 1 / sqrt(longer side); AdamW's
        # updates have entries of about 0.2.
        size = 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            own = divided_like(update, parameter)
            parameter.add_(own, alpha=-group["lr"] * size)
