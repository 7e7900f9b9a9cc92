"""The start of a run: its parts are checked and built, and an earlier state is restored."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from llm_scratch.model.families import empty_model
from llm_scratch.model.interface import ModelConfig
from llm_scratch.model.wrappers import device_of
from llm_scratch.text.mixture import Mixture
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids
from llm_scratch.training.checkpoints import (
    clean,
    is_plain,
    load_run,
    newest_whole,
    read_state,
)
from llm_scratch.training.config import StepPlan, TrainConfig, changed_settings
from llm_scratch.training.distributed import ONE, Ranks
from llm_scratch.training.division import WHOLE, Division
from llm_scratch.training.facts import data_facts, difference, facts_of, weights_mark
from llm_scratch.training.memory_log import MemoryLog
from llm_scratch.training.objective import Objective, TrainData
from llm_scratch.training.optimizer_state import fill_optimizers
from llm_scratch.training.optimizers import build_optimizers, describe_groups
from llm_scratch.training.precision import make_scaler, pick_precision
from llm_scratch.training.run_folder import RunFolder, environment
from llm_scratch.training.sharded_checkpoints import is_sharded_checkpoint, load_tensors
from llm_scratch.training.sharding import divided
from llm_scratch.training.step_loss import StepLoss
from llm_scratch.training.steps import Engine, compile_model
from llm_scratch.training.whole_copy import WholeCopy
from llm_scratch.weights.folder import check_vocabulary, save_model

Log = Callable[[str], object]
SaveBest = Callable[..., object]  # takes model, folder, tokenizer, and optionally chat_format=
WriteSample = Callable[[Any], str]


@dataclass
class RunState:
    """The state of a run.

    Args:
        step: updates so far.
        eval_rows: rows per evaluation batch: the micro batch size with which the run began.
        tokens: targets trained on so far.
        loss: the loss of the last step, in nats per token.
        val_loss: the loss of the last evaluation; None before the first.
        best_loss: the lowest validation loss.
        best_step: the step after which `best_loss` was measured.
        worse: evaluations since `best_step`.
        stopped: whether early stopping ended the run.
    """

    step: int = 0
    eval_rows: int = 0
    tokens: int = 0
    loss: float | None = None
    val_loss: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped: bool = False


@dataclass
class Run:
    """The parts of a run: its engine, data, settings, folder and state.

    Of several processes, only the first has the folder open and writes for all.
    """

    engine: Engine
    data: TrainData
    validation: TrainData | None
    config: TrainConfig
    plan: StepPlan
    tokenizer: Any
    folder: RunFolder | None
    log: Log
    save_best: SaveBest
    write_sample: WriteSample | None = None
    chat_format: Any = None
    path: Path | None = None  # of the folder, which only the first process has open
    whole: WholeCopy | None = None
    division: Division = WHOLE
    base: str | None = None  # a hash of the frozen part of a model with extra parameters (LoRA)
    memory: MemoryLog | None = None  # records the memory at each stage of a step
    counted: bool = False  # whether `held.json` has been written, in the first step
    state: RunState = field(default_factory=RunState)
    facts: dict[str, Any] = field(default_factory=dict)

    def log_memory(self) -> None:
        """Record the memory at each stage of all further steps."""
        self.memory = MemoryLog(self.engine.device)
        self.engine.mark = self.memory.mark

    @property
    def ended(self) -> bool:
        """Whether no step is left."""
        return self.state.stopped or self.state.step >= self.config.steps


def new_model(cfg: ModelConfig, seed: int, later: bool = False) -> Any:
    """Return a model with its family's initial weights, the same for the same seed.

    With `later`, `train` allocates and fills the model after dividing it among processes.
    """
    if later:
        with torch.device("meta"):
            return empty_model(cfg)
    model = empty_model(cfg)
    model.init_weights(generator=torch.Generator().manual_seed(seed))
    return model


def build_engine(
    model: Any,
    config: TrainConfig,
    objective: Objective | None,
    ranks: Ranks = ONE,
    division: Division = WHOLE,
    device: torch.device | None = None,
) -> Engine:
    """Return the engine that computes the steps of a run with these settings.

    Args:
        model: the model, on the meta device if it is to be divided before its weights are made.
        config: the settings.
        objective: a loss other than that of the next token.
        ranks: the processes that compute together.
        division: the part of the run that each process holds.
        device: the device to compute on; None is the model's.
    """
    if objective is not None and config.compile:
        raise ValueError("compile=True works with the loss of the next token only; leave it out")
    if division.shard == "full" and config.compile:
        raise ValueError("--compile goes with --shard none and optimizer; leave it out")
    device = device_of(model) if device is None else device
    dtype = pick_precision(config.precision, device)
    if division.shard == "full" and dtype == torch.float16:
        raise ValueError("--shard full goes with float32 and bfloat16; choose --precision bfloat16")
    new = any(parameter.is_meta for parameter in model.parameters())
    chunk, parts = config.loss_chunk, division.shard == "optimizer"
    module = divided(StepLoss(model, dtype, chunk, objective), division, ranks, device)
    if new:
        model.init_weights(generator=torch.Generator().manual_seed(config.seed))
    optimizers = build_optimizers(
        model,
        config.learning_rate,
        name=config.optimizer,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        divided=parts,
    )
    scaler = make_scaler(device, dtype)
    return Engine(model, optimizers, device, dtype, scaler, chunk, objective, ranks, module)


def start_run(run: Run) -> None:
    """Check that the parts of a run match, and restore its state; see `loop.train`."""
    engine, config, plan, log = run.engine, run.config, run.plan, run.log
    _check_data("training", run.data, run)
    if run.validation is not None:
        _check_data("validation", run.validation, run)
    elif config.patience is not None:
        raise ValueError("patience stops by the validation loss; give a validation part too")
    else:
        log("no validation part: nothing is measured, and the model that is kept is the last one")
    if run.tokenizer is not None:
        check_vocabulary(engine.model, run.tokenizer)
    if run.path is not None:
        check_save_best(engine.model, run.save_best)
    if config.sample_every and run.write_sample is None:
        _check_samples(config, run.tokenizer)
    if config.compile:
        compile_model(engine, run.data.batch(0, 0, plan.rows, plan.length), log)
    groups = [group for optimizer in engine.optimizers for group in optimizer.param_groups]
    log(f"parameters: {describe_groups(groups)}")
    log(
        f"a step: {plan} x {plan.length} = {plan.tokens:,} tokens, "
        f"{engine.place['dtype']} on {engine.place['device']}"
    )
    if isinstance(run.data, Mixture):
        for line in run.data.outlook(config.steps * plan.step_rows, plan.length):
            log(line)
    run.facts = facts_of(engine.model, run.data, plan.length, run.tokenizer, run.base)
    if engine.ranks.count > 1:
        _check_data_of_ranks(run)
    if run.path is not None:
        _go_on(run, run.path)
    run.state.eval_rows = run.state.eval_rows or plan.rows
    if run.folder is not None and not run.ended:
        data = run.facts | {"kind": type(run.data).__name__}
        settings = {"model": asdict(engine.model.cfg), "train": asdict(config), "data": data}
        run.folder.write_json("config.json", settings)
        run.folder.add_environment(step=run.state.step, **engine.place)


def save_with(
    save_best: SaveBest, model: Any, folder: Path, tokenizer: Any, chat_format: Any = None
) -> None:
    """Save a run's best model, with its chat format if `save_best` takes one."""
    takes = inspect.signature(save_best).parameters
    if chat_format is not None and "chat_format" in takes:
        save_best(model, folder, tokenizer, chat_format=chat_format)
    else:
        save_best(model, folder, tokenizer)


