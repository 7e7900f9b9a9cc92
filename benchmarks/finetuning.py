"""Instruction tuning: real tokens per second with the book's batches and ours, in one run.

    python benchmarks/finetuning.py                    about fifteen minutes on two cores
    python benchmarks/finetuning.py --rounds 1 --steps 4 --batches 8    to try the script

The data is the book's instructions (`llm-scratch fetch instruction-data`; without them, this
project's own) in GPT-2's tokens. "the book's" pads a random batch to its longest text. "buckets"
are `TokenRows`, which group rows of about the same length. "packing" puts several rows, invisible
to each other, into one of 256 tokens (`PackedRows`). "no padding" is the limit: as many real tokens
in full rows. "everything" is the loop's own step on buckets: head and loss in chunks, clipping,
freed memory kept.

All have the same model, fused AdamW and loss over the same targets, in float32 without dropout. A
real token is one that is not padding. In each round, all cases take steps over as many rows;
medians count. benchmarks/finetuning_memory.py measures the peak memory of LoRA and full
fine-tuning.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from results import record
from torch import Tensor

from llm_scratch.finetuning.instruction_rows import instruction_rows
from llm_scratch.finetuning.instructions import (
    InstructionDataset,
    custom_collate_fn,
    load_instructions,
)
from llm_scratch.model.config import gpt2_config
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.corpora import find_data
from llm_scratch.text.packed_rows import PackedRows
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.training.allocator import keep_freed_memory
from llm_scratch.training.optimizers import build_optimizers
from llm_scratch.training.steps import Engine, take_step

SIZES: dict[str, dict[str, int]] = {
    "small": {"emb_dim": 384, "n_heads": 6, "n_layers": 6},
    "124M": {},
}
PACK = 256
BOOK = "the book's"
Batch = tuple[Tensor, ...]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="batches per turn")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], metavar="ROWS")
    parser.add_argument("--size", choices=SIZES, default="small")
    args = parser.parse_args()
    entries, tokenizer = read_entries(), GPT2Tokenizer()
    print(f"{platform.machine()}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{len(entries)} entries, model {args.size}")
    for rows in args.batches:
        run_size(entries, tokenizer, rows, args)


def read_entries() -> list[dict[str, Any]]:
    try:
        return load_instructions(find_data("instruction-data.json"))
    except FileNotFoundError:
        return load_instructions(find_data("instructions.json"))


def run_size(entries: Any, tokenizer: Any, rows: int, args: argparse.Namespace) -> None:
    """Time every case with batches of `rows` rows, and print and record a table."""
    book = InstructionDataset(entries, tokenizer)
    ours = instruction_rows(entries, tokenizer, answer_only=False, max_length=PACK)
    packs = PackedRows(ours, PACK)
    real = sum(len(ids) for ids in book.encoded_texts) / len(book)  # per row
    packed_rows = max(1, round(rows * real / PACK))
    cases: dict[str, Callable[[int], Iterator[Batch]]] = {
        BOOK: lambda seed: book_batches(book, rows, seed),
        "buckets": lambda seed: our_batches(ours, rows, seed),
        "packing": lambda seed: our_batches(packs, packed_rows, seed),
        "no padding": lambda seed: full_batches(rows, round(real), seed),
        "everything": lambda seed: our_batches(ours, rows, seed),
    }
    steps = {name: plain_step(args.size) for name in list(cases)[:-1]}
    steps["everything"] = loop_step(args.size)
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    padding: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(args.rounds + 1):  # the first round warms up
        names = list(cases)[number % len(cases) :] + list(cases)[: number % len(cases)]
        for name in names:
            batches = cases[name](number)
            chosen = [next(batches) for _ in range(args.steps)]
            start = time.perf_counter()
            for batch in chosen:
                steps[name](batch)
            seconds = time.perf_counter() - start
            tokens = sum(real_tokens(batch) for batch in chosen)
            places = sum(batch[0].numel() for batch in chosen)
            if number:
                speeds[name].append(tokens / seconds)
                padding[name].append(1 - tokens / places)
    print(f"\n## batches of {rows}\n")
    print("| | real tokens/s | x the book's | of no padding | padding |\n|---|---|---|---|---|")
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in medians.items():
        print(
            f"| {name} | {speed:.0f} | {speed / medians[BOOK]:.2f} "
            f"| {speed / medians['no padding']:.2f} | {statistics.mean(padding[name]):.1%} |"
        )
    pairs = [(name, BOOK) for name in ("buckets", "packing", "everything")]
    record(f"instruction tuning, batches of {rows}", medians, pairs, unit="real tokens/s",
           rounds=args.rounds)  # fmt: skip


def real_tokens(batch: Batch) -> int:
    """Return the number of tokens that are not padding: each has a target here."""
    return int((batch[1] != -100).sum())


def book_batches(data: InstructionDataset, rows: int, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data), generator=generator).tolist()
        for start in range(0, len(order) - rows + 1, rows):
            yield custom_collate_fn([data[i] for i in order[start : start + rows]])


def our_batches(data: Any, rows: int, seed: int) -> Iterator[Batch]:
    step = 0
    while True:
        yield data.batch(seed, step, rows, PACK)
        step += 1


def full_batches(rows: int, length: int, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        ids = torch.randint(50257, (rows, length + 1), generator=generator)
        yield ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def make_model(size: str) -> GPTModel:
    torch.manual_seed(123)
    return GPTModel({**gpt2_config("124M"), **SIZES[size], "tie_weights": True}).train()


def plain_step(size: str) -> Callable[[Batch], None]:
    """Return a plain step: forward, loss over all logits, backward, fused AdamW."""
    model = make_model(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1, fused=True)

    def step(batch: Batch) -> None:
        inputs, targets, *places = batch
        options = dict(zip(("positions", "attention_mask"), places, strict=False))
        logits = model(inputs, **options).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def loop_step(size: str) -> Callable[[Batch], None]:
    """Return a step of the loop for real runs."""
    keep_freed_memory()
    model = make_model(size)
    engine = Engine(model, build_optimizers(model, 5e-5), torch.device("cpu"))
    return lambda batch: take_step(engine, [batch], 5e-5, 1.0, 0)


if __name__ == "__main__":
    main()
