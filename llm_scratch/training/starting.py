"""What a run needs before its first step: checked, built, and brought to where it stood."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_scratch.model.wrappers import device_of
from llm_scratch.tokenizers.any_tokenizer import fingerprint, text_to_token_ids
from llm_scratch.training.checkpoints import (
    clean,
    frozen_mark,
    is_plain,
    load_run,
    newest_whole,
)
from llm_scratch.training.config import StepPlan, TrainConfig, changed_settings, plan_step
from llm_scratch.training.objective import Objective, TrainData
from llm_scratch.training.optimizers import build_optimizers, describe_groups
from llm_scratch.training.precision import make_scaler, pick_precision
from llm_scratch.training.reporting import Reporter, flops_per_token, matrix_peak
from llm_scratch.training.run_folder import RunFolder, environment
from llm_scratch.training.steps import Engine, compiled
from llm_scratch.weights.folder import check_vocabulary

Log = Callable[[str], object]
SaveBest = Callable[[Any, Path, Any], object]


@dataclass
class RunState:
    """Where a run stands.

    Args:
        step: updates so far.
        tokens: targets learned from so far.
        loss: of the last step, in nats per token.
        val_loss: of the last evaluation; None before the first.
        best_loss: the lowest one.
        best_step: the step after which it was measured.
        worse: evaluations since then.
        stopped: whether early stopping ended the run.
    """

    step: int = 0
    tokens: int = 0
    loss: float | None = None
    val_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped: bool = False


@dataclass
class Run:
    """The parts of a run: what computes, what it reads, its settings, and where it is kept."""

    engine: Engine
    data: TrainData
    validation: TrainData | None
    config: TrainConfig
    plan: StepPlan
    tokenizer: Any
    folder: RunFolder | None
    state: RunState
    facts: dict[str, Any]
    log: Log
    save_best: SaveBest


def build_engine(model: Any, config: TrainConfig, objective: Objective | None) -> Engine:
    """What computes the steps of a run with these settings."""
    if objective is not None and config.compile:
        raise ValueError("compile=True works with the loss of the next token only; leave it out")
    device = device_of(model)
    dtype = pick_precision(config.precision, device)
    optimizers = build_optimizers(
        model,
        config.learning_rate,
        name=config.optimizer,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
    )
    scaler = make_scaler(device, dtype)
    return Engine(
        model, optimizers, device, dtype, scaler, config.loss_chunk, objective=objective
    )  # fmt: skip


def start_run(
    engine: Engine,
    config: TrainConfig,
    folder: RunFolder | None,
    log: Log,
    save_best: SaveBest,
    *,
    data: TrainData,
    validation: TrainData | None,
    tokenizer: Any,
) -> Run:
    """Check that everything belongs together and find where the run stands; see `loop.train`."""
    model = engine.model
    plan = plan_step(config, model.cfg.context_length)
    _check_data("training", data, model, plan)
    if validation is not None:
        _check_data("validation", validation, model, plan)
    elif config.patience is not None:
        raise ValueError("patience stops by the validation loss; give a validation part too")
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
    if config.sample_every:
        _check_samples(config, tokenizer)
    if config.compile:
        engine.hidden_states = compiled(engine, data.batch(0, 0, plan.rows, plan.length), log)
    groups = [group for optimizer in engine.optimizers for group in optimizer.param_groups]
    log(f"parameters: {describe_groups(groups)}")
    dtype = str(engine.dtype).removeprefix("torch.")
    log(
        f"a step: {plan.accumulation} x {plan.rows} x {plan.length} = {plan.tokens:,} tokens, "
        f"{dtype} on {engine.device}"
    )
    facts = describe_run(model, data, plan, tokenizer)
    run = Run(
        engine, data, validation, config, plan, tokenizer, folder, RunState(), facts, log, save_best
    )  # fmt: skip
    if folder is not None:
        _go_on(run, folder)
        folder.write_json("config.json", {"model": asdict(model.cfg), "train": asdict(config),
                                          "data": facts})  # fmt: skip
        folder.add_environment(device=str(engine.device), dtype=dtype, step=run.state.step)
    return run


def _check_data(name: str, part: TrainData, model: Any, plan: StepPlan) -> None:
    if part.vocab_size > model.cfg.vocab_size:
        raise ValueError(
            f"the {name} part has a vocabulary of {part.vocab_size} ids, the model's vocab_size is "
            f"{model.cfg.vocab_size}; they do not belong together"
        )
    try:
        part.num_rows(plan.length)
    except ValueError as err:
        raise ValueError(f"the {name} part does not fit: {err}") from None


def _check_samples(config: TrainConfig, tokenizer: Any) -> None:
    if tokenizer is None:
        raise ValueError("samples of text need the tokenizer; give it, or sample_every=0")
    if not text_to_token_ids(config.sample_prompt, tokenizer).numel():
        raise ValueError(f"sample_prompt={config.sample_prompt!r} gives no token; give a word")


def describe_run(model: Any, data: TrainData, plan: StepPlan, tokenizer: Any) -> dict[str, Any]:
    """What has to be the same when a run goes on: model, data, tokenizer."""
    facts = {} if is_plain(model) else {"base": frozen_mark(model)}
    return facts | {
        "model": asdict(model.cfg),
        "rows": data.num_rows(plan.length),
        "first rows": first_rows(data, plan.length),
        "tokenizer": None if tokenizer is None else fingerprint(tokenizer),
    }


def first_rows(data: TrainData, length: int) -> str:
    """A mark of the data: 16 hex digits that its first shuffled rows have."""
    batch = data.batch(0, 0, 16, length)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).hexdigest()[:16]


def _go_on(run: Run, folder: RunFolder) -> None:
    """Bring a run to the newest whole checkpoint of its folder; at 0 where there is none."""
    clean(folder.checkpoints)
    before = folder.read_json("config.json")
    newest = newest_whole(folder.checkpoints, run.log)
    if newest is None:
        if before is not None:
            run.log(f"{folder.path} holds no whole checkpoint: starting at step 0")
        folder.cut_back(0)
        return
    tensors, content = load_run(newest)
    _check_same(content, run)
    model = run.engine.model
    model.load_state_dict({**model.state_dict(), **tensors})  # what is frozen is there already
    for optimizer, saved in zip(run.engine.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if run.engine.scaler is not None and content["scaler"] is not None:
        run.engine.scaler.load_state_dict(content["scaler"])
    run.state = RunState(**content["state"])
    folder.cut_back(run.state.step)
    run.log(f"going on after step {run.state.step}, from {newest}")


def _check_same(content: Mapping[str, Any], run: Run) -> None:
    """Refuse to go on with another model, data, tokenizer or settings; warn of another machine."""
    for name, now in run.facts.items():
        was = content["facts"].get(name)
        if was != now:
            raise ValueError(
                f"the run was started with another {name}: {_difference(was, now)}; give what it "
                "was started with, or start a new run in another folder"
            )
    if changed := changed_settings(content["config"], run.config):
        raise ValueError(
            f"the run was started with other settings: {'; '.join(changed)}; give those of before, "
            "or start a new run in another folder"
        )
    here = environment()
    for name in ("threads", "torch", "machine"):
        was, now = content["environment"].get(name), here[name]
        if was != now:
            warnings.warn(
                f"the run was started with {name} {was}, and goes on with {now}: the numbers will "
                "agree up to rounding, not to the bit",
                stacklevel=5,
            )


def _difference(was: Any, now: Any) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        differing = [key for key in now if was.get(key) != now[key]]
        return ", ".join(f"{key} {was.get(key)!r} before, {now[key]!r} now" for key in differing)
    return f"{was!r} before, {now!r} now"


def reporter_of(run: Run, progress: bool) -> Reporter:
    """What shows the steps of a run."""
    engine = run.engine
    peak = matrix_peak(engine.device, engine.dtype) if progress else None
    return Reporter(
        run.config.steps,
        run.state.step,
        log=run.log,
        log_every=run.config.log_every,
        progress=progress,
        step_flops=flops_per_token(engine.model, run.plan.length) * run.plan.tokens,
        peak=peak,
        device=engine.device,
        board=None if run.folder is None else run.folder.path / "tensorboard",
    )
