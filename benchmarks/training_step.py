"""One training step of the 124M model: ours, transformers' and the book's, in one run.

    pip install --no-deps llms-from-scratch==1.0.19
    python benchmarks/training_step.py                      about 20 minutes on two cores
    python benchmarks/training_step.py --rounds 1 --steps 1

The batch is 4 x 256, in float32 without dropout. All use AdamW with `fused=True`; another row has
the book's own call, AdamW's default. Each model runs in its own process, and so has its own peak
memory. The processes take turns, and what counts are ratios within one run.

Our loss is that of the loop for real runs (`chunked_head_loss`). Another row has `calc_loss_batch`,
which keeps all logits.

Ids are random and weights untrained: for the speed of a step, only the work has to be the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from results import record

CASES = {
    "ours": "llm_scratch, tied, chunked head",
    "ours-simple": "llm_scratch, tied, calc_loss_batch",
    "transformers": "transformers, tied",
    "book": "the book's, untied",
    "book-default": "the book's, AdamW as there",
}
CONFIG = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.0,
    "qkv_bias": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each model")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0, help="default: PyTorch's choice")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.rounds, args.steps, args.batch, args.length) < 1:
        parser.error("rounds, steps, batch and length must be 1 or more")
    if args.case:
        print(json.dumps(run_case(args)))
    else:
        report(run_rounds(args), args)


def run_rounds(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Return the results of all models' turns; rounds start with different models."""
    results: dict[str, list[dict]] = {case: [] for case in CASES}
    names = list(CASES)
    for turn in range(args.rounds):
        for case in names[turn % len(names) :] + names[: turn % len(names)]:
            result = run_child(case)
            if result is None:
                names.remove(case)
                continue
            results[case].append(result)
            print(
                f"round {turn + 1}, {CASES[case]:27} best {min(result['seconds']):6.3f} s, "
                f"peak {result['peak_mb']:,.0f} MB, loss {result['loss']:.3f}",
                flush=True,
            )
    return {case: runs for case, runs in results.items() if runs}


def run_child(case: str) -> dict | None:
    """Take a turn in its own process; return None if the model's package is not installed."""
    command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
    child = subprocess.run(command, capture_output=True, encoding="utf-8")
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    if "ModuleNotFoundError" not in child.stderr:
        sys.exit(f"{case} failed:\n{child.stderr}")
    print(f"{CASES[case]}: left out, {child.stderr.strip().splitlines()[-1]}", flush=True)
    return None


def report(results: dict[str, list[dict]], args: argparse.Namespace) -> None:
    """Print and record best and median step, peak memory, and how many times faster ours is."""
    if "ours" not in results:
        sys.exit("llm_scratch itself could not be imported")
    seconds = {case: [s for run in runs for s in run["seconds"]] for case, runs in results.items()}
    peaks = {case: max(run["peak_mb"] for run in runs) for case, runs in results.items()}
    medians = {
        case: statistics.median(statistics.median(run["seconds"]) for run in runs)
        for case, runs in results.items()
    }
    print(f"\n{platform.machine()}, Python {platform.python_version()}, {results['ours'][0]['on']}")
    print("| model | parameters | best s | median s | peak MB | ours is faster: best, median |")
    print("|---|---|---|---|---|---|")
    for case, times in seconds.items():
        best, median = min(times), medians[case]
        print(
            f"| {CASES[case]} | {results[case][0]['parameters']:,} | {best:.3f} | {median:.3f} "
            f"| {peaks[case]:,.0f} | {best / min(seconds['ours']):.2f}, "
            f"{median / medians['ours']:.2f} |"
        )
    names = CASES | {"ours": "ours"}
    pairs = [("ours", names[case]) for case in medians if not case.startswith("ours")]
    work = f"GPT-2 124M, one training step of {args.batch} x {args.length}, float32"
    for what, found, unit in ((work, medians, "s"), (f"{work}, peak of memory", peaks, "MB")):
        named = {names[case]: number for case, number in found.items()}
        record(what, named, pairs, unit=unit, rounds=args.rounds, less=True)


def run_case(args: argparse.Namespace) -> dict:
    """Time the steps of one model in this process, after one for warm-up."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(123)
    config = CONFIG | ({"emb_dim": 64, "n_heads": 4, "n_layers": 2} if args.small else {})
    model, loss_of = build(args.case, config)
    model.train()
    fused = {} if args.case == "book-default" else {"fused": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1, **fused)
    ids = torch.randint(config["vocab_size"], (args.steps + 1, args.batch, args.length + 1))
    seconds = []
    for batch in ids:
        inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        value = loss.item()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds[1:],
        "loss": value,
        "peak_mb": peak_memory(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "on": f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads",
    }


def build(case: str, config: dict) -> tuple[Any, Callable]:
    """Return a model and a function from a batch to its mean loss."""
    if case.startswith("ours"):
        return build_ours(config, chunked=case == "ours")
    if case == "transformers":
        return build_transformers(config)
    from llms_from_scratch.ch04 import GPTModel as BookModel
    from torch.nn.functional import cross_entropy

    book = BookModel(config)
    return book, lambda inputs, targets: cross_entropy(
        book(inputs).flatten(0, 1), targets.flatten()
    )


def build_ours(config: dict, chunked: bool) -> tuple[Any, Callable]:
    """Return this library's model, tied, with its loss in chunks or over all logits."""
    from llm_scratch.model.gpt import GPTModel
    from llm_scratch.training.head_loss import chunked_head_loss
    from llm_scratch.training.losses import calc_loss_batch

    model = GPTModel({**config, "tie_weights": True})
    if not chunked:
        return model, lambda inputs, targets: calc_loss_batch(inputs, targets, model, "cpu")
    return model, lambda inputs, targets: chunked_head_loss(
        model.hidden_states(inputs), model.out_head.weight, targets, divisor=targets.numel()
    )


def build_transformers(config: dict) -> tuple[Any, Callable]:
    """Return transformers' GPT-2: scaled_dot_product_attention, no dropout, no cache."""
    from torch.nn.functional import cross_entropy
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config["vocab_size"],
            n_positions=config["context_length"],
            n_embd=config["emb_dim"],
            n_layer=config["n_layers"],
            n_head=config["n_heads"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    return model, lambda inputs, targets: cross_entropy(
        model(inputs).logits.flatten(0, 1), targets.flatten()
    )


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB."""
    from llm_scratch.training.memory_log import resident_peak

    return resident_peak() / 1e6


if __name__ == "__main__":
    main()
