"""Seconds to the quality that nanoGPT's laptop recipe gives a small model, in one run.

    python benchmarks/time_to_quality.py                about ten minutes on two cores
    python benchmarks/time_to_quality.py --rounds 1 --steps 200    to try the script

The text is tinyshakespeare, one id per byte (256 for both), its last tenth for validation. The
model has 4 layers of width 128, 4 heads, and a context of 64. The recipe: batch 12, 2,000 steps, a
rate of 1e-3 with 100 steps of warm-up and a cosine down to 1e-4, betas 0.9 and 0.99, decay 0.1,
gradients clipped at 1, no dropout. It trains nanoGPT's design (`benchmarks/training.py`, without
biases) with AdamW's default kernel. Ours is this library's loop on a model of the same size with
the settings below: Muon for the matrices of the blocks and a rate that falls to 0, which need a
third of the steps. Both are evaluated on every window of the validation part, which is not timed.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from typing import Any

import torch
from results import record
from torch.nn import functional as F
from training import make_stick

from llm_scratch.files import read_text
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.corpora import find_data
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.training.steps import Engine, evaluate

SIZES = {"vocab_size": 256, "context_length": 64, "emb_dim": 128, "n_heads": 4, "n_layers": 4}
LENGTH, RECIPE_STEPS = 64, 2000
OURS = TrainConfig(
    steps=650,
    micro_batch=12,
    optimizer="muon",
    learning_rate=8e-3,
    min_learning_rate=0.0,
    warmup_steps=65,
    beta1=0.9,
    beta2=0.99,
    weight_decay=0.1,
    clip=1.0,
    precision="float32",
    log_every=0,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps for both, to try the script")
    args = parser.parse_args()
    parts = read_parts()
    results: dict[str, list[tuple[float, float]]] = {"the recipe": [], "ours": []}
    turns = {"the recipe": run_recipe, "ours": run_ours}
    for number in range(args.rounds):
        for name in list(turns) if number % 2 == 0 else list(turns)[::-1]:
            seconds, loss = turns[name](parts, number, args.steps)
            results[name].append((seconds, loss))
            print(f"round {number + 1}, {name}: {seconds:.1f} s, loss {loss:.4f}", flush=True)
    threads = torch.get_num_threads()
    print(f"\n{platform.machine()}, PyTorch {torch.__version__}, {threads} threads\n")
    print("| | seconds | validation loss | x the recipe's time |\n|---|---|---|---|")
    recipe = statistics.median(seconds for seconds, _ in results["the recipe"])
    for name, runs in results.items():
        seconds, loss = (statistics.median(run[i] for run in runs) for i in (0, 1))
        print(f"| {name} | {seconds:.1f} | {loss:.4f} | {seconds / recipe:.2f} |")
    if args.steps is None:
        medians = {
            name: statistics.median(run[0] for run in runs) for name, runs in results.items()
        }
        record("a small model as good as nanoGPT's recipe makes it", medians,
               [("ours", "the recipe")], unit="s", rounds=args.rounds, less=True)  # fmt: skip


def read_parts() -> tuple[TokenPart, TokenPart]:
    ids = list(read_text(find_data("tinyshakespeare")).encode("utf-8"))
    border = int(0.9 * len(ids))
    return TokenPart.from_tokens(ids[:border], 256), TokenPart.from_tokens(ids[border:], 256)


def run_ours(parts: Any, number: int, steps: int | None) -> tuple[float, float]:
    """Return seconds and validation loss of this library's loop."""
    import dataclasses

    config = dataclasses.replace(OURS, seed=number, **({"steps": steps} if steps else {}))
    torch.manual_seed(number)
    model = GPTModel({**SIZES, "tie_weights": True})
    start = time.perf_counter()
    train(model, parts[0], config, log=lambda line: None)
    seconds = time.perf_counter() - start
    engine = Engine(model, [], torch.device("cpu"))
    return seconds, evaluate(engine, parts[1].rows_in_order(LENGTH, 64))


def run_recipe(parts: Any, number: int, steps: int | None) -> tuple[float, float]:
    """Return seconds and validation loss of nanoGPT's recipe, in its design."""
    steps = steps or RECIPE_STEPS
    torch.manual_seed(number)
    model, _ = make_stick({**SIZES, "bias": False})
    groups = [[p for p in model.parameters() if (p.dim() > 1) is m] for m in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
    )
    tokens = torch.from_numpy(parts[0].tokens.astype("int64"))
    start = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe_rate(step, steps)
        begins = torch.randint(len(tokens) - LENGTH, (12,)).tolist()
        inputs = torch.stack([tokens[i : i + LENGTH] for i in begins])
        targets = torch.stack([tokens[i + 1 : i + 1 + LENGTH] for i in begins])
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    return seconds, stick_loss(model.eval(), parts[1])


def recipe_rate(step: int, steps: int) -> float:
    warmup = min(100, steps // 10)
    if step < warmup:
        return 1e-3 * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, steps - warmup)
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * share)) * (1e-3 - 1e-4)


@torch.no_grad()
def stick_loss(model: Any, part: TokenPart) -> float:
    total, count = 0.0, 0
    for inputs, targets in part.rows_in_order(LENGTH, 64):
        logits = model(inputs).flatten(0, 1)
        total += F.cross_entropy(logits, targets.flatten(), reduction="sum").item()
        count += targets.numel()
    return total / count


if __name__ == "__main__":
    main()
