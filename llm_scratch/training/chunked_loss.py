"""Output head and cross entropy in one, a chunk of tokens at a time.

The logits of a whole batch, often the largest tensor of a step, never exist.

Shape letters: N tokens of a batch, C emb_dim, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_scratch.training.losses import IGNORE_INDEX

CHUNK = 1024
ALIGNMENT = 64
# So few rows of logits stay in a processor's cache while they become probabilities.
ROWS_IN_CACHE = 16


def chunked_head_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, divisor: float = 1.0, chunk: int = CHUNK
) -> Tensor:
    """Sum of cross entropies of all targets over `divisor`: a scalar to call `backward` on.

    Equal to `cross_entropy(hidden @ weight.T, targets, reduction="sum") / divisor`, value and
    gradients. The gradients are computed together with the value, chunk by chunk: memory for
    `chunk` x V logits is needed instead of N x V, and nothing is computed twice.

    Args:
        hidden: (..., C), what the final norm gives.
        weight: (V, C), of the head, which has no bias.
        targets: (...,) ids; -100 means no target.
        divisor: usually the number of targets of the whole step.
        chunk: how many tokens at a time.

    Raises:
        ValueError: if `chunk` is below 1, or the shapes do not belong together.
    """
    if chunk < 1:
        raise ValueError(f"{chunk=} must be 1 or more")
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"hidden states {tuple(hidden.shape)}, a head of {tuple(weight.shape)} and targets "
            f"{tuple(targets.shape)} do not belong together"
        )
    total = _HeadLoss.apply(hidden.flatten(0, -2), weight, targets.flatten(), divisor, chunk)
    return total


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, divisor: float, chunk: int
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        dtype = _matrix_dtype(hidden)
        states, head = hidden.to(dtype), weight.to(dtype)
        grad_hidden = torch.empty_like(states) if wanted else None
        grad_weight: Tensor | None = None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        room = _aligned_rows(states, min(chunk, len(states)), len(head))  # (chunk, V)
        for start in range(0, len(states), chunk):
            part = slice(start, start + chunk)
            logits = room[: len(states[part])]  # (n, V)
            torch.mm(states[part], head.T, out=logits)
            total += _loss_to_gradient(logits, targets[part], divisor, wanted)
            if grad_hidden is None:
                continue
            torch.mm(logits, head, out=grad_hidden[part])
            grad_weight = _add_product(grad_weight, logits, states[part], len(states) <= chunk)
        # Kept as attributes: nothing else can change them, and `backward` runs once.
        ctx.gradients = grad_hidden, grad_weight
        ctx.kinds = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.gradients
        if grad_hidden is None:
            raise RuntimeError("the gradients of this loss were used before; compute it again")
        ctx.gradients = None, None
        (factor,) = outer
        hidden_dtype, weight_dtype = ctx.kinds
        grad_hidden, grad_weight = grad_hidden.to(hidden_dtype), grad_weight.to(weight_dtype)
        if factor.device.type != "cpu" or factor.item() != 1.0:
            grad_hidden, grad_weight = grad_hidden.mul_(factor), grad_weight.mul_(factor)
        return grad_hidden, grad_weight, None, None, None


def _aligned_rows(like: Tensor, rows: int, columns: int) -> Tensor:
    """Room for (rows, columns) whose rows start at whole cache lines, as the columns allow.

    GPT-2's 50,257 columns are odd; matrix products into aligned rows were half as fast again.
    """
    return like.new_empty(rows, -(-columns // ALIGNMENT) * ALIGNMENT)[:, :columns]


def _matrix_dtype(hidden: Tensor) -> torch.dtype:
    """The type that products are computed in: autocast's where that is on."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _loss_to_gradient(logits: Tensor, targets: Tensor, divisor: float, wanted: bool) -> Tensor:
    """The loss of some rows; their logits become its gradient in place, if wanted."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    rows = ROWS_IN_CACHE if logits.device.type == "cpu" else len(logits)
    for part, ids in zip(logits.split(rows), targets.split(rows), strict=True):
        counts = ids != IGNORE_INDEX  # (n,)
        columns = ids.where(counts, 0)[:, None]  # (n, 1)
        values = part.float()
        log_sums = values.logsumexp(dim=-1, keepdim=True)  # (n, 1)
        losses = (log_sums - values.gather(-1, columns))[:, 0]
        total += losses.where(counts, 0.0).sum()
        if not wanted:
            continue
        share = counts[:, None].to(values.dtype) / divisor  # (n, 1), 0 where there is no target
        probabilities = torch.softmax(values, dim=-1).mul_(share)
        probabilities.scatter_add_(-1, columns, -share)
        part.copy_(probabilities)
    return total / divisor


def _add_product(total: Tensor | None, gradient: Tensor, states: Tensor, alone: bool) -> Tensor:
    """Add a chunk's share to the gradient of the head: (n, V), (n, C) -> (V, C)."""
    if total is None:
        product = gradient.T @ states
        return product if alone else product.float()  # sums of many chunks need float32
    if gradient.dtype == total.dtype:
        return total.addmm_(gradient.T, states)
    return total.add_(gradient.T @ states)
