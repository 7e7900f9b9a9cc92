"""A large text prepared in parts by one process and by several, with a check of the parts.

    python benchmarks/preparing.py

takes about three minutes on two cores and 300 MB of disk. It needs a megabyte of English text
(`llm-scratch fetch tinyshakespeare`, or --text), which is repeated up to --megabytes. Each copy is
numbered, so that no two are the same. Each way is timed as a command, which includes starting its
processes. The memory is that of the largest process. All ways must give the ids of a single file.
`--megabytes 2000 --rounds 1` is the large run.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import record

from llm_scratch.text.corpora import find_data
from llm_scratch.text.token_file import TokenFile

AT_ONCE = 1 << 24  # ids compared at a time
MEASURED = """
import resource, sys
from llm_scratch.cli import main
if __name__ == "__main__":
    status = main(sys.argv[1:])
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak = max(resource.getrusage(who).ru_maxrss for who in (own, children))
    print(peak * unit)
    sys.exit(status)
"""


def repeat(source: Path, target: Path, megabytes: int) -> None:
    """Write numbered copies of a text until the target has that many megabytes."""
    data, missing, number = source.read_bytes(), megabytes * 10**6, 0
    with open(target, "wb") as file:
        while missing > 0:
            number += 1
            missing -= file.write(b"\n\nCopy %d.\n\n" % number + data)


def measure(script: Path, text: Path, out: Path, words: list[str]) -> tuple[float, float]:
    """Return the seconds of a command and the bytes of its largest process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(script), "prepare", str(text), "--out", str(out), *words]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, float(done.stdout.splitlines()[-1])


def same(one: TokenFile, many: TokenFile) -> bool:
    """Return whether two corpora hold the same ids and documents, comparing piece by piece."""
    if len(one) != len(many) or len(one.documents) != len(many.documents):
        return False
    for mine, yours in ((one.tokens, many.tokens), (one.documents, many.documents)):
        for first in range(0, len(mine), AT_ONCE):
            if not np.array_equal(mine[first : first + AT_ONCE], yours[first : first + AT_ONCE]):
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a UTF-8 file; default: tinyshakespeare")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    one, several = "1 process", f"{args.workers} processes"
    ways = {one: 1, several: args.workers}
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script, text = folder / "measured.py", folder / "text.txt"
        script.write_text(MEASURED, encoding="utf-8")
        repeat(args.text or find_data("tinyshakespeare"), text, args.megabytes)
        size = text.stat().st_size / 1e6
        for number in range(args.rounds):
            for way in list(ways)[:: 1 if number % 2 == 0 else -1]:
                words = ["--parts", str(args.parts), "--workers", str(ways[way])]
                taken[way].append(measure(script, text, folder / way, words))
        seconds, peak = measure(script, text, folder / "file.bin", [])
        whole = TokenFile(folder / "file.bin")
        print(f"{size:,.0f} MB of text, {len(whole):,} tokens; {args.parts} parts\n")
        print("| way | seconds | MB/s | largest process, MB | ids and documents |")
        print("|---|---|---|---|---|")
        print(f"| one file | {seconds:.1f} | {size / seconds:.2f} | {peak / 1e6:.0f} | |")
        rates = {}
        for way, found in taken.items():
            rates[way] = statistics.median(size / seconds for seconds, _ in found)
            equal = "those of the file" if same(whole, TokenFile(folder / way)) else "DIFFER"
            highest = max(peak for _, peak in found) / 1e6
            print(
                f"| {way} | {size / rates[way]:.1f} | {rates[way]:.2f} | {highest:.0f} | {equal} |"
            )
    print(f"\n{several} are {rates[several] / rates[one]:.2f} times as fast as one")
    record(f"preparing {args.megabytes} MB in {args.parts} parts", rates, [(several, one)],
           unit="MB/s", rounds=args.rounds)  # fmt: skip


if __name__ == "__main__":
    main()
