"""Training by two processes of one thread against one of two threads and plain DDP, in one run.

    python benchmarks/distributed.py                     SmolLM2's size, about 25 minutes
    python benchmarks/distributed.py --rounds 1 --small  a tiny model, to try the script
    python benchmarks/distributed.py checkpoint          saving a divided 124M model
    python benchmarks/distributed.py --with trainer      transformers' Trainer with FSDP2 too

`steps`: all cases have the same global batch (4,096 tokens in rows of 512), random weights and ids,
float32, and fused AdamW. Two processes, started once, run all cases in turn, and each round begins
with a different one. When one process trains, the other waits without computing. Each turn builds
its model, takes a short step that makes the optimizer's state, and times the next ones:

    one       one process of two threads, as `train` computes a step
    ddp       two processes of one thread, --shard none
    optimizer the same, --shard optimizer
    full      the same, --shard full
    bare      the same model under DistributedDataParallel with a bare loop: whole logits,
              cross_entropy, fused AdamW
    trainer   the same sizes as transformers' model, FSDP2 (fully_shard by hand), stepped by
              its Trainer's `training_step` and optimizer

`checkpoint`: how long training waits while two processes write a model of 124M parameters and its
optimizer's state, divided by `--shard full`, against `torch.save` of the same bytes by one process.
Ours flushes its bytes to disk (fsync) and computes their SHA-256. torch.save is timed with and
without flushing. The last line shows each process's peak memory for writing.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from results import record

LENGTH, TOKENS = 512, 4096
CASES = ("one", "ddp", "optimizer", "full", "bare")
BARS = (("ddp", "one", 0.90), ("full", "one", 0.75), ("ddp", "bare", 1.0), ("full", "trainer", 1.1))
SAVED = ("torch.save, synced", "torch.save")
Step = Callable[[Any, int], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("steps", "checkpoint"), default="steps")
    parser.add_argument("--rounds", type=int, help="default: 3, for checkpoint 5")
    parser.add_argument("--steps", type=int, default=2, help="timed steps per turn")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--with", dest="more", choices=("trainer",), nargs="*", default=[])
    parser.add_argument("--only", nargs="*", choices=(*CASES, "trainer"), default=[])
    args = parser.parse_args()
    args.rounds = args.rounds or (5 if args.part == "checkpoint" else 3)
    if "RANK" not in os.environ:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        sys.exit(subprocess.call([sys.executable, *command, __file__, *sys.argv[1:]]))
    from llm_scratch.training.distributed import joined

    with joined("cpu", timeout=1200) as ranks:
        if ranks.first:
            print(f"{platform.machine()}, PyTorch {torch.__version__}, 2 processes", flush=True)
        (measure_checkpoint if args.part == "checkpoint" else measure_steps)(args, ranks)


def measure_steps(args: argparse.Namespace, ranks: Any) -> None:
    """Time every case in each round, and print the ratios of their medians."""
    names = [name for name in (*CASES, *args.more) if not args.only or name in args.only]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found = take_turn(name, args, ranks)
            gc.collect()
            seconds[name] += found
            if ranks.first:
                shown = ", ".join(f"{s:.2f}" for s in found)
                print(f"round {turn + 1}, {name:9} {shown} s per step", flush=True)
    if ranks.first:
        report({name: statistics.median(times) for name, times in seconds.items()}, args)


def report(medians: dict[str, float], args: argparse.Namespace) -> None:
    """Print and record speeds, and their ratios to one process and to the peers."""
    print("\n| case | s/step | tokens/s | of one process | of the bare loop |")
    print("|---|---|---|---|---|")
    for name, median in medians.items():
        shares = [
            f"{medians[other] / median:.2f}" if other in medians else ""
            for other in ("one", "bare")
        ]
        print(f"| {name} | {median:.2f} | {TOKENS / median:,.0f} | {shares[0]} | {shares[1]} |")
    for own, other, bar in BARS:
        if own in medians and other in medians:
            print(f"{own} against {other}: {medians[other] / medians[own]:.2f} (asked: {bar:.2f})")
    pairs = [(own, other) for own, other, _ in BARS]
    record("a step of SmolLM2's size by two processes, 4,096 tokens", medians, pairs, unit="s",
           rounds=args.rounds, less=True)  # fmt: skip


def take_turn(name: str, args: argparse.Namespace, ranks: Any) -> list[float]:
    """Build a case, warm it up, and return the slowest process's seconds of each step."""
    alone = name == "one"
    seconds: list[float] = []
    ranks.wait()
    if ranks.first or not alone:
        torch.set_num_threads(ranks.count if alone else 1)
        step = build(name, args.small, ranks)
        rows = TOKENS // LENGTH // (1 if alone else ranks.count)
        generator = torch.Generator().manual_seed(ranks.rank)
        for number in range(args.steps + 1):
            length = LENGTH if number else 32  # the first step makes the optimizer's state
            ids = torch.randint(1000, (rows, length + 1), generator=generator)
            batch = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
            if not alone:
                ranks.wait()
            start = time.perf_counter()
            step(batch, number)
            seconds.append(time.perf_counter() - start)
        del step
    torch.set_num_threads(1)
    ranks.wait()
    gathered = [times for times in ranks.gather(seconds[1:]) if times]
    return [max(times) for times in zip(*gathered, strict=True)]


