"""Output head and cross entropy in one, a chunk of tokens at a time.

The logits of a whole batch, often the largest tensor of a step, are never in memory at once.

Shape letters: N tokens of a batch, C emb_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.checks import check_count
from llm_scratch.model.linear import Linear
from llm_scratch.training.config import CHUNK
from llm_scratch.training.losses import IGNORE_INDEX

ALIGNMENT = 64
# This few rows of logits stay in a processor's cache while they become probabilities.
ROWS_IN_CACHE = 32
SLAB = 4096


def chunked_head_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, divisor: float = 1.0, chunk: int = CHUNK
) -> Tensor:
    """Return the summed cross entropy of all targets over `divisor`: a scalar for `backward`.

    Value and gradients equal `cross_entropy(hidden @ weight.T, targets, reduction="sum") /
    divisor`. The gradients are computed together with the value, chunk by chunk. This takes memory
    for `chunk` x V logits instead of N x V, and computes nothing twice.

    Args:
        hidden: (..., C), the output of the final norm.
        weight: (V, C), the weight of a head without a bias.
        targets: (...,) ids; -100 means no target.
        divisor: usually the number of targets of the whole step.
        chunk: the number of tokens at a time.

    Raises:
        ValueError: if `chunk` is below 1, or the shapes do not match.
    """
    check_count("chunk", chunk)
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"hidden states {tuple(hidden.shape)}, a head of {tuple(weight.shape)} and targets "
            f"{tuple(targets.shape)} do not belong together"
        )
    states, ids = _with_targets(hidden, targets)
    return _LossWithGradients.apply(partial(_by_products, ids, divisor, chunk), states, weight)


def head_loss(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, divisor: float = 1.0, chunk: int = CHUNK
) -> Tensor:
    """Return the loss of `chunked_head_loss` for any head that `comes_in_pieces`: a scalar.

    If the head is not a linear layer (but LoRA's, for example), autograd computes the gradients of
    each piece together with its value. It needs about four times the memory of the logits, so a
    piece has a quarter of `chunk` tokens.

    Args:
        head: (n, C) -> (n, V).
        hidden: (..., C), the output of the final norm.
        targets: (...,) ids; -100 means no target.
        divisor: usually the number of targets of the whole step.
        chunk: the number of tokens at a time for a linear head.
    """
    if isinstance(head, nn.Linear):
        return chunked_head_loss(hidden, head.weight, targets, divisor=divisor, chunk=chunk)
    learning = [parameter for parameter in head.parameters() if parameter.requires_grad]
    states, ids = _with_targets(hidden, targets)
    compute = partial(_by_autograd, head, ids, divisor, max(1, chunk // 4))
    return _LossWithGradients.apply(compute, states, *learning)


def comes_in_pieces(head: Any) -> bool:
    """Return whether `head_loss` can compute a head's loss.

    Of linear layers, it takes only plain ones, without a bias and without hooks.
    """
    if not isinstance(head, nn.Linear):
        return True
    watched = head._forward_hooks or head._forward_pre_hooks
    return type(head) in (nn.Linear, Linear) and head.bias is None and not watched


def without_numbers(tensor: Tensor) -> bool:
    """Return whether a tensor is one of PyTorch's fake tensors, which have only a shape."""
    return hasattr(tensor, "fake_mode")


def _with_targets(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states that have a target, and their targets: (..., C), (...,) -> (n, C), (n,).

    Logits of tokens without a target, most of them in fine-tuning on answers, are not computed.
    Fake targets, which have no numbers, all count.
    """
    states, ids = hidden.flatten(0, -2), targets.flatten()
    if without_numbers(ids):
        return states, ids
    places = (ids != IGNORE_INDEX).nonzero()[:, 0]  # (n,)
    if len(places) in (0, len(ids)):
        return states, ids
    return states.index_select(0, places), ids[places]


class _LossWithGradients(torch.autograd.Function):
    """A loss computed together with its gradients: `compute(wanted, *tensors)` returns both."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Any], *tensors: Tensor) -> Tensor:
        total, found = compute(ctx.needs_input_grad[1:], *tensors)
        # Kept as an attribute: nothing else can change the gradients, and `backward` runs once.
        ctx.gradients = [
            gradient if gradient is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(found, tensors, strict=False)
        ]
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of this loss were used before; compute it again")
        (factor,) = outer
        known = factor.device.type == "cpu" and not without_numbers(factor)
        if not known or factor.item() != 1.0:
            gradients = [g if g is None else g.mul_(factor) for g in gradients]
        return None, *gradients


def _by_products(
    targets: Tensor, divisor: float, chunk: int, wanted: Sequence[bool], *tensors: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss of a plain linear head and the gradients of hidden states and weight."""
    hidden, weight = tensors
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    states, head = hidden.to(dtype), weight.to(dtype)
    grad_hidden = torch.empty_like(states) if wanted[0] else None
    grad_weight: Tensor | None = None
    if wanted[1]:  # sums of many chunks need float32
        summed = weight.dtype if len(states) <= chunk else torch.float32
        grad_weight = torch.empty(weight.shape, dtype=summed, device=weight.device)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    room = _aligned_rows(states, min(chunk, len(states)), len(head))  # (chunk, V)
    for start in range(0, len(states), chunk):
        part = slice(start, start + chunk)
        logits = room[: len(states[part])]  # (n, V)
        torch.mm(states[part], head.T, out=logits)
        total += _loss_to_gradient(logits, targets[part], divisor, any(wanted))
        if grad_hidden is not None:
            torch.mm(logits, head, out=grad_hidden[part])
        if grad_weight is not None:
            _add_product(grad_weight, logits, states[part], is_first=start == 0)
    return total, [grad_hidden, grad_weight]


def _by_autograd(
    head: nn.Module, targets: Tensor, divisor: float, size: int, wanted: Sequence[bool],
    states: Tensor, *learning: Tensor,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Return the loss of any head and the gradients of hidden states and trainable parameters."""
    total = torch.zeros((), dtype=torch.float32, device=states.device)
    gradients = [torch.zeros_like(tensor) for tensor in (states, *learning) if any(wanted)]
    for start in range(0, len(states), size):
        part = slice(start, start + size)
        with torch.set_grad_enabled(any(wanted)):
            piece = states[part].detach().requires_grad_(any(wanted))
            logits = head(piece).float()  # (n, V)
            loss = F.cross_entropy(
                logits, targets[part], ignore_index=IGNORE_INDEX, reduction="sum"
            )
            loss = loss / divisor
        total += loss.detach()
        if any(wanted):
            found = torch.autograd.grad(loss, (piece, *learning))
            gradients[0][part] = found[0]
            for gradient, share in zip(gradients[1:], found[1:], strict=True):
                gradient += share
    return total, gradients


def _aligned_rows(like: Tensor, rows: int, columns: int) -> Tensor:
    """Return an unset (rows, columns) tensor whose rows start at multiples of `ALIGNMENT` numbers.

    GPT-2's 50,257 columns are odd; matrix products into aligned rows were 1.5 times as fast.
    The padding columns are zero: oneDNN's bfloat16 product on Intel's matrix units reads some of
    them and multiplies them by 0, which gives NaN where unset memory happens to hold a NaN.
    """
    room = like.new_empty(rows, -(-columns // ALIGNMENT) * ALIGNMENT)
    room[:, columns:] = 0
    return room[:, :columns]


def _loss_to_gradient(logits: Tensor, targets: Tensor, divisor: float, wanted: bool) -> Tensor:
    """Return the loss of some rows; if wanted, overwrite their logits with its gradient."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    rows = ROWS_IN_CACHE if logits.device.type == "cpu" else len(logits)
    for part, ids in zip(logits.split(rows), targets.split(rows), strict=True):
        counts = ids != IGNORE_INDEX  # (n,)
        columns = ids.where(counts, 0)[:, None]  # (n, 1)
        values = part.float()
        chosen = values.gather(-1, columns)  # (n, 1)
        if not wanted:
            losses = values.logsumexp(dim=-1, keepdim=True) - chosen
            total += losses[:, 0].where(counts, 0.0).sum()
            continue
        highest = values.amax(dim=-1, keepdim=True)
        probabilities = torch.softmax(values, dim=-1)
        # The largest probability is 1 / sum(exp(x - highest)), so no second pass of exponentials.
        log_sums = highest - probabilities.amax(dim=-1, keepdim=True).log()
        total += (log_sums - chosen)[:, 0].where(counts, 0.0).sum()
        share = counts[:, None].to(values.dtype) / divisor  # (n, 1), 0 where there is no target
        probabilities.mul_(share).scatter_add_(-1, columns, -share)
        part.copy_(probabilities)
    return total / divisor


def _add_product(total: Tensor, gradient: Tensor, states: Tensor, is_first: bool) -> None:
    """Add a chunk's share to the gradient of the head: (n, V), (n, C) -> (V, C).

    On a CPU this works in slabs of the vocabulary: the products are a fifth faster, and are added
    or converted while they are in a processor's cache.
    """
    rows = SLAB if total.device.type == "cpu" else len(total)
    for slab, part in zip(total.split(rows), gradient.split(rows, dim=1), strict=True):
        if gradient.dtype != total.dtype:
            product = part.T @ states
            slab.copy_(product) if is_first else slab.add_(product)
        elif is_first:
            torch.mm(part.T, states, out=slab)
        else:
            slab.addmm_(part.T, states)
