"""The settings of a fine-tuning run that follow from its task and its number of rows.

No torch is imported here, so that a program can offer these settings before it needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_scratch.training.config import TrainConfig

Trained = Literal["last block", "all", "head"]  # which part of a classifier learns
_CHAT: dict[str, Any] = {"eval_batches": None, "sample_tokens": 128}


@dataclass(frozen=True)
class Task:
    """The defaults of a task's runs.

    Args:
        learning_rate: the peak of the schedule.
        epochs: the number of passes over all rows.
        warmup_share: the share of the run in which the rate rises; None is a twentieth.
        sampled: whether a sample is written every epoch.
        settings: other fields of `TrainConfig`.
    """

    learning_rate: float
    epochs: float
    warmup_share: float | None = None
    sampled: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


TASKS = {
    "classify": Task(5e-4, 5),
    "instruct": Task(3e-4, 3),
    "prefer": Task(2e-5, 1),
    "chat": Task(1e-4, 3, sampled=True, settings=_CHAT),
}
CHAT_PRESETS = {
    # The last run of the series "Messing around with fine-tuning LLMs" (part 10), on one of its
    # GPUs. Values that it does not give are its trainer's.
    "final-tune": Task(
        8e-5,
        9,
        warmup_share=0.1,
        sampled=True,
        settings={
            **_CHAT,
            "schedule": "cosine",
            "min_learning_rate": 0.0,
            "weight_decay": 0.01,
            "beta2": 0.999,
            "micro_batch": 2,
            "patience": 1,
        },
    )
}
"""Complete settings by name, for fine-tuning on conversations."""


def run_config(
    task: str,
    rows: int,
    *,
    epochs: float | None = None,
    preset: str | None = None,
    processes: int = 1,
    **given: Any,
) -> TrainConfig:
    """Return the settings of a run over `rows`: one evaluation and one checkpoint per epoch.

    Args:
        task: a name in `TASKS`.
        rows: the number of rows in the training part.
        epochs: the number of passes over all rows; None is the task's number.
        preset: for "chat": a name in `CHAT_PRESETS`, whose settings replace the task's.
        processes: the number that compute a step together, with `micro_batch` rows each.
        given: fields of `TrainConfig` that differ from these.

    Raises:
        ValueError: if task or preset is not known, or both `epochs` and `steps` are given.
    """
    if task not in TASKS:
        raise ValueError(f"{task=} is not known; there are {', '.join(TASKS)}")
    if preset is not None and (task != "chat" or preset not in CHAT_PRESETS):
        raise ValueError(f"{preset=} is not known; for chat there are {', '.join(CHAT_PRESETS)}")
    if epochs is not None and "steps" in given:
        raise ValueError("both epochs and steps set the length of a run; leave one of them out")
    usual = TASKS[task] if preset is None else CHAT_PRESETS[preset]
    given = {**usual.settings, **given}
    step_rows = given.get("micro_batch", TrainConfig.micro_batch) * (given.get("accumulation") or 1)
    step_rows *= processes
    epoch = max(1, rows // step_rows)
    seen = rows * (usual.epochs if epochs is None else epochs)
    settings: dict[str, Any] = {
        "steps": max(1, round(seen / step_rows)),
        "learning_rate": usual.learning_rate,
        "eval_every": epoch,
        "save_every": epoch,
        "log_every": max(1, epoch // 4),
        "sample_every": epoch if usual.sampled else 0,
    }
    settings |= given
    if usual.warmup_share is not None:
        settings.setdefault("warmup_steps", round(usual.warmup_share * settings["steps"]))
    return TrainConfig(**settings)
