"""The rows of `RESULTS.md`, which a benchmark writes after five rounds or more."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PAGE = Path(__file__).with_name("RESULTS.md")
ROUNDS = 5
# Peers whose name differs from their package's.
PACKAGES = {
    "llama.cpp": "xllamacpp",
    "tiktoken (Rust)": "tiktoken",
    "tokenizers (Rust)": "tokenizers",
}
COLUMNS = ("work", "ours", "peer", "the peer's", "ratio", "machine", "date", "command")
HEAD = """# What was measured

Each row is one claim, measured against its peer in the same run, as the median of five rounds or
more in which both take turns. A ratio above 1 says that ours is faster, or smaller where memory is
measured. Estimates of memory, which are best at 1, and shares of answers come from one run. The
scripts in this folder write the rows; their docstrings say what is compared and how. These are runs
on single machines: another processor gives other ratios.
"""


def record(
    work: str,
    found: Mapping[str, float],
    pairs: Iterable[tuple[str, str]],
    *,
    unit: str,
    rounds: int | None,
    less: bool = False,
) -> None:
    """Write a row for each pair, replacing the previous one of the same work and pair.

    Args:
        work: the name of what was measured.
        found: each case's median over the rounds.
        pairs: (ours, peer) cases; a pair with a case not in `found` is skipped.
        unit: the unit of the numbers.
        rounds: the number of rounds; with fewer than five, the page stays as it is. None: another
            round would give the same numbers.
        less: whether smaller numbers are better.
    """
    trial = {"--tiny", "--small", "--quick"} & {*sys.argv}
    if trial or (rounds is not None and rounds < ROUNDS):
        print(f"not recorded: {work} ({' '.join(trial) or f'{rounds} of {ROUNDS} rounds'})")
        return
    command = shlex.join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])
    rows = {key_of(row): row for row in read_rows()}
    for own, peer in pairs:
        if own in found and peer in found:
            ratio = found[peer] / found[own] if less else found[own] / found[peer]
            case = "" if own == "ours" else f": {own.removeprefix('ours, ')}"
            row = (f"{work}{case}", shown(found[own], unit), with_version(peer),
                   shown(found[peer], unit), f"{ratio:.2f}", machine(), f"{date.today()}",
                   command)  # fmt: skip
            rows[key_of(row)] = row
    table = sorted(rows.values(), key=lambda row: (script_of(row), row[0]))
    lines = [cells(COLUMNS), "|" + "---|" * len(COLUMNS), *map(cells, table)]
    PAGE.write_text(HEAD + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


def record_estimates(work: str, peer: str, found: Sequence[tuple[float, float]]) -> None:
    """Write the rows of the median and the worst estimate.

    Args:
        work: the name of what was estimated.
        peer: how it was measured.
        found: estimated and measured bytes of each case.
    """
    order = sorted(found, key=lambda pair: abs(pair[0] / pair[1] - 1))
    for name, (estimated, measured) in (("median", order[len(order) // 2]), ("worst", order[-1])):
        record(f"{work}, the {name} of {len(found)} estimates",
               {"ours": estimated / 1e6, peer: measured / 1e6}, [("ours", peer)], unit="MB",
               rounds=None, less=True)  # fmt: skip


def shown(number: float, unit: str) -> str:
    """Return a number, with at least three digits, and its unit."""
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"


def with_version(peer: str) -> str:
    """Return a peer's name with its package's version, if it has one, before any comma."""
    name, comma, rest = peer.partition(",")
    try:
        return f"{name} {version(PACKAGES.get(name, name))}{comma}{rest}"
    except (PackageNotFoundError, ValueError):
        return peer


def machine() -> str:
    """Return the processor, its number of threads, and PyTorch's version."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} threads, {with_version('torch')}"


def read_rows() -> list[tuple[str, ...]]:
    """Return the rows of the page."""
    if not PAGE.exists():
        return []
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("| ")][1:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in table]


def key_of(row: tuple[str, ...]) -> tuple[str, str, str]:
    """Return what identifies a row: its script, its work, and the peer without version."""
    return script_of(row), row[0], re.sub(r" \d[\w.+]*", "", row[2])


def script_of(row: tuple[str, ...]) -> str:
    """Return the script that wrote a row."""
    return row[-1].split(" ")[1]


def cells(values: tuple[str, ...]) -> str:
    """Return a line of the table."""
    return "| " + " | ".join(value.replace("|", "/") or "-" for value in values) + " |"
