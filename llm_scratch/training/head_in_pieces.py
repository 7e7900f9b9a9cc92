"""The loss of a head that is more than one matrix, as with LoRA, a few tokens at a time.

Shape letters: n tokens of a piece, C emb_dim, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.training.chunked_loss import CHUNK
from llm_scratch.training.losses import IGNORE_INDEX


def head_loss_in_pieces(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, divisor: float = 1.0, chunk: int = CHUNK
) -> Tensor:
    """What `chunked_head_loss` gives, for any head: a scalar to call `backward` on.

    Here too the gradients are computed together with the value, by autograd for each piece. It
    needs about four times the memory of the logits, so a piece has a fourth of `chunk` tokens.

    Args:
        head: (n, C) -> (n, V).
        hidden: (..., C), what the final norm gives.
        targets: (...,) ids; -100 means no target.
        divisor: usually the number of targets of the whole step.
        chunk: see above.
    """
    learning = [parameter for parameter in head.parameters() if parameter.requires_grad]
    states, size = hidden.flatten(0, -2), max(1, chunk // 4)
    total = _PiecesLoss.apply(head, states, targets.flatten(), divisor, size, *learning)
    return total


class _PiecesLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        states: Tensor,
        targets: Tensor,
        divisor: float,
        size: int,
        *learning: Tensor,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        wanted = any(ctx.needs_input_grad)
        gradients = [torch.zeros_like(tensor) for tensor in (states, *learning) if wanted]
        for start in range(0, len(states), size):
            part = slice(start, start + size)
            with torch.set_grad_enabled(wanted):
                piece = states[part].detach().requires_grad_(wanted)
                loss = _sum_of_losses(head, piece, targets[part]) / divisor
            total += loss.detach()
            if wanted:
                found = torch.autograd.grad(loss, (piece, *learning))
                gradients[0][part] = found[0]
                for gradient, share in zip(gradients[1:], found[1:], strict=True):
                    gradient += share
        # Kept as an attribute: nothing else can change them, and `backward` runs once.
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of this loss were used before; compute it again")
        (factor,) = outer
        states, *learning = (gradient.mul_(factor) for gradient in gradients)
        return None, states, None, None, None, *learning


def _sum_of_losses(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    logits = head(states).float()  # (n, V)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
