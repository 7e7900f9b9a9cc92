"""The folder of a run: settings, environment, log, samples and checkpoints, readable by eye.

- config.json: model, training settings, data, tokenizer
- environment.json: versions and machine, once for each start
- held.json: what each process holds and sends in a step, in bytes
- metrics.jsonl: one object per step and per evaluation; metrics.csv holds the same, but for the
  losses of a mixture's parts
- samples.jsonl: texts that the model wrote on the way
- checkpoints/: what the run can go on from
- model.safetensors: the best model so far, with its tokenizer beside it
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from llm_scratch.files import FileError, lock, parse_json, read_text, write_json, write_text

COLUMNS = ("step", "loss", "lr", "grad_norm", "tokens", "seconds", "val_loss")
METRICS, SAMPLES, TABLE, LOCK = "metrics.jsonl", "samples.jsonl", "metrics.csv", ".lock"
CHECKPOINTS = "checkpoints"


class RunFolder:
    """The open folder of one run; no other process can open it meanwhile.

    Args:
        path: is made when missing.
        resume: whether a run in it is to go on.

    Raises:
        ValueError: if it holds something and `resume` is False, or another process trains in it.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; a run needs a folder")
        found = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        if set(found) - {LOCK} and not resume:
            raise ValueError(
                f"{self.path} is not empty; --resume (resume=True) continues the run in it, "
                "another folder starts a new one"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / LOCK, "a+b")  # noqa: SIM115  open as long as the run
        self._files: dict[str, IO[str]] = {}
        try:
            lock(self._lock)
        except OSError:
            self._lock.close()
            raise ValueError(
                f"another process trains in {self.path}; wait for it, or take another folder"
            ) from None

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def write_json(self, name: str, content: Any) -> None:
        """Write a small file atomically."""
        write_json(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Return what `write_json` wrote; None where there is no such file, or it is damaged."""
        try:
            return json.loads(read_text(self.path / name))
        except (OSError, ValueError):
            return None

    def add_environment(self, **details: Any) -> None:
        """Note versions and machine of this start, beside those of earlier ones."""
        starts = self.read_json("environment.json")
        starts = starts if isinstance(starts, list) else []
        self.write_json("environment.json", [*starts, {**environment(), **details}])

    def record(self, **values: Any) -> None:
        """Add a line to the log, and the same to the table."""
        self._append(METRICS, as_line(values))
        self._append(TABLE, table_row(values), head=",".join(COLUMNS) + "\n")

    def add_sample(self, step: int, text: str) -> None:
        """Keep a text that the model wrote."""
        self._append(SAMPLES, as_line({"step": step, "text": text}))

    def cut_back(self, step: int) -> None:
        """Take out of log, table and samples what came after a step."""
        self._close_files()
        for name in (METRICS, SAMPLES):
            kept = [line for line in read_lines(self.path / name) if line["step"] <= step]
            write_text(self.path / name, "".join(map(as_line, kept)))
            if name == METRICS:
                rows = "".join(map(table_row, kept))
                write_text(self.path / TABLE, ",".join(COLUMNS) + "\n" + rows)

    def sync(self) -> None:
        """Bring log and samples to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Let other processes have the folder."""
        self._close_files()
        self._lock.close()  # which gives up the lock

    def _append(self, name: str, text: str, head: str = "") -> None:
        if name not in self._files:
            file = open(self.path / name, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
            self._files[name] = file
            if not file.tell():
                file.write(head)
        self._files[name].write(text)
        self._files[name].flush()

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a log; a last line that is not whole, as a killed run leaves, is none.

    Raises:
        FileError: naming another line that is not an object with a step.
    """
    *lines, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_step_in(path, line))
            except FileError as err:
                hint = "is not a JSON object with a step; mend it, or remove the line"
                raise FileError(path, f"line {number} {hint}") from err
    with suppress(FileError):
        found.append(_step_in(path, rest))
    return found


def _step_in(path: Path, line: bytes) -> dict[str, Any]:
    value = parse_json(path, line)
    if not isinstance(value.get("step"), int):
        raise FileError(path, "holds no step")
    return value


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the log of a run: a dict for each step (step, loss, lr, ...) and each evaluation.

    Raises:
        FileNotFoundError: if the folder has no log.
        ValueError: if the log is empty.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {run} is not the folder of a run")
    lines = read_lines(path)
    if not lines:
        raise ValueError(f"{path} holds no step yet")
    return lines


def as_line(values: Mapping[str, Any]) -> str:
    """Return an object as a line of JSON; a number that JSON does not have becomes null."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    return json.dumps(plain, ensure_ascii=False) + "\n"


def table_row(values: Mapping[str, Any]) -> str:
    """Return the same as a line of a table of comma-separated values."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([values.get(name, "") for name in COLUMNS])
    return buffer.getvalue()


def environment() -> dict[str, Any]:
    """Return versions and machine, as far as results depend on them."""
    import torch  # logs are read without it

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "machine": platform.machine(),
    }
