"""Preference tuning in the loop for real runs, with one model in memory.

The reference never changes, so its log-probabilities are measured once for the whole data set,
before the first step.

Shape letters: B pairs of a batch, T tokens, n all pairs.

Source:
    Rafailov et al. 2023, arXiv:2305.18290.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_scratch.conversations.encoding import Format
from llm_scratch.finetuning.dpo_simple import compute_dpo_loss
from llm_scratch.finetuning.instruction_rows import check_left_out
from llm_scratch.finetuning.preference_rows import (
    PreferenceRows,
    answer_logprobs,
    measure_reference,
    pair_logprobs,
    preference_rows,
)
from llm_scratch.finetuning.prompts import BOOK, Entry
from llm_scratch.model.families import language_model
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.safetensors import write_safetensors
from llm_scratch.training.config import Precision, TrainConfig
from llm_scratch.training.loop import RunOptions
from llm_scratch.training.loop import train as run_training
from llm_scratch.training.objective import Objective
from llm_scratch.training.starting import RunState, check_save_best, save_with
from llm_scratch.weights.folder import save_model

REFERENCE_FILE = "reference.safetensors"


@dataclass(frozen=True)
class PreferenceScore:
    """The margin by which a model prefers the chosen answers.

    Args:
        loss: the mean DPO loss; ln 2 before training.
        margin: the mean gain of the chosen answers on the rejected ones, in nats.
        accuracy: the share of pairs in which the chosen answer has gained.
        likelier: the share of pairs in which the chosen answer is the likelier one.
    """

    loss: float
    margin: float
    accuracy: float
    likelier: float


def dpo_objective(beta: float = 0.1, *, average: bool = False) -> Objective:
    """Return the loss of `compute_dpo_loss` as an objective, over batches of `PreferenceRows`.

    Args:
        beta: see `compute_dpo_loss`.
        average: whether an answer counts by its mean log-probability, as in the book, instead of
            the sum, as in the paper.

    Raises:
        ValueError: if beta is not above 0.
    """
    if not beta > 0:
        raise ValueError(f"{beta=} must be above 0, or nothing is learned; 0.1 is common")

    def loss(model: Any, inputs: Tensor, targets: Tensor, reference: Tensor) -> tuple[Tensor, int]:
        chosen, rejected = answer_logprobs(model, inputs, targets, average=average).chunk(2)
        mean, _, _ = compute_dpo_loss(chosen, rejected, reference[:, 0], reference[:, 1], beta)
        return mean * len(chosen), len(chosen)

    return Objective(loss, count=lambda batch: len(batch[2]))


def preference_score(
    model: Any,
    rows: PreferenceRows,
    *,
    beta: float = 0.1,
    average: bool = False,
    batch_size: int = 8,
    precision: Precision = "float32",
) -> PreferenceScore:
    """Score a model on pairs, compared with the reference that the rows hold.

    Args:
        model: the trained model; its modes are left as found.
        rows: after `measure_reference`.
        beta: as in training; changes only the loss.
        average: as in training.
        batch_size: pairs at a time.
        precision: as in training.

    Raises:
        ValueError: if the reference was not measured.
    """
    if rows.reference is None:
        raise ValueError("the reference is not known yet; call measure_reference(model, rows)")
    now = pair_logprobs(model, rows, average, batch_size, precision)
    margins = (now - rows.reference) @ torch.tensor([1.0, -1.0])  # (n,)
    return PreferenceScore(
        loss=-F.logsigmoid(beta * margins).mean().item(),
        margin=margins.mean().item(),
        accuracy=(margins > 0).float().mean().item(),
        likelier=(now[:, 0] > now[:, 1]).float().mean().item(),
    )


def finetune_preferences(
    model: Any,
    tokenizer: Any,
    train: Sequence[Entry] | PreferenceRows,
    validation: Sequence[Entry] | PreferenceRows | None,
    config: TrainConfig,
    *,
    beta: float = 0.1,
    average: bool = False,
    format: Format = BOOK,
    **run: Unpack[RunOptions],
) -> RunState:
    """Train a model to prefer the chosen answers, and return the state of the run at its end.

    The reference is the model as given. Its log-probabilities are measured once and kept beside the
    best model, where a resumed run reads them. A step takes `micro_batch` pairs.

    Args:
        model: a `GPTModel` that follows instructions, with or without LoRA; updated in place.
        tokenizer: the one that it was trained with.
        train: dicts with instruction, input, chosen and rejected, or rows of `preference_rows`.
        validation: the same, to measure on.
        config: the settings of the run. The usual learning rate is about a tenth of the one that
            the model was fine-tuned with.
        beta: see `compute_dpo_loss`.
        average: see `dpo_objective`.
        format: the one that the model was fine-tuned with; it is saved with the model.
        run: the options of the run: `folder`, `resume`, `progress`, `log` and `save_best`, as in
            `training.loop.train`.
            With `resume`, `model` is the one that the run was started with. With LoRA, use
            `save_best=save_adapter`.

    Raises:
        ValueError: if an entry is not a pair; if more than a tenth of the pairs are left out; or if
            model, data and settings do not fit each other, see `training.loop.train`.
    """
    save_best = run.get("save_best", save_model)
    if run.get("folder") is not None:
        check_save_best(language_model(model), save_best)
    objective = dpo_objective(beta, average=average)
    length = config.length or model.cfg.context_length
    given = {"train": train} | ({} if validation is None else {"validation": validation})
    parts = {
        name: part
        if isinstance(part, PreferenceRows)
        else preference_rows(part, tokenizer, length=length, format=format)
        for name, part in given.items()
    }
    check_left_out(sum(map(len, given.values())), sum(map(len, parts.values())))
    resumed = run.get("folder") if run.get("resume") else None
    kept = {} if resumed is None else _read_reference(Path(resumed), parts)
    for name, rows in parts.items():
        rows.reference = kept.get(name)
        if rows.reference is None:
            size, precision = config.micro_batch, config.precision
            measure_reference(model, rows, average=average, batch_size=size, precision=precision)
    log = run.get("log", print)
    log(f"preferences: {'; '.join(f'{name} {rows}' for name, rows in parts.items())}")

    def save(model: Any, folder: Path, tokenizer: Any, chat_format: Any = None) -> None:
        save_with(save_best, model, folder, tokenizer, chat_format)
        if not (folder / REFERENCE_FILE).exists():
            tensors = {name: p.reference for name, p in parts.items() if p.reference is not None}
            write_safetensors(folder / REFERENCE_FILE, tensors, {})

    run["save_best"] = save
    run.setdefault("chat_format", format)
    data, validated = parts["train"], parts.get("validation")
    return run_training(
        model, data, config, validation=validated, tokenizer=tokenizer, objective=objective, **run
    )


def _read_reference(folder: Path, parts: Mapping[str, PreferenceRows]) -> dict[str, Tensor]:
    """Return the reference that a run was started with; empty if the run never saved one."""
    path = folder / REFERENCE_FILE
    if not path.is_file():
        return {}
    tensors = {n: stored.tensor for n, stored in read_tensors(path, mapped=False).tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: (len(rows), 2) for name, rows in parts.items()}
    if shapes != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        hint = f"belongs to other data: {shapes} where {expected} is needed"
        raise WeightsError(path, f"{hint}; give the pairs that the run was started with")
    return tensors
