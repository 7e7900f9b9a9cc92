"""A model prepared for a task: its new head, the parts that learn, and how it is saved."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from llm_scratch.finetuning.runs import Trained
from llm_scratch.finetuning.text_classifier import replace_head
from llm_scratch.lora.layers import lora_layers, replace_linear_with_lora
from llm_scratch.lora.loading import base_source, load_adapter
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.families import language_model
from llm_scratch.training.starting import RunState, SaveBest
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.named import find_source


def prepare_model(
    model: Any,
    *,
    base: str | os.PathLike[str],
    lora: int | None = None,
    alpha: float | None = None,
    num_classes: int | None = None,
    trained: Trained | None = None,
) -> SaveBest:
    """Make a model ready to learn, in place; return the function that saves the run's best model.

    New parameters are drawn from PyTorch's global generator. An adapter continues to learn, and is
    saved as an adapter of the same base.

    Args:
        model: as it was opened.
        base: where it was opened; an adapter records it.
        lora: the rank of LoRA matrices in all blocks, which then learn instead of the model's own
            layers; None adds none.
        alpha: LoRA's outputs are scaled by alpha / lora; None makes it equal to the rank.
        num_classes: for a classifier: the number of classes of its new head.
        trained: for a classifier without LoRA: which part learns; None is its last block.

    Raises:
        ValueError: if a setting has no effect together with the others, or is out of range.
    """
    if alpha is not None and lora is None:
        raise ValueError("--alpha belongs to --lora RANK; lora=RANK goes with alpha=")
    if trained is not None and (lora is not None or num_classes is None):
        raise ValueError("--train (trained=) chooses among the layers of a classifier without "
                         "LoRA; leave it out")  # fmt: skip
    if lora_layers(model) and (lora is not None or num_classes is not None):
        raise ValueError(
            f"{base} is an adapter, which continues to learn as it is; for new LoRA matrices or a "
            f"new head, first make a whole model of it: llm-scratch weights convert {base} FOLDER"
        )
    if num_classes is not None:
        replace_head(model, num_classes, "head" if lora else trained or "last block")
    if lora_layers(model):
        return partial(save_adapter, base=_base_of(base))
    if lora is None:
        return save_model
    replace_linear_with_lora(
        model,
        lora,
        lora if alpha is None else alpha,
        targets="trf_blocks",
        freeze_base=num_classes is None,
    )
    return partial(save_adapter, base=str(base))


def bring_back_best(model: Any, state: RunState, folder: str | os.PathLike[str] | None) -> None:
    """Give a model the weights of its run's best evaluation, in place, from the run's folder.

    Args:
        model: as the run left it.
        state: the state of the run.
        folder: of the run; nothing changes without one, or if the last weights are the best.
    """
    if folder is None or state.best_step in (0, state.step):
        return
    inner: Any = language_model(model)
    if lora_layers(inner):
        load_adapter(inner, folder)
    else:
        best, _ = load_model(folder)
        inner.load_state_dict(best.state_dict())


def _base_of(adapter: str | os.PathLike[str]) -> str | None:
    """Return the base that an adapter names, as a path from here; None if it names none."""
    base = base_source(find_source(adapter))
    return None if base is None else str(base)
