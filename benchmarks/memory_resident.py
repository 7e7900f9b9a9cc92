"""The memory that a training step really holds on this machine, against its estimate.

    python benchmarks/memory_resident.py                 12 settings, about 20 minutes on two cores
    python benchmarks/memory_resident.py --only 2 9      some of them
    python benchmarks/memory_resident.py --by tracker    against PyTorch's tracker instead

Models of the sizes of GPT-2 124M and SmolLM2, with random weights and ids, take steps of the loop
for real runs, each setting in its own process. What is compared is the peak resident memory above
that of the process before the model (after a step of a tiny model), with the allocator

- left alone: memory freed in small pieces stays with the process, whether or not it is reused,
- with MALLOC_MMAP_THRESHOLD_=65536: freed tensors above 64 KiB go back to the system,

and without `tune_allocator`, which keeps freed memory on purpose. Bars: the median difference
within 10 %, the largest within 20 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

from results import record_estimates

from llm_scratch.memory.models import model_config
from llm_scratch.memory.outcomes import OK
from llm_scratch.memory.point import Point
from llm_scratch.memory.starts import Starts
from llm_scratch.memory.step import TrainingStep

MEDIAN, WORST = 0.10, 0.20
MIB = 2**20
WAYS = {"left alone": {}, "mmap above 64 KiB": {"MALLOC_MMAP_THRESHOLD_": "65536"}}
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gpt2", {"rows": 1, "length": 1024}),
    ("gpt2", {"rows": 4, "length": 256}),
    ("gpt2", {"rows": 8, "length": 64, "loss_chunk": None}),
    ("gpt2", {"rows": 2, "length": 512, "checkpoint_blocks": 1}),
    ("gpt2", {"rows": 1, "length": 512, "lora_rank": 16}),
    ("gpt2", {"rows": 2, "length": 128, "optimizer": "muon"}),
    ("gpt2", {"rows": 1, "length": 256, "accumulation": 2, "loss_chunk": 128}),
    ("smollm2", {"rows": 1, "length": 512}),
    ("smollm2", {"rows": 4, "length": 128}),
    ("smollm2", {"rows": 1, "length": 1024, "checkpoint_blocks": 1}),
    ("smollm2", {"rows": 2, "length": 256, "loss_chunk": None}),
    ("smollm2", {"rows": 1, "length": 512, "last_blocks": 4, "optimizer": "muon"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = range(1, len(CASES) + 1)
    parser.add_argument("--only", type=int, nargs="*", choices=numbers, default=[*numbers])
    parser.add_argument("--steps", type=int, default=1, help="steps after two for warm-up")
    parser.add_argument("--by", choices=("estimate", "tracker"), default="estimate")
    args = parser.parse_args()
    facts = Starts().facts("cpu")
    print(f"{facts['device_name']}, {facts['processors']} threads, torch {facts['torch']}")
    print(f"resident MiB above the imports, and the difference of the {args.by}")
    print(f"{'':2}  {args.by:>9}" + "".join(f"  {way:>26}" for way in WAYS))
    found: dict[str, list[tuple[int, int]]] = {way: [] for way in WAYS}
    for number in args.only:
        model, options = CASES[number - 1]
        step = TrainingStep(without_dropout(model_config(model)), device="cpu", **options)
        measure_case(number, Point(step, model, steps=args.steps), args.by, found)
    good = [report(way, pairs) for way, pairs in found.items()]
    if args.by == "estimate" and len(args.only) == len(CASES):
        for way, pairs in found.items():
            record_estimates("the resident memory of a step", f"measured, allocator {way}", pairs)
    sys.exit(0 if all(good) else 1)


def without_dropout(cfg: Any) -> Any:
    """Return a configuration without dropout."""
    return replace(cfg, drop_rate=0.0) if "drop_rate" in cfg else cfg


def measure_case(
    number: int, point: Point, by: str, found: dict[str, list[tuple[int, int]]]
) -> None:
    """Print one setting, and note its expected and measured bytes for each way of allocating."""
    expected = expected_of(point.step, by)
    print(f"{number:2}  {expected / MIB:9,.0f}", end="", flush=True)
    for way, environment in WAYS.items():
        results = Starts(environment=environment).measure(point)
        if results["state"] != OK:
            sys.exit(f"\nnot measured: {results['reason']}")
        measured = results["resident_max"]
        found[way].append((expected, measured))
        print(f"  {measured / MIB:16,.0f} {expected / measured - 1:+9.1%}", end="", flush=True)
    shown = ", ".join(f"{name} {value}" for name, value in CASES[number - 1][1].items())
    print(f"  {point.model}: {shown}")


def expected_of(step: TrainingStep, by: str) -> int:
    """Return the expected bytes at the peak."""
    if by == "tracker":
        from llm_scratch.memory.tracking import track_step

        return track_step(step).peak
    from llm_scratch.memory.estimate import estimate_memory

    return estimate_memory(step).bytes


def report(way: str, pairs: list[tuple[int, int]]) -> bool:
    """Print median and worst difference; return whether both are within the bars."""
    sizes = [abs(expected / measured - 1) for expected, measured in pairs]
    middle, worst = statistics.median(sizes), max(sizes)
    good = middle <= MEDIAN and worst <= WORST
    print(f"{way}: median {middle:.1%} (bar {MEDIAN:.0%}), worst {worst:.1%} (bar {WORST:.0%})")
    return good


if __name__ == "__main__":
    main()
