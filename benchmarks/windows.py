"""Training windows as views against windows stored as tensors, the book's design.

    python benchmarks/windows.py

takes about two minutes on two cores, on Linux or macOS. `--stride 1` stores every window (a
gigabyte, and some minutes more). All figures are medians of five rounds in which the two designs
alternate. Building is measured in a fresh process each time; its memory is the growth of the peak.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from results import record
from torch.utils.data import DataLoader, Dataset

from llm_scratch.text.windows import TokenWindows, create_dataloader_v1
from llm_scratch.training.memory_log import resident_peak

ROUNDS = 5
LENGTH = 256
VOCAB_SIZE = 50_257
N_LARGE = 5_000_000
N_SMALL = 200_000


class StoredWindows(Dataset):
    """The yardstick: every window and its target as tensors of their own, made in advance."""

    def __init__(self, ids: list[int], stride: int) -> None:
        self.pairs = [
            (torch.tensor(ids[i : i + LENGTH]), torch.tensor(ids[i + 1 : i + 1 + LENGTH]))
            for i in range(0, len(ids) - LENGTH, stride)
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pairs[index]


class Numbers:
    """A tokenizer for a text of numbers, so that tokenizing is not measured."""

    def encode(self, text: str) -> list[int]:
        return [int(number) for number in text.split()]


def random_ids(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, n)


def build(design: str, n: int, kind: str, stride: int) -> tuple[float, int]:
    """Return the seconds and the bytes of memory for building windows from ready ids."""
    ids: Any = random_ids(n)
    ids = ids.tolist() if kind == "list" else ids.astype(kind)
    memory = resident_peak()
    start = time.perf_counter()
    kept = StoredWindows(ids, stride) if design == "stored" else TokenWindows(ids, LENGTH, stride)
    seconds = time.perf_counter() - start
    del kept
    return seconds, resident_peak() - memory


def build_alone(*case: Any) -> tuple[float, int]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(build, *case).result()


def batches_per_second(loader: DataLoader) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in loader)
    return count / (time.perf_counter() - start)


def alternating(arms: dict[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    results: dict[str, list[Any]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, run in arms.items():
            results[name].append(run())
    return results


def median_build(runs: list[tuple[float, int]]) -> tuple[float, float]:
    seconds, memory = zip(*runs, strict=True)
    return statistics.median(seconds), statistics.median(memory) / 2**20


def report_building(stride: int) -> None:
    print(f"Building windows of {LENGTH} tokens\n")
    print("| design | ids | stride | seconds | MiB | MiB of the ids |")
    print("|---|---|---|---|---|---|")
    for kind in ("int64", "uint16"):
        runs = [build_alone("views", N_LARGE, kind, 1) for _ in range(ROUNDS)]
        seconds, memory = median_build(runs)
        own = N_LARGE * np.dtype(kind).itemsize / 2**20
        ids = f"{N_LARGE:,} in a {kind} array"
        print(f"| views | {ids} | 1 | {seconds:.4f} | {memory:.1f} | {own:.1f} |")
    runs_of = alternating(
        {
            design: lambda design=design: build_alone(design, N_SMALL, "list", stride)
            for design in ("stored", "views")
        }
    )
    medians = {design: median_build(runs) for design, runs in runs_of.items()}
    for design, (seconds, memory) in medians.items():
        print(f"| {design} | {N_SMALL:,} in a list | {stride} | {seconds:.4f} | {memory:.1f} | |")
    print(f"\nviews are built {medians['stored'][0] / medians['views'][0]:.0f} times as fast\n")


def report_batches(stride: int) -> None:
    ids = random_ids(N_SMALL).tolist()
    text = " ".join(map(str, ids))
    stored = StoredWindows(ids, stride)
    print(f"Batches per second, {len(stored):,} windows of {LENGTH} tokens, shuffled\n")
    print("| batch | stored | views | ratio | ratio of each round |")
    print("|---|---|---|---|---|")
    for size in (4, 32):
        theirs = DataLoader(stored, batch_size=size, shuffle=True, drop_last=True)
        ours = create_dataloader_v1(
            text, batch_size=size, max_length=LENGTH, stride=stride, tokenizer=Numbers()
        )
        rates = alternating(
            {
                "stored": lambda loader=theirs: batches_per_second(loader),
                "views": lambda loader=ours: batches_per_second(loader),
            }
        )
        medians = {name: statistics.median(values) for name, values in rates.items()}
        each = [b / a for a, b in zip(rates["stored"], rates["views"], strict=True)]
        print(
            f"| {size} | {medians['stored']:,.0f} | {medians['views']:,.0f} "
            f"| {medians['views'] / medians['stored']:.2f} "
            f"| {' '.join(f'{ratio:.2f}' for ratio in each)} |"
        )
        named = {"ours": medians["views"], "windows stored as tensors": medians["stored"]}
        record(f"training windows in batches of {size}", named, [tuple(named)],
               unit="batches/s", rounds=ROUNDS)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=8, help="for the stored windows; default: 8")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    report_building(args.stride)
    report_batches(args.stride)


if __name__ == "__main__":
    main()
