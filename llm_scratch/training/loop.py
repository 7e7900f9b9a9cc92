"""The loop for real runs: stoppable at any moment, resumable exactly, in bounded memory.

A step is a function of the seed, its number and the data. Its only other inputs are the model, the
optimizers and the few numbers of `RunState`, and a checkpoint holds all of these.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch

from llm_scratch.generation.decoding import generate
from llm_scratch.model.families import language_model
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import device_of
from llm_scratch.text.mixture import Mixture
from llm_scratch.tokenizers.any_tokenizer import decode, text_to_token_ids
from llm_scratch.training.allocator import keep_freed_memory
from llm_scratch.training.checkpoints import (
    frozen_mark,
    is_plain,
    keep_newest,
    newest_whole,
    save_run,
)
from llm_scratch.training.config import StepPlan, TrainConfig, plan_step
from llm_scratch.training.distributed import ONE, Ranks
from llm_scratch.training.division import WHOLE, Division
from llm_scratch.training.held import held_in_step
from llm_scratch.training.memory_log import recorded_allocations
from llm_scratch.training.objective import Batch, Objective, TrainData
from llm_scratch.training.optimizer_state import optimizer_tensors
from llm_scratch.training.reporting import Reporter
from llm_scratch.training.run_folder import CHECKPOINTS, RunFolder, environment
from llm_scratch.training.sharded_checkpoints import save_sharded, tensors_of_run
from llm_scratch.training.sharding import writable
from llm_scratch.training.starting import (
    Log,
    Run,
    RunState,
    SaveBest,
    WriteSample,
    build_engine,
    check_ranks,
    save_with,
    start_run,
)
from llm_scratch.training.steps import (
    NonFiniteError,
    evaluate,
    first_bad_tensor,
    seed_of,
    take_step,
)
from llm_scratch.training.whole_copy import WholeCopy
from llm_scratch.weights.folder import save_model


class RunOptions(TypedDict, total=False):
    """The options of a run besides its settings; see `train`."""

    folder: str | os.PathLike[str] | None
    resume: bool
    progress: bool
    log: Log
    save_best: SaveBest
    write_sample: WriteSample | None
    chat_format: Any
    ranks: Ranks
    division: Division
    device: torch.device | None
    memory_snapshot: str | os.PathLike[str] | None


def train(
    model: Any,
    data: TrainData,
    config: TrainConfig,
    *,
    validation: TrainData | None = None,
    folder: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    resume: bool = False,
    progress: bool = False,
    log: Log = print,
    objective: Objective | None = None,
    save_best: SaveBest = save_model,
    write_sample: WriteSample | None = None,
    chat_format: Any = None,
    ranks: Ranks = ONE,
    division: Division = WHOLE,
    device: torch.device | None = None,
    memory_snapshot: str | os.PathLike[str] | None = None,
) -> RunState:
    """Train a model on a part of a token file, or on rows, and return the state of the run.

    The model is updated in place, on its current device. Its modes and the global random
    generators are left as found. With a folder, the run writes its settings, a log, checkpoints
    and its best model there, and `resume=True` continues an interrupted run: to bit for bit the
    same losses and parameters, on the same machine with the same number of threads. A resumed run
    may have more steps, or divide a step into other micro batches.

    Args:
        model: a `GPTModel`.
        data: the training data: a `TokenPart`, `TokenRows`, or another `TrainData`.
        config: the settings of the run.
        validation: data of the same kinds, for validation.
        folder: the folder of the run; None keeps nothing.
        tokenizer: the one that the data was made with; saved with the model, and for samples.
        resume: whether to continue the run in the folder, from 0 if it has no intact checkpoint.
        progress: whether to show a progress bar.
        log: called with each line.
        objective: a loss other than that of the next token.
        save_best: `save_best(model, folder, tokenizer)` writes the best model (or the last one,
            without validation) to the run's folder, in a form other than `save_model`'s.
        write_sample: `write_sample(model)` returns the text of a sample, in place of a
            continuation of `sample_prompt`.
        chat_format: the chat format of the data; saved with the model.
        ranks: the processes that train together (`training.distributed.joined`); all call this
            with the same arguments, and the first one writes.
        division: the part of the run that each process holds.
        device: the device to compute on; None is the model's. A model on the meta device gets its
            initial weights after it is divided.
        memory_snapshot: a file for the record of CUDA's allocator (`recorded_allocations`).

    Raises:
        ValueError: before the first step, if model, data and settings do not match each other or,
            with `resume`, the run in the folder (both values are named), or if the folder is in
            use, or is not empty without `resume`.
        NonFiniteError: if a loss or gradient is infinite or NaN. Step, rate and the first bad
            tensor are named; the last checkpoint is good.
        OSError: if the folder can't be written. The last checkpoint is good.
    """
    model = language_model(model)
    if resume and folder is None:
        raise ValueError("resume=True needs the folder of the run")
    if config.log_memory and folder is None:
        raise ValueError("log_memory=True writes into the log of a run; give the folder of one")
    with ExitStack() as stack:
        place = device_of(model) if device is None else device
        stack.enter_context(recorded_allocations(memory_snapshot, place, ranks.rank, ranks.count))
        run_folder = None
        if folder is not None and ranks.first:
            run_folder = RunFolder(folder, resume=resume)
            stack.callback(run_folder.close)
        stack.enter_context(evaluation_mode(model))  # its exit restores the modes from before
        stack.callback(setattr, model, "checkpoint_blocks", model.checkpoint_blocks)
        model.checkpoint_blocks = config.checkpoint_blocks
        if config.tune_allocator and device_of(model).type == "cpu":
            keep_freed_memory()
        plan = plan_step(config, model.cfg.context_length, ranks.count)
        check_ranks(model, config, division, ranks)
        log = log if ranks.first else _nothing
        whole = WholeCopy(model, ranks) if division.shard == "full" else None
        if whole is not None:
            stack.callback(whole.close)
        base = None if is_plain(model) else frozen_mark(model)
        engine = build_engine(model, config, objective, ranks, division, device)
        parts = engine, data, validation, config, plan, tokenizer, run_folder, log, save_best
        path = None if folder is None else Path(folder)
        run = Run(*parts, write_sample, chat_format, path, whole, division, base)
        start_run(run)
        if config.log_memory:
            run.log_memory()
        reporter = Reporter(run, progress and ranks.first)
        stack.callback(reporter.close)
        if run.ended:
            log(f"nothing left to do: {_why_ended(run)}")
        while not run.ended:
            with ranks.during(f"step {run.state.step + 1}"):
                _step(run, reporter)
    return run.state


def _nothing(line: str) -> None:
    """Log nothing: the first process logs for all."""


def _step(run: Run, reporter: Reporter) -> None:
    """Take one step, then evaluate, sample and save if due."""
    config, state, start = run.config, run.state, time.perf_counter()
    step, rank = state.step + 1, run.engine.ranks.rank
    batches = micro_batches(run.data, config, run.plan, step, rank)
    rate, seed = config.rate(step), seed_of(config.seed, step, rank)
    try:
        with _counted(run):
            update = take_step(run.engine, batches, rate, config.clip, seed)
    except NonFiniteError as err:
        raise _stopped(run, step, str(err)) from err
    state.step, state.loss, state.tokens = step, update.loss, state.tokens + update.targets
    seconds = time.perf_counter() - start
    values: dict[str, Any] = {"step": step, "loss": update.loss, "lr": rate}
    values |= {"grad_norm": update.norm, "tokens": state.tokens, "seconds": seconds}
    if run.memory is not None:
        found = enumerate(run.engine.ranks.gather(run.memory.take()))
        values["memory"] = [{"rank": rank, "marks": marks} for rank, marks in found]
    reporter.step(values, update.targets)
    if run.validation is not None and _due(step, config.eval_every, config.steps):
        _evaluate(run, run.validation, reporter)
    if config.sample_every and step % config.sample_every == 0:
        _sample(run, reporter)
    # Last, so that a checkpoint includes everything up to its step.
    if run.path is not None and (_due(step, config.save_every, config.steps) or state.stopped):
        _save(run, run.path)


@contextmanager
def _counted(run: Run) -> Iterator[None]:
    """Return a context for a step; for the first step, record the bytes that each process held."""
    if run.counted or run.path is None:
        yield
        return
    with held_in_step(run.engine, run.config.compile) as held:
        yield
    run.counted = True
    found = run.engine.ranks.gather(held.as_json())
    if run.folder is not None:
        run.folder.write_json("held.json", found)


def _why_ended(run: Run) -> str:
    step, asked = run.state.step, run.config.steps
    if step > asked:
        return f"{step} steps were taken, {asked} are asked for"
    return f"the run ended at step {step} of {asked}"


def _due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps


def micro_batches(
    data: TrainData, config: TrainConfig, plan: StepPlan, step: int, rank: int = 0
) -> list[Batch]:
    """Return the micro batches of one process at a step: a function of seed, step and rank.

    The micro batches of all processes are consecutive in one order of rows. Steps with equally
    many rows read the same rows, whether processes or micro batches divide them.
    """
    rows = plan.rows
    return [
        data.batch(
            config.seed,
            step - 1,
            rows,
            plan.length,
            first_row=(micro * plan.ranks + rank) * rows,
            step_rows=plan.step_rows,
        )
        for micro in range(plan.accumulation)
    ]


def validation_batches(run: Run, validation: TrainData) -> Iterable[Batch]:
    """Return the batches of each evaluation: all windows in order, or a fixed selection.

    The size of the selection follows from the micro batch that the run began with, so that a run
    resumed with another one measures the same.
    """
    count, rows, length = run.config.eval_batches, run.state.eval_rows, run.plan.length
    if count is None or count * rows >= validation.num_rows(length):
        return validation.rows_in_order(length, run.plan.rows)
    return [validation.batch(0, index, rows, length) for index in range(count)]


def _evaluate(run: Run, validation: TrainData, reporter: Reporter) -> None:
    """Measure the validation loss; save the model if it is the best, else count it as worse."""
    state = run.state
    loss, losses = _validation_losses(run, validation)
    state.val_loss = loss
    note = f"step {state.step}: validation loss {loss:.4f}"
    if losses:
        note += f" ({', '.join(f'{name} {value:.4f}' for name, value in losses.items())})"
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.best_step, state.worse = loss, state.step, 0
        _save_best(run)
    else:
        state.worse += 1
        note += f", the best was {state.best_loss:.4f} after step {state.best_step}"
        state.stopped = run.config.patience is not None and state.worse >= run.config.patience
    own = {f"val_loss/{name}": value for name, value in losses.items()}
    reporter.record({"step": state.step, "val_loss": loss, **own})
    reporter.line(f"{note}; stopping early" if state.stopped else note)


def _validation_losses(run: Run, validation: TrainData) -> tuple[float, dict[str, float]]:
    """Return the validation loss; for a mixture, the mean weighted by shares, and each part's."""
    if not isinstance(validation, Mixture):
        return evaluate(run.engine, validation_batches(run, validation)), {}
    losses = {
        name: evaluate(run.engine, validation_batches(run, part))
        for name, part in validation.parts.items()
    }
    return validation.mean(losses), losses


