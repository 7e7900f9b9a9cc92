"""Estimates of memory against tracked tensors, at full size but without allocating memory.

    python benchmarks/memory_estimates.py            about 20 minutes on two cores
    python benchmarks/memory_estimates.py --quick    small models only

For each of about sixty training steps, from GPT-2 124M to 8 billion parameters, this compares the
peak that `memory estimate` computes from formulas with the one that `memory check` finds by
PyTorch's tracker and fake tensors, on a CPU. The formulas were written from the same code, so a
difference is a mistake in one of the two. Bars: the median at most 2 %, the worst at most 6 %.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from results import record_estimates

from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.models import model_config
from llm_scratch.memory.step import TrainingStep
from llm_scratch.training.division import Division

MEDIAN, WORST = 2.0, 6.0  # per cent
FULL, STATES = Division("full"), Division("optimizer")
KEPT = Division("full", reshard=False)
ELSEWHERE = Division("full", offload=True)
BF16, F16 = {"precision": "bfloat16"}, {"precision": "float16"}
AGAIN = {"checkpoint_blocks": 1}
EXPERTS: dict[str, Any] = {
    **{"vocab_size": 32_000, "context_length": 2048, "emb_dim": 768, "n_heads": 12, "n_layers": 4},
    **{"n_kv_groups": 4, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512},
}
WINDOW: dict[str, Any] = {
    **{"vocab_size": 32_000, "context_length": 2048, "emb_dim": 1024, "n_heads": 16},
    **{"n_layers": 8, "n_kv_groups": 4, "hidden_dim": 3584, "sliding_window": 512},
}
BOOK: dict[str, Any] = {
    **{"vocab_size": 50_257, "context_length": 1024, "emb_dim": 768, "n_heads": 12},
    **{"n_layers": 12, "drop_rate": 0.1},
}
Case = tuple[str, Any, dict[str, Any]]


def small() -> Iterator[Case]:
    """Yield cases with models of up to 200 million parameters."""
    for rows, length in ((1, 128), (1, 1024), (4, 256), (8, 1024)):
        yield "gpt2", "gpt2", {"rows": rows, "length": length}
    yield "gpt2", "gpt2", {"rows": 4, "length": 1024, **BF16}
    yield "gpt2", "gpt2", {"rows": 4, "length": 1024, **F16, **AGAIN}
    yield "gpt2", "gpt2", {"rows": 8, "length": 512, **AGAIN}
    yield "gpt2", "gpt2", {"rows": 8, "length": 512, "checkpoint_blocks": 3}
    yield "gpt2", "gpt2", {"rows": 2, "length": 1024, "weights": "bfloat16"}
    yield "gpt2", "gpt2", {"rows": 2, "length": 1024, "attention": "by-hand"}
    yield "gpt2", "gpt2", {"rows": 2, "length": 512, "loss_chunk": None}
    yield "gpt2", "gpt2", {"rows": 4, "length": 1024, "loss_chunk": 128}
    yield "gpt2", "gpt2", {"rows": 2, "length": 256, "accumulation": 4}
    yield "gpt2", "gpt2", {"rows": 1, "length": 64, "optimizer": "muon"}
    yield "gpt2", "gpt2", {"rows": 4, "length": 256, "lora_rank": 16}
    yield "gpt2", "gpt2", {"rows": 4, "length": 256, "last_blocks": 2}
    for ranks in (2, 8, 64):
        yield "gpt2", "gpt2", {"rows": 2, "length": 512, "ranks": ranks, "division": FULL}
        yield "gpt2", "gpt2", {"rows": 1, "length": 256, "ranks": ranks, "division": STATES}
    yield "gpt2", "gpt2", {"rows": 2, "length": 256, "ranks": 4}
    yield "gpt2", "gpt2", {"rows": 2, "length": 256, "ranks": 4, "division": KEPT}
    yield "gpt2", "gpt2", {"rows": 2, "length": 256, "ranks": 4, "division": ELSEWHERE}
    mesh = Division("full", mesh=(2, 4))
    yield "gpt2", "gpt2", {"rows": 2, "length": 256, "ranks": 8, "division": mesh}
    yield "the book's", BOOK, {"rows": 2, "length": 1024}
    yield "the book's", BOOK, {"rows": 4, "length": 256, **BF16}
    yield "the book's", BOOK, {"rows": 2, "length": 1024, **AGAIN}
    for options in ({}, BF16, {**BF16, **AGAIN}, {"weights": "bfloat16"}, {"lora_rank": 8}):
        yield "smollm2", "smollm2", {"rows": 2, "length": 1024, **options}
    yield "smollm2", "smollm2", {"rows": 1, "length": 2048, "ranks": 16, "division": FULL}
    for options in ({}, {**BF16, **AGAIN}):
        yield "8 experts", EXPERTS, {"rows": 1, "length": 1024, **options}
    yield "window of 512", WINDOW, {"rows": 1, "length": 1024}


def large() -> Iterator[Case]:
    """Yield cases with models of 355 million to 8 billion parameters."""
    yield "gpt2-medium", "gpt2-medium", {"rows": 4, "length": 1024}
    yield "gpt2-medium", "gpt2-medium", {"rows": 4, "length": 1024, **BF16, **AGAIN}
    yield "gpt2-large", "gpt2-large", {"rows": 2, "length": 1024, **BF16}
    yield "gpt2-xl", "gpt2-xl", {"rows": 1, "length": 1024}
    yield "gpt2-xl", "gpt2-xl", {"rows": 2, "length": 1024, "ranks": 8, "division": FULL}
    for name in ("qwen1.5-0.5b", "qwen3-0.6b", "qwen3-1.7b", "llama3.2-1b"):
        yield name, name, {"rows": 1, "length": 2048}
        yield name, name, {"rows": 2, "length": 2048, **BF16, **AGAIN}
    yield "qwen3-0.6b", "qwen3-0.6b", {"rows": 1, "length": 1024, "lora_rank": 16, **BF16}
    yield "llama3.2-3b", "llama3.2-3b", {"rows": 1, "length": 1024, **BF16}
    yield "qwen3-4b", "qwen3-4b", {"rows": 1, "length": 1024, "ranks": 4, "division": STATES}
    yield "llama2-7b", "llama2-7b", {"rows": 1, "length": 2048, **BF16, "lora_rank": 16}
    eight = {"ranks": 8, "division": FULL}
    yield "llama3-8b", "llama3-8b", {"rows": 1, "length": 2048, **eight}
    yield "llama3-8b", "llama3-8b", {"rows": 4, "length": 2048, **eight, **BF16, **AGAIN}
    yield "llama3-8b", "llama3-8b", {"rows": 2, "length": 2048, "weights": "bfloat16", **AGAIN}
    yield "llama3.1-8b", "llama3.1-8b", {"length": 8192, "ranks": 64, "division": FULL, **AGAIN}
    yield "qwen3-8b", "qwen3-8b", {"rows": 1, "length": 2048, **eight, **BF16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small models only")
    parser.add_argument("--out", metavar="FILE", help="write the table as CSV")
    args = parser.parse_args()
    import torch

    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    print("| model | step | estimated MiB | tracked MiB | difference | s |")
    print("|---|---|---|---|---|---|")
    rows = []
    for name, source, options in (*small(), *(() if args.quick else large())):
        rows.append(measured(name, source, options))
        print(as_line(rows[-1]), flush=True)
    if args.out:
        with open(args.out, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    found = [(row["estimated"], row["followed"]) for row in rows]
    record_estimates("the peak memory of a training step", "PyTorch's tracker", found)
    sys.exit(report([row["difference"] for row in rows]))


def measured(name: str, source: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return both peaks of a step, and their difference."""
    from llm_scratch.memory.tracking import track_step

    step = TrainingStep(model_config(source), device="cpu", **options)
    estimated, tracked = estimate_memory(step).bytes, track_step(step)
    return {
        "model": name,
        "step": ", ".join(f"{key} {shown(value)}" for key, value in options.items()),
        "estimated": estimated,
        "followed": tracked.peak,
        "difference": 100 * (estimated / tracked.peak - 1),
        "seconds": round(tracked.seconds, 1),
    }


def shown(value: Any) -> str:
    """Return a value as text, a division in words."""
    if not isinstance(value, Division):
        return str(value)
    words = [value.shard, *(["kept"] if not value.reshard else [])]
    words += ["offloaded"] if value.offload else []
    return " ".join(words + ([f"{value.mesh[0]}x{value.mesh[1]}"] if value.mesh else []))


def as_line(row: dict[str, Any]) -> str:
    return (
        f"| {row['model']} | {row['step']} | {row['estimated'] / 2**20:,.0f} | "
        f"{row['followed'] / 2**20:,.0f} | {row['difference']:+.2f} % | {row['seconds']} |"
    )


def report(differences: list[float]) -> int:
    """Print median and worst difference; return 1 if a bar is missed, else 0."""
    sizes = [abs(difference) for difference in differences]
    median, worst = statistics.median(sizes), max(sizes)
    print(
        f"\n{len(sizes)} steps: median difference {median:.2f} % (bar {MEDIAN:g}), "
        f"worst {worst:.2f} % (bar {WORST:g})"
    )
    return int(median > MEDIAN or worst > WORST)


if __name__ == "__main__":
    main()
