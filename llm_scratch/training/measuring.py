"""How well a model predicts a text: loss, perplexity, bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import device_of
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.training.precision import Precision, pick_precision
from llm_scratch.training.steps import Engine


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Args:
        loss: nats per token.
        targets: how many tokens were predicted.
        bits_per_byte: independent of the vocabulary; None where the bytes are not known.
    """

    loss: float
    targets: int
    bits_per_byte: float | None

    @property
    def perplexity(self) -> float:
        """Among how many tokens the model chooses as if all were equally likely."""
        return math.exp(self.loss)


@torch.no_grad()
def measure(
    model: Any,
    part: TokenPart,
    length: int,
    rows: int = 8,
    id_bytes: np.ndarray | None = None,
    *,
    precision: Precision = "auto",
) -> Measured:
    """Measure a model on every window of a part, in order.

    Args:
        model: a `GPTModel`; its modes are left as found.
        part: the tokens.
        length: tokens of a window, each of which starts without a past.
        rows: windows at a time.
        id_bytes: how many bytes of text each id stands for (`TokenFile.id_bytes`).
        precision: as in `TrainConfig`.

    Raises:
        ValueError: if the part has not one window, or `length` is above the context length.
    """
    if length > model.cfg.context_length:
        raise ValueError(f"{length=} is above the context length of {model.cfg.context_length}")
    device = device_of(model)
    engine = Engine(model, [], device, pick_precision(precision, device))
    total, targets_seen, bytes_seen = 0.0, 0, 0
    with evaluation_mode(model):
        for inputs, targets in part.rows_in_order(length, rows):
            total += engine.loss((inputs, targets), 1.0).item()
            targets_seen += targets.numel()
            if id_bytes is not None:
                bytes_seen += int(id_bytes[targets.numpy()].sum())
    bits = total / math.log(2) / bytes_seen if bytes_seen else None
    return Measured(total / targets_seen, targets_seen, bits)
