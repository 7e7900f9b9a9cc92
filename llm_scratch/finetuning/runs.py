"""The settings of a fine-tuning run that follow from its task and the number of its rows.

No torch is imported here, so that a program can offer these settings before it needs any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llm_scratch.training.config import TrainConfig

Trained = Literal["last block", "all", "head"]  # which part of a classifier learns


@dataclass(frozen=True)
class Task:
    """What the runs of a task have unless they are told otherwise.

    Args:
        learning_rate: the peak of the schedule.
        epochs: how often all rows are seen.
    """

    learning_rate: float
    epochs: float


TASKS = {"classify": Task(5e-4, 5), "instruct": Task(3e-4, 3), "prefer": Task(2e-5, 1)}


def run_config(task: str, rows: int, *, epochs: float | None = None, **given: Any) -> TrainConfig:
    """Return the settings of a run over so many rows: an evaluation and a checkpoint an epoch.

    Args:
        task: a name in `TASKS`.
        rows: of the training part.
        epochs: how often all rows are seen; None is the task's number.
        given: fields of `TrainConfig` that differ from the task's.

    Raises:
        ValueError: if the task is not known, or both `epochs` and `steps` are given.
    """
    if task not in TASKS:
        raise ValueError(f"{task=} is not known; there are {', '.join(TASKS)}")
    if epochs is not None and "steps" in given:
        raise ValueError("both epochs and steps say how long a run is; leave one of them out")
    step_rows = given.get("micro_batch", TrainConfig.micro_batch) * (given.get("accumulation") or 1)
    epoch = max(1, rows // step_rows)
    seen = rows * (TASKS[task].epochs if epochs is None else epochs)
    usual = {
        "steps": max(1, round(seen / step_rows)),
        "learning_rate": TASKS[task].learning_rate,
        "eval_every": epoch,
        "save_every": epoch,
        "log_every": max(1, epoch // 4),
    }
    return TrainConfig(**usual | given)
