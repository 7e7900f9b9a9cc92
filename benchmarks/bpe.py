"""Byte-pair encoding in plain Python against tiktoken and `tokenizers`, which are written in Rust.

    python benchmarks/bpe.py

takes about half a minute on two cores. It needs `tokenizers` and a megabyte of English text
(`llm-scratch fetch tinyshakespeare`, or --text). All figures are medians of five rounds in which
the libraries alternate, in one process and, for encoding, on one thread. A ratio is the median of
the rounds' ratios. Every comparison first checks that both sides give the same result.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # the peer may use all cores to train

import tiktoken
import tokenizers
from results import record
from tokenizers import models, pre_tokenizers, trainers

from llm_scratch.files import read_text
from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.bpe import BytePairTokenizer

ROUNDS = 5
VOCAB_SIZE = 5000
LONG_PIECE = "a" * 200_000


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternating(arms: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of each arm in each round; the order is reversed every other round."""
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(ROUNDS):
        names = list(arms) if number % 2 == 0 else list(reversed(arms))
        for name in names:
            taken[name].append(seconds(arms[name]))
    return taken


def train_theirs(text: str, vocab_size: int) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer)
    return theirs


def train_ours(text: str, vocab_size: int) -> BytePairTokenizer:
    return BytePairTokenizer.train(text, vocab_size, (), progress=False)


def report_training(text: str, vocab_size: int) -> None:
    tokens = train_theirs(text, vocab_size).get_vocab_size()
    assert train_ours(text, vocab_size).n_vocab == tokens, "the trainers differ"
    taken = alternating(
        {
            "tokenizers (Rust)": lambda: train_theirs(text, vocab_size),
            "ours": lambda: train_ours(text, vocab_size),
        }
    )
    peer = taken["tokenizers (Rust)"]
    print(f"Training {vocab_size:,} tokens on {megabytes(text):.2f} MB\n")
    print("| trainer | seconds | times the peer's | each round |")
    print("|---|---|---|---|")
    for name, values in taken.items():
        ratios = [value / other for value, other in zip(values, peer, strict=True)]
        print(f"| {name} | {statistics.median(values):.3f} | {summary(ratios)} |")
    medians = {name: statistics.median(values) for name, values in taken.items()}
    record(f"training {vocab_size:,} tokens on {megabytes(text):.1f} MB", medians,
           [("ours", "tokenizers (Rust)")], unit="s", rounds=ROUNDS, less=True)  # fmt: skip
    print()


def report_encoding(text: str) -> None:
    ours = BytePairTokenizer.gpt2()
    theirs = ours.to_tiktoken()
    assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)

    def cold() -> None:
        ours._cache.clear()
        ours.encode_ordinary(text)

    taken = alternating(
        {
            "tiktoken (Rust)": lambda: theirs.encode_ordinary(text),
            "ours, cold": cold,
            "ours, warm": lambda: ours.encode_ordinary(text),
        }
    )
    peer = taken["tiktoken (Rust)"]
    print(f"Encoding {megabytes(text):.2f} MB with GPT-2's vocabulary, one thread\n")
    print("| encoder | MB/s | of the peer's | each round |")
    print("|---|---|---|---|")
    for name, values in taken.items():
        ratios = [other / value for value, other in zip(values, peer, strict=True)]
        rate = megabytes(text) / statistics.median(values)
        print(f"| {name} | {rate:.2f} | {summary(ratios)} |")
    rates = {name: megabytes(text) / statistics.median(each) for name, each in taken.items()}
    pairs = [(name, "tiktoken (Rust)") for name in ("ours, cold", "ours, warm")]
    record("encoding with GPT-2's vocabulary", rates, pairs, unit="MB/s", rounds=ROUNDS)
    print()


def report_long_piece() -> None:
    ours = BytePairTokenizer.gpt2()
    assert ours.encode(LONG_PIECE) == ours.to_tiktoken().encode(LONG_PIECE)
    taken = [seconds(lambda: ours.encode(LONG_PIECE)) for _ in range(ROUNDS)]
    print(f"One piece of {len(LONG_PIECE):,} equal letters: {statistics.median(taken):.3f} s")


def megabytes(text: str) -> float:
    return len(text.encode()) / 1e6


def summary(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} | {' '.join(f'{ratio:.2f}' for ratio in ratios)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a UTF-8 file; default: tinyshakespeare")
    args = parser.parse_args()
    text = read_text(args.text) if args.text else load_text("tinyshakespeare")
    versions = f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}"
    print(f"Python {sys.version.split()[0]}, {versions}\n")
    report_training(text, VOCAB_SIZE)
    report_encoding(text)
    report_long_piece()


if __name__ == "__main__":
    main()
