"""Measurements of the memory and the time of a training step, taken in this process.

As a program it measures the point in a folder, and each process writes its results there:

    python -m llm_scratch.memory.measuring FOLDER
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm_scratch.files import first_line, read_json, write_json
from llm_scratch.memory.building import let_learn, objective_of, settings_of
from llm_scratch.memory.outcomes import FAILED, OK, OOM, ran_out
from llm_scratch.memory.place import facts_of
from llm_scratch.memory.point import Point, point_in
from llm_scratch.memory.step import TrainingStep
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.training.allocator import give_back_freed_memory, keep_freed_memory
from llm_scratch.training.config import plan_step
from llm_scratch.training.distributed import ONE, Ranks, joined
from llm_scratch.training.loop import micro_batches
from llm_scratch.training.memory_log import forget_peaks, memory_now, process_size
from llm_scratch.training.reporting import synchronize
from llm_scratch.training.starting import build_engine, new_model
from llm_scratch.training.steps import (
    MOST_SKIPPED,
    Engine,
    compile_model,
    seed_of,
    seeded,
    take_step,
)

WARM_UP = 2  # steps: the optimizers create their state, kernels are chosen
TINY = {
    "gpt2": GPTConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=2, n_layers=1),
    "llama": LlamaConfig(
        vocab_size=64, context_length=16, emb_dim=32, n_heads=2, n_layers=1, hidden_dim=64
    ),
}
RATE, CLIP = 1e-4, 1.0
WATCHED = 0.5  # seconds between checks that the requesting process is alive


def measure_here(point: Point, ranks: Ranks = ONE) -> dict[str, Any]:
    """Measure a point in this process, as each of the step's does; return the results of this one.

    The step is the loop's own, on random weights and ids. Before anything is counted, a tiny model
    takes such a step, so that what PyTorch loads and keeps for itself does not count.

    Args:
        point: the point.
        ranks: the processes, as many as the step has.

    Returns:
        "state": "ok", or "oom" if memory ran out, with the "reason". "numbers": bytes at the
        peak by name: "resident" is what exceeds the process's memory before the model, the
        numbers of CUDA's allocator are totals. "seconds" per step; "retries" and "ooms" of
        CUDA's allocator; "parameters"; "threads".

    Raises:
        ValueError: if there are more or fewer processes than the step has, or such a step can't be
            taken.
    """
    step = point.step
    if ranks.count != step.ranks:
        raise ValueError(f"the step is of {step.ranks} processes, and there are {ranks.count}")
    device = torch.device(step.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    if point.tune_allocator:
        keep_freed_memory()
    by_hand = sdpa_kernel(SDPBackend.MATH) if step.attention == "by-hand" else nullcontext()
    reason = ""
    with by_hand, ranks.during("the step to measure"):
        _take(_tiny(point), ranks, device, steps=1)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        gc.collect()
        give_back_freed_memory()
        forget_peaks(device)
        before = memory_now(torch.device("cpu"))["resident"]
        try:
            with limited(point.limit, device):
                found = _take(point, ranks, device, point.steps)
        except (RuntimeError, MemoryError) as err:  # PyTorch raises the first on a CPU
            if not ran_out(err):
                raise
            reason = first_line(err)
    about = {"rank": ranks.rank, "threads": torch.get_num_threads()}
    if reason:
        return about | {"state": OOM, "reason": reason}
    return about | {"state": OK, **found, **_peaks(device, before)}


def _take(point: Point, ranks: Ranks, device: torch.device, steps: int) -> dict[str, Any]:
    """Build a model and train it for some steps; return the seconds per step and the parameters."""
    step, config = point.step, settings_of(point.step, seed=point.seed, tune_allocator=False)
    engine = _engine(point, ranks, device)
    plan = plan_step(config, step.cfg.context_length, ranks.count)
    data = _ids(step, plan.step_rows, point.seed)

    def take(number: int) -> None:
        batches = micro_batches(data, config, plan, number, ranks.rank)
        take_step(engine, batches, RATE, CLIP, seed_of(point.seed, number, ranks.rank))

    if point.compile:
        compile_model(engine, data.batch(0, 0, plan.rows, plan.length), _refuse)
    number = 1
    while number <= WARM_UP or not _has_state(engine):
        take(number)
        number += 1
        if number > WARM_UP + MOST_SKIPPED:
            raise ValueError(f"the optimizers have not stepped in {number} steps; choose bfloat16")
    synchronize(device)
    ranks.wait()
    start = time.perf_counter()
    for later in range(steps):
        take(number + later)
    synchronize(device)
    seconds = (time.perf_counter() - start) / steps
    parameters = sum(parameter.numel() for parameter in engine.model.parameters())
    return {"seconds": seconds, "parameters": parameters}


def _engine(point: Point, ranks: Ranks, device: torch.device) -> Engine:
    """Build the engine that takes the step, as a run does."""
    step = point.step
    partly = step.lora_rank is not None or step.last_blocks is not None
    later = step.division.shard == "full" and not partly
    model = new_model(step.cfg, point.seed, later)
    with seeded(point.seed, torch.device("cpu")):  # LoRA draws random numbers
        let_learn(model, step)
    model.to(getattr(torch, step.weights))
    if step.division.shard != "full":
        model.to(device)
    config = settings_of(step, seed=point.seed, compile=point.compile)
    return build_engine(model, config, objective_of(step), ranks, step.division, device)


def _tiny(point: Point) -> Point:
    """Return a tiny point that runs the same code."""
    step = point.step
    kind = "llama" if "hidden_dim" in step.cfg else "gpt2"
    least: dict[str, Any] = {
        "lora_rank": step.lora_rank and 1,
        "last_blocks": step.last_blocks and 1,
        "checkpoint_blocks": min(1, step.checkpoint_blocks),
    }
    tiny: TrainingStep = replace(step, cfg=TINY[kind], rows=1, length=8, **least)
    return replace(point, step=tiny, compile=False)


def _ids(step: TrainingStep, rows: int, seed: int) -> TokenPart:
    """Return random ids for the rows of a step and one more."""
    vocabulary = step.cfg.vocab_size
    count = (rows + 1) * step.tokens_a_row + 1
    ids = np.random.default_rng(seed).integers(0, vocabulary, count, dtype=np.uint32)
    return TokenPart.from_tokens(ids, vocabulary)


def _has_state(engine: Engine) -> bool:
    """Return whether the optimizers have stepped: the first step creates their state."""
    local = (getattr(optimizer, "optim", optimizer) for optimizer in engine.optimizers)
    return any(optimizer.state for optimizer in local)


def _refuse(line: str) -> None:
    raise ValueError(line.replace("; continuing without it", "; leave --compile out"))


def _peaks(device: torch.device, before: int) -> dict[str, Any]:
    """Return the peaks since the last reset, and the retries and failures of CUDA's allocator."""
    host = memory_now(torch.device("cpu"))
    numbers = {"resident": max(0, host["resident_peak"] - before)}
    if device.type != "cuda":
        return {"numbers": numbers, "retries": None, "ooms": None}
    now, stats = memory_now(device), torch.cuda.memory_stats(device)
    numbers |= {name: now[f"{name}_peak"] for name in ("allocated", "active", "reserved")}
    return {
        "numbers": numbers,
        "retries": stats.get("num_alloc_retries", 0),
        "ooms": stats.get("num_ooms", 0),
    }


