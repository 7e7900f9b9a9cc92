"""The file of a sweep: one row per start with its complete configuration, safe against a kill.

A row is completely on disk before the next start. A partial row left by a killed sweep is cut off
when the sweep resumes.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from llm_scratch.files import FileError, PathLike, decode_text, lock
from llm_scratch.memory.place import FACTS
from llm_scratch.memory.point import as_text

COUNTED = ("resident", "allocated", "active", "reserved")
NUMBERS = tuple(f"{name}_{of}" for name in COUNTED for of in ("min", "mean", "max"))
RESULTS = ("state", "seconds_per_step", "samples_per_s", "tokens_per_s", "epoch_seconds",
           *NUMBERS, "most_on_rank", "num_alloc_retries", "num_ooms", "parameters", "threads",
           "starts", "reason")  # fmt: skip
SETTINGS = ("precision", "weights", "optimizer", "lora_rank", "last_blocks", "accumulation",
            "checkpoint_blocks", "attention", "loss_chunk", "ranks", "shard", "reshard", "offload",
            "mesh", "device", "engine", "allocator", "tune_allocator", "compile", "limit", "steps",
            "epoch_rows", "seed")  # fmt: skip
FIRST = ("model", "length", "batch", "repeat")
COLUMNS = (*FIRST, *RESULTS, *SETTINGS, *FACTS, "config")
KEYS = (*FIRST, *SETTINGS, "config")
MOVING = ("length", "batch", "repeat")  # these may differ between the rows of any sweep
HEAD = ",".join(COLUMNS)

Row = dict[str, str]


class SweepTable:
    """The open file of a sweep, locked against other processes.

    Args:
        path: the file; it is created if missing.
        same: the value that every row must have, by column.
        varied: the columns in which rows of this sweep may differ.

    Raises:
        FileError: if the file is not a sweep's, or is from another configuration; names the column.
        ValueError: if another process is writing its sweep to it.
    """

    def __init__(
        self, path: PathLike, same: Mapping[str, str], varied: Collection[str] = ()
    ) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115  open as long as the sweep
        try:
            lock(self._file)
        except OSError:
            self._file.close()
            raise ValueError(
                f"another process sweeps into {self.path}; wait for it, or take another file"
            ) from None
        try:
            text = self._cut_back()
            self.rows = rows_in(self.path, text) if text else []
            for number, row in enumerate(self.rows, 2):
                self._check(number, row, same, varied)
        except ValueError:
            self._file.close()
            raise
        self._found = {_key(row): row for row in self.rows}
        if not self._file.tell():
            self._write(HEAD + "\n")

    def find(self, row: Mapping[str, str]) -> Row | None:
        """Return the row with the same configuration and repetition; None if there is none."""
        return self._found.get(_key(row))

    def add(self, row: Mapping[str, str]) -> Row:
        """Write a row to disk and return it as stored."""
        written = {name: " ".join(row.get(name, "").split()) for name in COLUMNS}
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(written.values())
        self._write(buffer.getvalue())
        self._found[_key(written)] = written
        self.rows.append(written)
        return written

    def close(self) -> None:
        """Close the file, so that other processes can lock it."""
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.write(text.encode("utf-8"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _cut_back(self) -> str:
        """Cut off an incomplete last line, of a sweep's file only; return the rest."""
        self._file.seek(0)
        data = self._file.read()
        head, newline, _ = data.partition(b"\n")
        whole = HEAD.encode()
        if not (head == whole if newline else whole.startswith(head)):
            raise FileError(self.path, "line 1 is not a sweep's; give another file with --out")
        whole_lines = data.rfind(b"\n") + 1
        self._file.truncate(whole_lines)
        self._file.seek(0, os.SEEK_END)
        return decode_text(self.path, data[:whole_lines])

    def _check(
        self, number: int, row: Row, same: Mapping[str, str], varied: Collection[str]
    ) -> None:
        for name, wanted in same.items():
            if name not in varied and name not in MOVING and row[name] != wanted:
                raise FileError(
                    self.path,
                    f"line {number} is of another configuration: {name} is {row[name][:80]!r} "
                    f"there, {wanted[:80]!r} now; give another file with --out",
                )


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEYS)


def rows_in(path: PathLike, text: str) -> list[Row]:
    """Return the rows in the text of a sweep's file, which must all be complete.

    Raises:
        FileError: if a line is not a row of a sweep; the message names the line.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    try:
        head = next(lines, [])
        if tuple(head) != COLUMNS:
            raise FileError(path, "line 1 is not the head of a sweep's file")
        for cells in lines:
            if len(cells) != len(COLUMNS):
                raise FileError(
                    path, f"line {lines.line_num} has {len(cells)} of {len(COLUMNS)} cells"
                )
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    except csv.Error as err:
        raise FileError(path, f"line {lines.line_num} is not CSV: {err}") from err
    return rows


def row_of(values: Mapping[str, object]) -> Row:
    """Return values as text, in the form of a row."""
    return {name: " ".join(as_text(value).split()) for name, value in values.items()}