def sizes(small: bool) -> Any:
    """Return SmolLM2-135M's sizes, or tiny ones."""
    from llm_scratch.model.llama_config import as_llama_config
    from llm_scratch.model.llama_sizes import SMOLLM2_CONFIG_135M

    full = replace(as_llama_config(SMOLLM2_CONFIG_135M), context_length=LENGTH, dtype=None)
    return replace(full, n_layers=2, vocab_size=1000) if small else full


def build(name: str, small: bool, ranks: Any) -> Step:
    """Return a case's step."""
    if name == "bare":
        return bare_loop(small)
    if name == "trainer":
        return trainer_step(small)
    from llm_scratch.training.config import TrainConfig
    from llm_scratch.training.distributed import ONE
    from llm_scratch.training.division import Division
    from llm_scratch.training.starting import build_engine, new_model
    from llm_scratch.training.steps import take_step

    division = Division(name if name in ("optimizer", "full") else "none")
    config = TrainConfig(precision="float32", learning_rate=1e-4)
    model = new_model(sizes(small), 1, later=name == "full")
    engine = build_engine(
        model, config, None, ONE if name == "one" else ranks, division, torch.device("cpu")
    )
    return lambda batch, number: take_step(engine, [batch], 1e-4, 1.0, number)


def bare_loop(small: bool) -> Step:
    """Return a step of the model under PyTorch's wrapper, as in PyTorch's tutorials."""
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from llm_scratch.training.starting import new_model

    model = new_model(sizes(small), 1)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def step(batch: Any, number: int) -> None:
        inputs, targets = batch
        loss = cross_entropy(wrapped(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def trainer_step(small: bool) -> Step:
    """Return a Trainer's step of transformers' model of the same sizes, under fully_shard."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    cfg = sizes(small)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.emb_dim,
            intermediate_size=cfg.hidden_dim,
            num_hidden_layers=cfg.n_layers,
            num_attention_heads=cfg.n_heads,
            num_key_value_heads=cfg.n_kv_groups,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    mesh = init_device_mesh("cpu", (2,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    folder = tempfile.mkdtemp(prefix="llm-scratch-trainer-")
    options = TrainingArguments(
        folder, use_cpu=True, report_to=[], optim="adamw_torch_fused", disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model=model, args=options)
    trainer.create_optimizer()
    trainer.model_wrapped = model  # already divided, so not by DDP
    trainer.current_gradient_accumulation_steps = 1  # as its train() sets it

    def step(batch: Any, number: int) -> None:
        inputs, targets = batch
        given = {"input_ids": inputs, "labels": targets, "shift_labels": targets}
        trainer.training_step(model, given)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    shutil.rmtree(folder, ignore_errors=True)
    return step


def measure_checkpoint(args: argparse.Namespace, ranks: Any) -> None:
    """Time saving a divided model and its optimizer's state against torch.save of as many bytes."""
    from llm_scratch.model.config import GPT2_CONFIGS
    from llm_scratch.training.config import TrainConfig
    from llm_scratch.training.division import Division
    from llm_scratch.training.optimizer_state import begin_optimizers
    from llm_scratch.training.sharded_checkpoints import save_sharded, tensors_of_run
    from llm_scratch.training.sharding import local
    from llm_scratch.training.starting import build_engine, new_model

    cfg = replace(GPT2_CONFIGS["124M"], tie_weights=True)
    cfg = replace(cfg, n_layers=1) if args.small else cfg
    engine = build_engine(
        new_model(cfg, 1, later=True), TrainConfig(precision="float32"), None, ranks,
        Division("full"), torch.device("cpu"),
    )  # fmt: skip
    begin_optimizers(engine.model, engine.optimizers)
    tensors = tensors_of_run(engine.model, engine.optimizers)
    size = int(ranks.sum(sum(local(t).nbytes for t in tensors.values()))[0])
    folder = Path(ranks.gather(tempfile.mkdtemp(dir=".", prefix="checkpoint-"))[0])
    found: dict[str, list[float]] = {name: [] for name in ("ours", *SAVED)}
    more: list[float] = []
    for turn in range(args.rounds + 1):  # the first turn warms up
        ranks.wait()
        before = memory_from_now()
        start = time.perf_counter()
        save_sharded(folder, turn, tensors, {"step": turn}, ranks)
        found["ours"].append(time.perf_counter() - start)
        more.append((status_of("VmHWM") - before) / 1e6)
        if ranks.first:
            shutil.rmtree(folder / f"step-{turn:08d}")
            for name in SAVED if turn % 2 else reversed(SAVED):
                found[name].append(torch_save(folder / "whole.pt", size, name == SAVED[0]))
    share = max(ranks.gather(sum(local(t).nbytes for t in tensors.values()))) / 1e6
    peaks = ranks.gather(max(more[1:]))
    if ranks.first:
        shutil.rmtree(folder)
        medians = {name: statistics.median(times[1:]) for name, times in found.items()}
        print(f"\n{size / 1e6:,.0f} MB\n| | s | ours, by it |\n|---|---|---|")
        for name, median in medians.items():
            print(f"| {name} | {median:.2f} | {medians['ours'] / median:.2f} |")
        shown = ", ".join(f"{peak:,.0f}" for peak in peaks)
        print(f"MB of memory for writing, by process: {shown}; a share has {share:,.0f} MB")
        pairs = [("ours", name) for name in SAVED]
        record("saving a checkpoint of 124M divided by two processes", medians, pairs, unit="s",
               rounds=args.rounds, less=True)  # fmt: skip
    ranks.wait()
    if not ranks.first and folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def memory_from_now() -> int:
    """Reset the system's record of this process's peak memory; return the bytes in use now."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="ascii")
    return status_of("VmRSS")


def status_of(name: str) -> int:
    """Return a memory value of this process from Linux, in bytes; 0 elsewhere."""
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def torch_save(path: Path, size: int, synced: bool) -> float:
    """Return the seconds that torch.save takes for `size` bytes in tensors of 28 MB."""
    parts = [torch.ones(7_000_000) for _ in range(max(1, round(size / 28e6)))]
    start = time.perf_counter()
    with open(path, "wb") as file:
        torch.save(parts, file)
        if synced:
            file.flush()
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


if __name__ == "__main__":
    main()
