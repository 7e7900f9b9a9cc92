"""All settings of a training run, in one frozen object that is checked when it is made.

No torch is imported here, so that a program can offer these settings without loading it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from llm_scratch.checks import check_count, is_number
from llm_scratch.training.schedules import Schedule, learning_rate

OptimizerName = Literal["adamw", "muon"]
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)
Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
CHUNK = 1024  # tokens

# The settings that may change when a run resumes, and why; changing others makes it another run.
FREE_ON_RESUME = (
    # These affect only what is saved and shown.
    {"save_every", "keep_last", "sample_every", "sample_prompt", "sample_tokens", "log_every"}
    | {"log_memory"}
    # These trade memory for time: results agree up to rounding.
    | {"loss_chunk", "checkpoint_blocks", "compile", "tune_allocator"}
    # Results stay the same if the rows per step do, which `changed_settings` checks.
    | {"micro_batch", "accumulation", "tokens_per_step"}
    # This moves the end: the remaining steps get the learning rates of a run of the new length.
    | {"steps"}
)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run. The same settings, seed, model and data give the same run.

    A step is one update of the parameters. It reads `accumulation` micro batches of `micro_batch`
    rows of `length` tokens; the loss is the sum over their tokens divided by the number of tokens.

    Args:
        steps: the number of updates.
        micro_batch: rows that are in memory at a time.
        length: tokens per row; None is the model's context length.
        tokens_per_step: the number of tokens per update; `accumulation` follows from it.
        accumulation: micro batches per step; None derives it, 1 without `tokens_per_step`.
        learning_rate: the peak of the schedule.
        min_learning_rate: the rate of the last step; None is a tenth of the peak.
        warmup_steps: steps of linear rise; None is a twentieth of the run.
        schedule: "cosine", "linear" or "constant" (see `schedules.learning_rate`).
        decay_share: "constant" only: the final share of the run, over which the rate falls.
        optimizer: "adamw" or "muon" (see `optimizers.build_optimizers`).
        weight_decay: the decay of matrices and embeddings.
        beta1: AdamW's first decay rate.
        beta2: AdamW's second decay rate.
        clip: largest norm of all gradients together; larger ones are scaled down. None: no limit.
        precision: "auto", "float32", "bfloat16" or "float16" (see `precision.pick_precision`).
        compile: whether `torch.compile` is tried on the model.
        checkpoint_blocks: 1 recomputes every block in the backward pass instead of keeping its
            activations, k every k-th block, 0 none: less memory, more time.
        loss_chunk: tokens whose logits are in memory at a time.
        seed: determines the order of the data and dropout.
        eval_every: steps between evaluations; the last step is always evaluated.
        eval_batches: micro batches per evaluation, the same each time; None is all.
        patience: stop after this many evaluations without a new best loss; None is never.
        save_every: steps between checkpoints; the last step is always saved.
        keep_last: the number of checkpoints to keep.
        sample_every: steps between samples of text; 0 is never.
        sample_prompt: the text that samples start with.
        sample_tokens: tokens per sample.
        log_every: steps between printed lines; 0 prints none.
        log_memory: whether the log holds the memory of each stage of a step, of all processes.
        tune_allocator: whether freed memory is kept for the next step (Linux, CPU only).

    Raises:
        ValueError: if a setting is out of range or can have no effect.
    """

    steps: int = 1000
    micro_batch: int = 8
    length: int | None = None
    tokens_per_step: int | None = None
    accumulation: int | None = None
    learning_rate: float = 6e-4
    min_learning_rate: float | None = None
    warmup_steps: int | None = None
    schedule: Schedule = "cosine"
    decay_share: float = 0.2
    optimizer: OptimizerName = "adamw"
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float | None = 1.0
    precision: Precision = "auto"
    compile: bool = False
    checkpoint_blocks: int = 0
    loss_chunk: int = CHUNK
    seed: int = 1234
    eval_every: int = 100
    eval_batches: int | None = 20
    patience: int | None = None
    save_every: int = 100
    keep_last: int = 2
    sample_every: int = 0
    sample_prompt: str = "\n"
    sample_tokens: int = 60
    log_every: int = 10
    log_memory: bool = False
    tune_allocator: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):  # also NumPy's, which a checkpoint can't hold
                object.__setattr__(self, field.name, float(value))
        for name in ("steps", "micro_batch", "loss_chunk", "eval_every", "save_every", "keep_last"):
            check_count(name, getattr(self, name), 1)
        for name in ("length", "tokens_per_step", "accumulation", "eval_batches", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1)
        for name in ("sample_every", "log_every", "checkpoint_blocks", "sample_tokens"):
            check_count(name, getattr(self, name), 0)
        for name in ("weight_decay", "learning_rate"):
            _check_number(name, getattr(self, name), 0, math.inf)
        for name in ("beta1", "beta2"):
            _check_number(name, getattr(self, name), 0, 1)
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip={self.clip} must be above 0; None means no limit")
        for name, known in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}; there are {', '.join(known)}")
        self.rate(1)  # refuses an impossible schedule

    @property
    def lowest_rate(self) -> float:
        """The learning rate of the last step."""
        given = self.min_learning_rate
        return self.learning_rate / 10 if given is None else given

    @property
    def warmup(self) -> int:
        """The number of warm-up steps."""
        return self.steps // 20 if self.warmup_steps is None else self.warmup_steps

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, 1 to `steps`."""
        return learning_rate(
            step,
            steps=self.steps,
            peak=self.learning_rate,
            minimum=self.lowest_rate,
            warmup=self.warmup,
            schedule=self.schedule,
            decay_share=self.decay_share,
        )


@dataclass(frozen=True)
class StepPlan:
    """The data of one step: `accumulation` micro batches of `rows` rows of `length` tokens.

    Each of the `ranks` processes reads this many.
    """

    accumulation: int
    rows: int
    length: int
    ranks: int = 1

    @property
    def tokens(self) -> int:
        """The number of tokens in a step, over all processes."""
        return self.step_rows * self.length

    @property
    def step_rows(self) -> int:
        """The number of rows in a step, over all processes."""
        return self.accumulation * self.ranks * self.rows

    def __str__(self) -> str:
        ranks = "" if self.ranks == 1 else f"{self.ranks} processes x "
        return f"{ranks}{self.accumulation} x {self.rows}"

    @classmethod
    def of(cls, config: TrainConfig, length: int, ranks: int = 1) -> StepPlan:
        """Return the plan for rows of `length` tokens."""
        asked, accumulation = config.tokens_per_step or 0, config.accumulation
        if accumulation is None:
            accumulation = max(1, round(asked / (config.micro_batch * length * ranks)))
        return cls(accumulation, config.micro_batch, length, ranks)


def plan_step(config: TrainConfig, context_length: int, ranks: int = 1) -> StepPlan:
    """Return the plan of a step, for one process or several.

    If `tokens_per_step` is not a whole number of micro batches, or contradicts `accumulation`, a
    warning names both numbers.

    Raises:
        ValueError: if `config.length` is above the model's context length.
    """
    length = config.length or context_length
    if length > context_length:
        raise ValueError(
            f"length={length} is above the model's context length of {context_length}; shorten it"
        )
    plan, asked = StepPlan.of(config, length, ranks), config.tokens_per_step
    if asked is not None and plan.tokens != asked:
        warnings.warn(
            f"a step has {plan.tokens} tokens ({plan} x {length}), "
            f"tokens_per_step asks for {asked}",
            stacklevel=3,
        )
    return plan


def changed_settings(
    before: TrainConfig, config: TrainConfig, was: StepPlan, now: StepPlan
) -> list[str]:
    """Return a line for each changed setting that would make a resumed run another run.

    Args:
        before: the settings of the run so far.
        config: the settings to resume with.
        was: the step plan so far.
        now: the step plan to resume with.
    """
    changed = [
        f"{name}: {getattr(before, name)!r} before, {value!r} now"
        for name, value in asdict(config).items()
        if name not in FREE_ON_RESUME and getattr(before, name) != value
    ]
    if was.tokens != now.tokens:
        changed.append(f"rows of a step (accumulation x micro_batch): {was} before, {now} now")
    return changed


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not is_number(value, low, high) or value == high:
        raise ValueError(f"{name}={value!r} must be from {low} to below {high}")