def check_save_best(model: Any, save_best: SaveBest) -> None:
    """Check that `save_best` can save the model; `save_model` would fail on LoRA after training.

    Raises:
        ValueError: naming a function that can save it.
    """
    if save_best is save_model and not is_plain(model):
        raise ValueError(
            "the model has parameters that its family does not have, such as LoRA's, and "
            "save_model would not save them; give save_best=save_adapter"
        )


def _check_data(name: str, part: TrainData, run: Run) -> None:
    if not hasattr(part, "num_rows"):
        kind = type(part).__name__
        hint = "its split() gives" if hasattr(part, "split") else "TokenPart.from_tokens(...) makes"
        raise TypeError(f"the {name} part is a {kind}; {hint} what can be trained on")
    known = run.engine.model.cfg.vocab_size
    if part.vocab_size > known:
        raise ValueError(
            f"the {name} part has a vocabulary of {part.vocab_size} ids, the model's vocab_size is "
            f"{known}; they do not belong together"
        )
    try:
        part.num_rows(run.plan.length)
    except ValueError as err:
        raise ValueError(f"the {name} part does not fit: {err}") from None


def _check_samples(config: TrainConfig, tokenizer: Any) -> None:
    if tokenizer is None:
        raise ValueError("samples of text need the tokenizer; give it, or sample_every=0")
    if not text_to_token_ids(config.sample_prompt, tokenizer).numel():
        raise ValueError(f"sample_prompt={config.sample_prompt!r} gives no token; give a word")


