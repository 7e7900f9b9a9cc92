"""The model, settings and loss that a run needs to take a `TrainingStep`."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from llm_scratch.lora.layers import freeze, replace_linear_with_lora
from llm_scratch.memory.step import TrainingStep
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.losses import next_token_loss
from llm_scratch.training.objective import Objective, count_targets


def let_learn(model: Any, step: TrainingStep) -> None:
    """Make the parts that a step trains learn, in place: LoRA, the last blocks, or all."""
    model.checkpoint_blocks = step.checkpoint_blocks
    if step.lora_rank is not None:
        with warnings.catch_warnings():  # about a tied head, which gets no LoRA
            warnings.simplefilter("ignore")
            replace_linear_with_lora(model, step.lora_rank, step.lora_rank, freeze_base=True)
    if step.last_blocks is not None:
        freeze(model)
        parts: tuple[nn.Module, ...] = (model.final_norm, model.out_head)
        for part in (*model.trf_blocks[-step.last_blocks :], *parts):
            part.requires_grad_(True)


def settings_of(step: TrainingStep, **more: Any) -> TrainConfig:
    """Return the settings of a run that takes such steps."""
    return TrainConfig(
        micro_batch=step.rows,
        length=step.tokens_a_row,
        accumulation=step.accumulation,
        optimizer=step.optimizer,
        precision=step.precision,
        checkpoint_blocks=step.checkpoint_blocks,
        loss_chunk=step.loss_chunk or step.tokens,
        **more,
    )


def objective_of(step: TrainingStep) -> Objective | None:
    """Return the loss of a step over all logits at once; None stands for the loop's, in chunks."""
    return None if step.loss_chunk else Objective(next_token_loss, count_targets)
