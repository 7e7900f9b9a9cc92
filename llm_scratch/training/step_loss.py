"""A model and its loss as one module: the forward pass of a step, for one process or several.

If several processes divide a model, calling a module gathers its parts. The loss here includes the
head's product, as it never holds all logits, so the loss must be inside that module.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.training.config import CHUNK
from llm_scratch.training.head_loss import comes_in_pieces, head_loss
from llm_scratch.training.losses import next_token_loss
from llm_scratch.training.objective import Batch, Objective
from llm_scratch.training.precision import autocast


class StepLoss(nn.Module):
    """The sum of a batch's losses over a divisor: a scalar.

    Args:
        model: the model.
        dtype: the type of the matrix products.
        chunk: tokens whose logits are in memory at a time.
        objective: a loss other than that of the next token.

    Attributes:
        hidden_states: the compiled form of the model's method; None uses that method.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype = torch.float32,
        chunk: int = CHUNK,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.dtype, self.chunk, self.objective = dtype, chunk, objective
        self.hidden_states: Callable[..., Tensor] | None = None

    def forward(self, batch: Batch, divisor: float) -> Tensor:
        """Return the sum of a batch's losses over `divisor`; the batch is on the model's device."""
        with autocast(batch[0].device, self.dtype):
            if self.objective is not None:
                return self.objective.loss(self.model, *batch)[0] / divisor
            inputs, targets, *places = batch
            options = dict(zip(("positions", "attention_mask"), places, strict=False))
            head: Any = getattr(self.model, "out_head", None)
            if not hasattr(self.model, "hidden_states") or not comes_in_pieces(head):
                model = partial(self.model, **options)
                return next_token_loss(model, inputs, targets)[0] / divisor
            hidden_states = self.hidden_states or self.model.hidden_states
            hidden = hidden_states(inputs, **options)  # (B, T, C)
            return head_loss(head, hidden, targets, divisor=divisor, chunk=self.chunk)
