"""Training steps of 124M: ours, nanoGPT's design, transformers' and the book's, in one run.

    pip install -e '.[test]'
    pip install --no-deps llms-from-scratch==1.0.19
    python benchmarks/training.py                           about an hour on two cores
    python benchmarks/training.py bfloat16:4x256 --rounds 3  one setting
    python benchmarks/training.py --tiny --rounds 1          to try the script
    python benchmarks/training.py --where                    where a step's time goes

A setting is PRECISION:BATCHxLENGTH; bfloat16 is autocast for all. There is no dropout, each case
uses its own AdamW with defaults, and gradients are clipped at 1. "nanoGPT's design" is written here
as a yardstick: one matrix for queries, keys and values, PyTorch's attention, a tied head, logits of
the whole batch, AdamW with its default kernel on a CPU. "ours" is the loop for real runs
(`take_step`) with its defaults, which keeps freed memory on Linux. Two more rows swap the allocator
settings of these two. "ours, low memory" recomputes every block in the backward pass.

Each turn has its own process, and so its own peak memory. What counts are ratios of medians within
one run. Ids are random and weights untrained: all do the same work.
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
from training_step import peak_memory

SETTINGS = ("bfloat16:4x256", "bfloat16:2x1024", "float32:4x256", "float32:2x1024")
STICK = "nanoGPT's design"
CASES = (
    STICK,
    "ours",
    "ours, low memory",
    f"{STICK}, keeping freed memory",
    "ours, not keeping freed memory",
    "transformers",
    "the book's",
)
CONFIG = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.0,
    "qkv_bias": True,
}
TINY = {"emb_dim": 64, "n_heads": 4, "n_layers": 2}
Step = Callable[[Any, Any], float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="PRECISION:BATCHxLENGTH")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each case")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, metavar="CASE")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--where", action="store_true", help="profile a step of ours instead")
    parser.add_argument("--turn", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(take_turn(args.turn, args.settings[0], args)))
        return
    for setting in args.settings or SETTINGS:
        print(f"\n## {setting}", flush=True)
        if args.where:
            where_time_goes(setting, args)
        else:
            report(run_rounds(setting, args), setting, args)


def run_rounds(setting: str, args: argparse.Namespace) -> dict[str, list[dict]]:
    """Return the results of all turns; rounds start with different cases."""
    results: dict[str, list[dict]] = {case: [] for case in args.cases}
    for number in range(args.rounds):
        start = number % len(args.cases)
        for case in [*args.cases[start:], *args.cases[:start]]:
            command = [sys.executable, __file__, setting, "--steps", str(args.steps)]
            command += ["--turn", case, *(["--tiny"] if args.tiny else [])]
            child = subprocess.run(command, capture_output=True, encoding="utf-8")
            if child.returncode:
                last = child.stderr.strip().splitlines()[-1]
                print(f"{case}: left out, {last}", flush=True)
                continue
            result = json.loads(child.stdout.splitlines()[-1])
            results[case].append(result)
            print(f"round {number + 1}, {case}: {statistics.median(result['seconds']):.3f} s, "
                  f"{result['peak']:,.0f} MB, loss {result['loss']:.3f}", flush=True)  # fmt: skip
    return {case: runs for case, runs in results.items() if runs}


def report(results: dict[str, list[dict]], setting: str, args: argparse.Namespace) -> None:
    """Print and record medians of the rounds, and their ratios to nanoGPT's design."""
    speeds = {
        case: runs[0]["tokens"] / statistics.median(s for run in runs for s in run["seconds"])
        for case, runs in results.items()
    }
    peaks = {case: max(run["peak"] for run in runs) for case, runs in results.items()}
    first = next(iter(results.values()))[0]
    print(f"\n{platform.machine()}, {first['on']}")
    print(f"\n| | tokens/s | x {STICK} | peak MB | x {STICK} |\n|---|---|---|---|---|")
    for case, speed in speeds.items():
        ratios = (speed / speeds[STICK], peaks[case] / peaks[STICK]) if STICK in speeds else (0, 0)
        print(f"| {case} | {speed:.0f} | {ratios[0]:.2f} | {peaks[case]:,.0f} | {ratios[1]:.2f} |")
    pairs = [("ours", case) for case in speeds if not case.startswith("ours")]
    work = f"training GPT-2 124M, {setting}"
    record(work, speeds, pairs, unit="tokens/s", rounds=args.rounds)
    record(f"{work}, peak of memory", peaks, pairs, unit="MB", rounds=args.rounds, less=True)


def parse(setting: str) -> tuple[str, int, int]:
    precision, _, shape = setting.partition(":")
    batch, _, length = shape.partition("x")
    return precision, int(batch), int(length)


