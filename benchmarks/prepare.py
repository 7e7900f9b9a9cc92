"""Token files against the usual way: read it all, encode it with tiktoken, write an array.

    python benchmarks/prepare.py

takes about a minute on two cores and 200 MB of disk. It needs a megabyte of English text
(`llm-scratch fetch tinyshakespeare`, or --text), which is repeated up to --megabytes. The usual way
holds all ids as a list, about 12 bytes per byte of text, and gets only --peer-megabytes. Each way
runs in its own process, and so has its own peak memory. Both must write the same ids. `--megabytes
1000 --rounds 1` is the large run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import record

from llm_scratch.text.corpora import find_data
from llm_scratch.text.token_file import TokenFile

ROWS, LENGTH = 8, 1024

# Both print the seconds of the work alone, and the peak of the whole process, imports included.
WAYS = {
    "ours": """
from llm_scratch.tokenizers.bpe_open import open_tokenizer
from llm_scratch.text.token_file import write_tokens
tokenizer = open_tokenizer("gpt2")
start = time.perf_counter()
write_tokens(target, source, tokenizer, progress=False)
""",
    "all at once": """
import numpy
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer  # tiktoken, with this library's table
tokenizer = GPT2Tokenizer()._encoding
start = time.perf_counter()
text = source.read_bytes().decode("utf-8")
numpy.array(tokenizer.encode_ordinary(text), dtype=numpy.uint16).tofile(target)
""",
}
FRAME = """
import resource, sys, time
from pathlib import Path
source, target = map(Path, sys.argv[1:])
{way}
print(time.perf_counter() - start)
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def measure(way: str, source: Path, target: Path) -> tuple[float, float]:
    """Run one way in its own process; return its seconds and its peak memory in bytes."""
    command = [sys.executable, "-c", FRAME.format(way=WAYS[way]), str(source), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def repeat(source: Path, target: Path, megabytes: int) -> None:
    """Repeat a text until the target has that many megabytes."""
    data, missing = source.read_bytes(), megabytes * 10**6
    with open(target, "wb") as file:
        while missing > 0:
            missing -= file.write(data)


def report_writing(text: Path, folder: Path, args: argparse.Namespace) -> Path:
    """Print speed and memory of both ways; return our file."""
    sizes = {"ours": args.megabytes, "all at once": min(args.megabytes, args.peer_megabytes)}
    sources, targets = {}, {}
    for way, megabytes in sizes.items():
        sources[way] = folder / f"{megabytes}.txt"
        targets[way] = folder / f"{way}.bin"
        repeat(text, sources[way], megabytes)
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(args.rounds):
        for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
            results[way].append(measure(way, sources[way], targets[way]))
    theirs = np.fromfile(targets["all at once"], dtype=np.uint16)[:-1000]  # ends differ
    assert np.array_equal(TokenFile(targets["ours"]).tokens[: len(theirs)], theirs)
    print("| way | text, MB | MB/s | peak memory, MB |")
    print("|---|---|---|---|")
    for way, taken in results.items():
        megabytes = sources[way].stat().st_size / 1e6
        rate = statistics.median(megabytes / seconds for seconds, _ in taken)
        peak = max(peak for _, peak in taken) / 1e6
        print(f"| {way} | {megabytes:.0f} | {rate:.1f} | {peak:.0f} |")
    rates = {
        way: statistics.median(sources[way].stat().st_size / 1e6 / seconds for seconds, _ in taken)
        for way, taken in results.items()
    }
    record("writing a token file", rates, [("ours", "all at once")], unit="MB/s",
           rounds=args.rounds)  # fmt: skip
    return targets["ours"]


def milliseconds(run: Callable[[int], Any], times: int) -> float:
    """Return the median time of a call, in milliseconds."""
    taken = []
    for number in range(times):
        start = time.perf_counter()
        run(number)
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken)


def report_reading(path: Path) -> None:
    """Print the times for opening the file and for cutting a batch."""
    file = TokenFile(path)
    train, _ = file.split(min_tokens=LENGTH + 1)
    array = np.memmap(path, file.tokens.dtype, "r", 128, (len(train),))

    def crops(step: int) -> None:  # the usual way: random places, with gaps and repeats
        places = torch.randint(len(array) - LENGTH, (ROWS,)).tolist()
        for shift in (0, 1):
            cuts = (array[p + shift : p + shift + LENGTH].astype(np.int64) for p in places)
            torch.stack([torch.from_numpy(cut) for cut in cuts])

    start = time.perf_counter()
    file.verify()
    print(f"\nOpening {path.stat().st_size / 1e6:.0f} MB, {len(file):,} tokens:", end=" ")
    print(f"{milliseconds(lambda _: TokenFile(path), 20):.2f} ms;", end=" ")
    print(f"verifying: {time.perf_counter() - start:.1f} s")
    ours = milliseconds(lambda step: train.batch(0, step, ROWS, LENGTH), 500)
    print(f"A batch of {ROWS} x {LENGTH}: {ours:.3f} ms;", end=" ")
    print(f"random crops: {milliseconds(crops, 500):.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a UTF-8 file; default: tinyshakespeare")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--peer-megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = report_writing(args.text or find_data("tinyshakespeare"), Path(folder), args)
        report_reading(path)


if __name__ == "__main__":
    main()