def check_ranks(model: Any, config: TrainConfig, division: Division, ranks: Ranks) -> None:
    """Check that all processes have the same settings and weights, before they divide a model.

    Raises:
        ValueError: naming the ranks that differ.
    """
    if ranks.count == 1:
        return
    facts = {
        "torch": str(torch.__version__),
        "settings": asdict(config),
        "division": asdict(division),
        "model": asdict(model.cfg),
        "weights": weights_mark(model),
    }
    ranks.agree(facts)


def _check_data_of_ranks(run: Run) -> None:
    """Check that all processes have the same data; else some would wait for others in the end."""
    facts = dict(run.facts)
    if run.validation is not None:
        marks = data_facts(run.validation, run.plan.length)
        facts |= {f"validation {name}": mark for name, mark in marks.items()}
    run.engine.ranks.agree(facts)


def _go_on(run: Run, path: Path) -> None:
    """Restore a run from the newest intact checkpoint in its folder; without one, start at 0."""
    engine, folder, newest = run.engine, run.folder, None
    if folder is not None:
        clean(folder.checkpoints)
        newest = newest_whole(folder.checkpoints, run.log)
        if newest is None and folder.read_json("config.json") is not None:
            run.log(f"{folder.path} holds no whole checkpoint: starting at step 0")
    # All processes resume from the checkpoint that the first one found.
    if (newest := engine.ranks.gather(newest)[0]) is None:
        if folder is not None:
            folder.cut_back(0)
        return
    content = read_state(newest)
    before = _check_same(content, run)
    if is_sharded_checkpoint(newest) or engine.ranks.count > 1:
        load_tensors(newest, engine.model, engine.optimizers, engine.ranks)
    else:
        tensors, remembered = load_run(newest)
        # The model already has its frozen parameters.
        engine.model.load_state_dict({**engine.model.state_dict(), **tensors})
        fill_optimizers(engine.model, engine.optimizers, remembered)
    if content["scaler"] is not None:
        engine.scaler.load_state_dict(content["scaler"])
    run.state = RunState(**{"eval_rows": before.micro_batch, **content["state"]})
    if folder is not None:
        folder.cut_back(run.state.step)
    run.log(f"continuing after step {run.state.step}, from {newest}")
    if not run.ended:
        _say_what_differs(before, content, run)


def _plan_before(before: TrainConfig, content: Mapping[str, Any], run: Run) -> StepPlan:
    """Return the step plan of the run before it was interrupted."""
    return StepPlan.of(before, run.plan.length, content["environment"].get("processes", 1))


def _say_what_differs(before: TrainConfig, content: Mapping[str, Any], run: Run) -> None:
    config, plan, step = run.config, run.plan, run.state.step + 1
    if before.steps != config.steps:
        was = f" (it was {before.rate(step):.2e})" if step <= before.steps else ""
        run.log(
            f"the run ends at step {config.steps}, not {before.steps}: the learning rate is "
            f"{config.rate(step):.2e} at step {step}{was} and {config.rate(config.steps):.2e} at "
            "the last one"
        )
    was_plan = _plan_before(before, content, run)
    if was_plan != plan:
        dropout = "; dropout draws other numbers" if run.engine.model.cfg.drop_rate else ""
        run.log(
            f"a step reads its rows as {plan}, not {was_plan}: the same up to rounding{dropout}"
        )


def _check_same(content: Mapping[str, Any], run: Run) -> TrainConfig:
    """Check that model, data, tokenizer and settings are as before; warn of another machine.

    Returns:
        The settings of the run so far.
    """
    for name, now in run.facts.items():
        was, now = content["facts"].get(name), json.loads(json.dumps(now))
        if was != now:
            raise ValueError(
                f"the run was started with another {name}: {difference(was, now)}; give what it "
                "was started with, or start a new run in another folder"
            )
    before = replace(run.config, **content["config"])
    was_plan = _plan_before(before, content, run)
    if changed := changed_settings(before, run.config, was_plan, run.plan):
        raise ValueError(
            f"the run was started with other settings: {'; '.join(changed)}; give those of before, "
            "or start a new run in another folder"
        )
    here = environment() | run.engine.place
    for name in ("threads", "processes", "torch", "machine", "device", "dtype"):
        now = here[name]
        was = content["environment"].get(name, now)
        if was != now:
            warnings.warn(
                f"the run was started with {name} {was}, and continues with {now}: the numbers "
                "will agree up to rounding only",
                stacklevel=5,
            )
    return before