@contextmanager
def limited(limit: int | None, device: torch.device) -> Iterator[None]:
    """Return a context that limits what this process may use beyond what it has; None: no limit.

    Raises:
        ValueError: if the system has no such limit.
    """
    if limit is None:
        yield
    elif device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    elif not sys.platform.startswith("linux"):
        raise ValueError("--limit works on Linux and with CUDA; leave it out here")
    else:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (process_size("VmData") + limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def main(folder: Path) -> int:
    """Measure the point in a folder, write this process's results there, return the exit status."""
    asked = read_json(folder / "point.json")
    _end_with(asked["process"])
    if "row" not in asked:
        write_json(folder / "facts.json", facts_of(asked["device"]))
        return 0
    point = point_in(asked["row"])
    rank = int(os.environ.get("RANK", "0"))

    def keep(found: dict[str, Any]) -> None:
        write_json(folder / f"rank-{rank}.json", found)

    return _measured(point, asked["timeout"], keep)


def _measured(point: Point, timeout: float, keep: Callable[[dict[str, Any]], None]) -> int:
    try:
        with joined(point.step.device, timeout) as ranks:
            found = measure_here(point, ranks)
            keep(found)  # before this process's exit ends the others
            if found["state"] == OOM and ranks.count > 1:
                os._exit(1)
    except ValueError as err:  # a second start would fail in the same way
        keep({"state": FAILED, "reason": first_line(err)})
        return 1
    return 0


def _end_with(process: int) -> None:
    """End this process when the requesting one is gone, even if that one was killed."""
    if sys.platform == "win32":
        return

    def watch() -> None:
        while True:
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                os._exit(1)
            except PermissionError:
                pass
            time.sleep(WATCHED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
