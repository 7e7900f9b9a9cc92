"""Generation on the CPU: ours, transformers' and bare matrix products, in one run.

    pip install -e '.[test]'
    python benchmarks/generation.py                   everything, about 25 minutes on two cores
    python benchmarks/generation.py speed small       single parts
    python benchmarks/generation.py --rounds 1 --tiny speed batch prefill

Parts: `speed` (GPT-2 124M, one row, 32 tokens and 128 new ones, greedy), `small` (6 layers, width
384), `batch` (8 rows), `prefill` (512 tokens, one new), `memory` (the peak, each in its own
process), `quality` (perplexity of a model trained here, in float32, bfloat16 and with 8-bit
weights).

All cases of a part take turns within each round, and each round starts with a different one. What
counts are the ratios of their medians. Weights are random: speed does not depend on them. "mv
alone" is the time of only the model's matrix-vector products by PyTorch's `mv`, once per token.
"our products alone" is the same by the kernel that this library uses on this machine (on AMD
processors not `mv`, see model/products.py): the limit set by memory. The two ways without a cache
read the whole window for each token, and compute all positions' logits as in the book, or the last
position's as in nanoGPT. Both use this library's layers and have one turn only.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from results import record
from torch import nn
from training_step import peak_memory

from llm_scratch.generation.decoding import generate
from llm_scratch.generation.quantized import quantize_int8
from llm_scratch.model.config import gpt2_config
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.linear import Product, product_of

SIZES = {
    "124M": {},
    "small": {"emb_dim": 384, "n_heads": 6, "n_layers": 6},
    "tiny": {"emb_dim": 64, "n_heads": 2, "n_layers": 2},
}
PARTS = ("speed", "small", "batch", "prefill", "memory", "quality")
PEER = "transformers, float32"
Case = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=128, help="new tokens in speed and small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.peak:
        print(peak_of(args.peak, args))
        return
    print(f"{platform.machine()}, PyTorch {torch.__version__}, {args.threads} threads")
    runs = {
        "speed": lambda: speed("124M", args),
        "small": lambda: speed("small", args),
        "batch": lambda: batch(args),
        "prefill": lambda: prefill(args),
        "memory": lambda: memory(args),
        "quality": lambda: quality(args),
    }
    for part in args.parts or PARTS:
        print(f"\n## {part}", flush=True)
        runs[part]()


def make_model(size: str, args: argparse.Namespace) -> GPTModel:
    torch.manual_seed(123)
    config = {**gpt2_config("124M"), **SIZES["tiny" if args.tiny else size], "tie_weights": True}
    return GPTModel(config).eval()


def make_transformers(size: str, args: argparse.Namespace) -> Any:
    """Return GPT-2 built by transformers: scaled_dot_product_attention, cache, float32."""
    from transformers import GPT2Config, GPT2LMHeadModel

    cfg = {**gpt2_config("124M"), **SIZES["tiny" if args.tiny else size]}
    config = GPT2Config(
        n_embd=cfg["emb_dim"],
        n_layer=cfg["n_layers"],
        n_head=cfg["n_heads"],
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompt(rows: int, length: int) -> torch.Tensor:
    return torch.randint(50257, (rows, length), generator=torch.Generator().manual_seed(1))


def speed(size: str, args: argparse.Namespace) -> None:
    """Measure tokens per second of every way, one row."""
    model, peer, ids, new = (
        make_model(size, args),
        make_transformers(size, args),
        prompt(1, 32),
        args.new,
    )
    half, small = GPTModel(model.cfg).bfloat16().eval(), quantize_int8(model)
    cases: dict[str, Case] = {
        PEER: lambda: peer.generate(ids, max_new_tokens=new, do_sample=False),
        "ours, float32": lambda: generate(model, ids, new),
        "ours, bfloat16": lambda: generate(half, ids, new),
        "ours, int8": lambda: generate(small, ids, new),
        "mv alone, float32": products(model, new, lambda layer: layer.weight.detach().mv),
        "our products alone, float32": products(model, new, partial(product_of, rows=1)),
        "ours, modules called": lambda: generate(Watched.wrap(model), ids, new),
    }
    times = alternate(cases, args.rounds)
    once = {
        "no cache, last logits": lambda: generate(model, ids, new, use_cache=False),
        "no cache, all logits": lambda: generate(lambda seen: model(seen), ids, new, 1024),
    }
    times |= {name: [seconds(case)] for name, case in once.items()}
    rates = report(times, new, PEER, "our products alone, float32")
    pairs = [(f"ours, {numbers}", PEER) for numbers in ("float32", "bfloat16", "int8")]
    record(f"writing with GPT-2's design, {size}, one row", rates, pairs, unit="tokens/s",
           rounds=args.rounds)  # fmt: skip


class Watched(GPTModel):
    """The same model in a subclass, so that its modules are called: shows what the calls cost."""

    @classmethod
    def wrap(cls, model: GPTModel) -> GPTModel:
        twin = cls.__new__(cls)
        twin.__dict__.update(model.__dict__)
        return twin


def products(model: GPTModel, times: int, make: Callable[[nn.Linear], Product]) -> Case:
    """Return a function that multiplies each matrix of a model by a vector, `times` times."""
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    vectors = {layer.in_features: torch.randn(layer.in_features) for layer in layers}
    pairs = [(make(layer), vectors[layer.in_features]) for layer in layers]

    def run() -> None:
        for _ in range(times):
            for product, vector in pairs:
                product(vector)

    return run


def batch(args: argparse.Namespace) -> None:
    """Measure tokens per second of eight rows."""
    model, peer, ids, new = (
        make_model("124M", args),
        make_transformers("124M", args),
        prompt(8, 32),
        64,
    )
    mask = torch.ones_like(ids)
    cases: dict[str, Case] = {
        PEER: lambda: peer.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False),
        "ours, float32": lambda: generate(model, ids, new),
    }
    rates = report(alternate(cases, args.rounds), 8 * new, PEER)
    record("writing with GPT-2's design, 124M, eight rows", rates, [("ours, float32", PEER)],
           unit="tokens/s", rounds=args.rounds)  # fmt: skip


def prefill(args: argparse.Namespace) -> None:
    """Measure tokens per second of a prompt of 512, with one new token."""
    model, peer, ids = make_model("124M", args), make_transformers("124M", args), prompt(1, 512)
    cases: dict[str, Case] = {
        PEER: lambda: peer.generate(ids, max_new_tokens=1, do_sample=False),
        "ours, float32": lambda: generate(model, ids, 1),
    }
    rates = report(alternate(cases, args.rounds, turns=3), 512, PEER)
    record("reading 512 tokens with GPT-2's design, 124M", rates, [("ours, float32", PEER)],
           unit="tokens/s", rounds=args.rounds)  # fmt: skip


def alternate(cases: dict[str, Case], rounds: int, turns: int = 1) -> dict[str, list[float]]:
    """Return the seconds of every case in each round; rounds start with different cases."""
    for case in cases.values():
        case()  # the first call warms up
    times: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(min(seconds(cases[name]) for _ in range(turns)))
        print(f"round {turn + 1}", *(f"{t[-1]:.2f}" for t in times.values()), flush=True)
    return times


def seconds(case: Case) -> float:
    """Return the seconds that a case takes: what it reports itself, or what a clock shows."""
    start = time.perf_counter()
    found = case()
    return found if isinstance(found, float) else time.perf_counter() - start


def report(
    times: dict[str, list[float]], tokens: int, peer: str, limit: str | None = None
) -> dict[str, float]:
    """Print and return medians in tokens per second; the table has ratios to peer and limit."""
    medians = {name: statistics.median(runs) for name, runs in times.items()}
    print(f"\n| case | tokens/s | x {peer} | of the limit |\n|---|---|---|---|")
    for name, median in medians.items():
        of_limit = f"{medians[limit] / median:.0%}" if limit else ""
        print(f"| {name} | {tokens / median:.1f} | {medians[peer] / median:.2f} | {of_limit} |")
    return {name: tokens / median for name, median in medians.items()}


def memory(args: argparse.Namespace) -> None:
    """Print the peak of a process that loads the weights and generates, and of its imports."""
    print("| case | peak MB |\n|---|---|")
    for case in ("imports", "ours", "imports of transformers", "transformers", "ours, int8"):
        command = [sys.executable, __file__, "--peak", case, *(["--tiny"] if args.tiny else [])]
        child = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        print(f"| {case} | {float(child.stdout):,.0f} |", flush=True)


def peak_of(case: str, args: argparse.Namespace) -> float:
    """Generate once and return the most memory that this process has held, in MB."""
    ids = prompt(1, 32)
    if "transformers" in case:
        import transformers  # noqa: F401
    if case == "ours":
        generate(make_model("124M", args), ids, 128)
    elif case == "ours, int8":
        generate(quantize_int8(make_model("124M", args)), ids, 128)
    elif case == "transformers":
        make_transformers("124M", args).generate(ids, max_new_tokens=128, do_sample=False)
    return peak_memory()


def quality(args: argparse.Namespace) -> None:
    """Print the perplexity, in three precisions, of a model trained here on a text."""
    from llm_scratch.files import read_text
    from llm_scratch.text.corpora import find_data
    from llm_scratch.training.losses import next_token_loss

    try:
        text = read_text(find_data("tinyshakespeare"))
    except FileNotFoundError:
        text = read_text(find_data("the-tide-clock"))
    ids = torch.tensor(list(text.encode("utf-8")))
    border = int(0.9 * len(ids))
    model = trained(ids[:border], steps=20 if args.tiny else 600)
    count = min(64, (len(ids) - border - 1) // 128)
    windows = ids[border:][: count * 128 + 1]
    inputs, targets = windows[:-1].view(count, 128), windows[1:].view(count, 128)
    print("| case | perplexity | change from float32 |\n|---|---|---|")
    first = None
    for name, variant in (
        ("float32", model),
        ("bfloat16", GPTModel(model.cfg).bfloat16()),
        ("int8", quantize_int8(model)),
    ):
        if name == "bfloat16":
            variant.load_state_dict(model.state_dict())
        loss, tokens = next_token_loss(variant.eval(), inputs, targets)
        perplexity = math.exp(float(loss) / float(tokens))
        first = first or perplexity
        print(f"| {name} | {perplexity:.4f} | {perplexity / first - 1:+.3%} |", flush=True)


@torch.enable_grad()
def trained(ids: torch.Tensor, steps: int) -> GPTModel:
    """Return a byte-level model of 4 layers and width 192, trained on random windows."""
    from llm_scratch.training.losses import calc_loss_batch

    torch.manual_seed(123)
    config = gpt2_config("124M")
    sizes = {"vocab_size": 256, "context_length": 128, "emb_dim": 192, "n_heads": 6, "n_layers": 4}
    model = GPTModel({**config, **sizes, "tie_weights": True})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, fused=True)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 129, (16, 1))
        windows = ids[starts + torch.arange(129)]
        loss = calc_loss_batch(windows[:, :-1], windows[:, 1:], model, "cpu")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"trained {steps} steps, last loss {loss.item():.3f}", flush=True)
    return model.eval()


if __name__ == "__main__":
    main()