def _sample(run: Run, reporter: Reporter) -> None:
    """Log and save a sample of the model's text."""
    model, step = run.engine.model, run.state.step
    with evaluation_mode(model), writable(run.engine.module):
        if run.write_sample is None:
            text = _continuation(run)
            line = repr(text)
        else:
            line = text = run.write_sample(model)
    reporter.line(f"step {step} writes: {line}")
    if run.folder is not None:
        run.folder.add_sample(step, text)


def _continuation(run: Run) -> str:
    """Return the prompt of the settings and its continuation, drawn with a separate generator."""
    config, device = run.config, run.engine.device
    idx = text_to_token_ids(config.sample_prompt, run.tokenizer).to(device)
    generator = torch.Generator(device).manual_seed(seed_of(config.seed, run.state.step, -1))
    ids = generate(
        run.engine.model, idx, config.sample_tokens, temperature=0.8, top_k=50, generator=generator
    )
    return decode(run.tokenizer, ids[0].tolist())


def _save(run: Run, path: Path) -> None:
    """Write a checkpoint, never one that holds a NaN, and remove the oldest."""
    step = run.state.step
    if bad := _bad_tensor(run):
        rate = run.config.rate(step)
        raise _stopped(run, step, f"the update made {bad} infinite or NaN, at a {rate=:g}")
    try:
        if run.folder is not None:
            run.folder.sync()
        _save_checkpoint(run, path / CHECKPOINTS)
        if run.validation is None:
            _save_best(run)
    except OSError as err:
        good = "" if run.folder is None else f"; {_last_good(run.folder)}"
        raise OSError(
            f"the checkpoint of step {step} could not be written to {path} ({err}){good}; make "
            "room, then --resume continues"
        ) from err
    if run.folder is not None:
        keep_newest(run.folder.checkpoints, run.config.keep_last)