def take_turn(case: str, setting: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time some steps in this process, after one for warm-up."""
    import torch

    from llm_scratch.training.allocator import keep_freed_memory

    if case in ("ours", "ours, low memory", f"{STICK}, keeping freed memory"):
        keep_freed_memory()
    precision, batch, length = parse(setting)
    torch.manual_seed(123)
    config = CONFIG | (TINY if args.tiny else {})
    step = make_step(case, config, precision)
    ids = torch.randint(config["vocab_size"], (args.steps + 1, batch, length + 1))
    seconds = []
    for rows in ids:
        inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        start = time.perf_counter()
        loss = step(inputs, targets)
        seconds.append(time.perf_counter() - start)
    on = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    return {"seconds": seconds[1:], "tokens": batch * length, "loss": loss, "peak": peak_memory(),
            "on": on}  # fmt: skip


def make_step(case: str, config: dict[str, Any], precision: str) -> Step:
    """Return a function that updates a model once: inputs, targets -> the loss."""
    import torch

    if case.startswith("ours"):
        return our_step(config, precision, low_memory=case == "ours, low memory")
    makers = {"transformers": make_transformers, "the book's": make_book}
    model, logits_of = makers.get(case, make_stick)(config)
    if case == "the book's":
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    else:
        groups = [[p for p in model.parameters() if (p.dim() > 1) is m] for m in (True, False)]
        optimizer = torch.optim.AdamW(
            [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0}],
            lr=6e-4,
            betas=(0.9, 0.95),
        )

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = logits_of(inputs)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def our_step(config: dict[str, Any], precision: str, low_memory: bool = False) -> Step:
    import torch

    from llm_scratch.model.gpt import GPTModel
    from llm_scratch.training.optimizers import build_optimizers
    from llm_scratch.training.steps import Engine, take_step

    model = GPTModel({**config, "tie_weights": True})
    model.checkpoint_blocks = int(low_memory)
    optimizers = build_optimizers(model, 6e-4)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    engine = Engine(model, optimizers, torch.device("cpu"), dtype)
    return lambda inputs, targets: take_step(engine, [(inputs, targets)], 6e-4, 1.0, 0).loss


def make_stick(config: dict[str, Any]) -> tuple[Any, Callable]:
    """Return a model of nanoGPT's design, as far as it matters for speed and memory."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, heads, bias = config["emb_dim"], config["n_heads"], config.get("bias", True)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(width, bias=bias) for _ in range(2))
            self.qkv = nn.Linear(width, 3 * width, bias=bias)
            self.out = nn.Linear(width, width, bias=bias)
            self.up = nn.Linear(width, 4 * width, bias=bias)
            self.down = nn.Linear(4 * width, width, bias=bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            B, T, C = x.shape
            q, k, v = (
                part.view(B, T, heads, C // heads).transpose(1, 2)
                for part in self.qkv(self.norm1(x)).split(C, dim=2)
            )
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).contiguous().view(B, T, C))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Stick(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(config["vocab_size"], width)
            self.places = nn.Embedding(config["context_length"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(config["n_layers"]))
            self.norm = nn.LayerNorm(width, bias=bias)
            self.head = nn.Linear(width, config["vocab_size"], bias=False)
            for weight in (p for p in self.parameters() if p.dim() > 1):
                nn.init.normal_(weight, std=0.02)
            self.tokens.weight = self.head.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    model = Stick()
    return model, model


def make_transformers(config: dict[str, Any]) -> tuple[Any, Callable]:
    """Return transformers' GPT-2: scaled_dot_product_attention, no dropout, no cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(
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
    return model, lambda inputs: model(inputs).logits


def make_book(config: dict[str, Any]) -> tuple[Any, Callable]:
    from llms_from_scratch.ch04 import GPTModel

    model = GPTModel(config)
    return model, model


def where_time_goes(setting: str, args: argparse.Namespace) -> None:
    """Profile one of our steps: the share of each kind of work, and of the machine's peak."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from llm_scratch.training.allocator import keep_freed_memory
    from llm_scratch.training.reporting import matrix_peak

    keep_freed_memory()
    precision, batch, length = parse(setting)
    config = CONFIG | (TINY if args.tiny else {})
    step = our_step(config, precision)
    ids = torch.randint(config["vocab_size"], (batch, length + 1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    step(inputs, targets)
    start = time.perf_counter()
    step(inputs, targets)
    plain = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step(inputs, targets)
    shares: dict[str, float] = {}
    for event in profiler.key_averages(group_by_input_shape=True):
        kind = kind_of(event.key, event.input_shapes, config)
        shares[kind] = shares.get(kind, 0.0) + event.self_cpu_time_total / 1e6
    total = sum(shares.values())
    print("| work | seconds | share |\n|---|---|---|")
    for kind, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {seconds:.3f} | {seconds / total:.0%} |")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    C, L, V = config["emb_dim"], config["n_layers"], config["vocab_size"]
    flops = 6 * (12 * L * C * C + C * V) * batch * length + 6 * L * C * length * batch * length
    peak = matrix_peak(torch.device("cpu"), dtype)
    print(f"\na step: {plain:.3f} s, {flops / plain / 1e9:.0f} GFLOP/s", end="")
    print(f", {flops / plain / peak:.0%} of this machine's {peak / 1e9:.0f}" if peak else "")


def kind_of(name: str, shapes: list[list[int]], config: dict[str, Any]) -> str:
    """Return an operation's kind of work, by its name and the sizes of its inputs."""
    sizes = {size for shape in shapes if isinstance(shape, list) for size in shape}
    if "attention" in name:
        return "attention itself"
    if name.split("::")[-1] in ("mm", "addmm", "addmm_", "bmm", "linear", "mkldnn_linear"):
        if config["vocab_size"] in sizes:
            return "products of the head"
        wide = 4 * config["emb_dim"] in sizes
        return "products of the feed-forward layers" if wide else "products of q, k, v and output"
    if "adam" in name:
        return "optimizer"
    if "norm" in name and "layer" in name:
        return "layer norms"
    if "gelu" in name:
        return "gelu"
    if "copy" in name or name.endswith("_to_copy"):
        return "copies and casts"
    if config["vocab_size"] in sizes:
        return "loss"
    return "everything else"


if __name__ == "__main__":
    main()