def _save_checkpoint(run: Run, folder: Path) -> None:
    engine, step = run.engine, run.state.step
    state = {
        "state": asdict(run.state),
        "config": asdict(run.config),
        "facts": run.facts,
        "environment": environment() | engine.place,
        "scaler": engine.scaler.state_dict() or None,
    }
    model, optimizers, divided = engine.model, engine.optimizers, run.division.shard != "none"
    if divided:
        tensors = tensors_of_run(model, optimizers)
        save_sharded(folder, step, tensors, state, engine.ranks, run.tokenizer)
    elif engine.ranks.first:
        remembered = optimizer_tensors(model, optimizers)
        save_run(folder, step, model, state, remembered, run.tokenizer, run.chat_format)


def _bad_tensor(run: Run) -> str:
    """Return the first parameter or gradient that is not finite, in any process; "" without one."""
    found = run.engine.ranks.gather(first_bad_tensor(run.engine.model))
    return next((name for name in found if name), "")


def _save_best(run: Run) -> None:
    """Write the model to the run's folder itself, where every command finds it."""
    if run.path is None or _bad_tensor(run):
        return
    model = run.engine.model if run.whole is None else run.whole.fill(run.engine.model)
    if run.folder is not None:
        save_with(run.save_best, model, run.path, run.tokenizer, run.chat_format)
        best = {"step": run.state.step, "val_loss": run.state.val_loss}
        run.folder.write_json("best.json", best)


def _stopped(run: Run, step: int, reason: str) -> NonFiniteError:
    kept = "" if run.folder is None else f"; {_last_good(run.folder, step - 1)}"
    return NonFiniteError(f"stopped at step {step}: {reason}{kept}")


def _last_good(folder: RunFolder, before: int | None = None) -> str:
    """Return a text naming the newest intact checkpoint, before the step `before` if given."""
    newest = newest_whole(folder.checkpoints, lambda line: None, before)
    return "there is no good checkpoint" if newest is None else f"the last good one is {newest}"
