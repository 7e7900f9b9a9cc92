"""The folder of a run, with human-readable settings, environment, log and samples.

- config.json: model, training settings, data, tokenizer
- environment.json: versions and machine, one entry per start
- held.json: the bytes that each process holds and sends in a step
- metrics.jsonl: one object per step and per evaluation; metrics.csv has the same, except the
  losses of a mixture's parts
- samples.jsonl: texts that the model wrote during training
- checkpoints/: the checkpoints that the run can resume from
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
    """The folder of a run, locked against other processes while open.

    Args:
        path: the folder, created if missing.
        resume: whether to continue a run in the folder.

    Raises:
        ValueError: if the folder is not empty and `resume` is False, or another process trains in
            it.
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
        self._lock = open(self.path / LOCK, "a+b")  # noqa: SIM115  stays open during the run
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
        """Return the content that `write_json` wrote; None if the file is missing or damaged."""
        try:
            return json.loads(read_text(self.path / name))
        except (OSError, ValueError):
            return None

    def add_environment(self, **details: Any) -> None:
        """Append versions and machine of this start to those of earlier ones."""
        starts = self.read_json("environment.json")
        starts = starts if isinstance(starts, list) else []
        self.write_json("environment.json", [*starts, {**environment(), **details}])

    def record(self, **values: Any) -> None:
        """Append the same values to the log and to the table."""
        self._append(METRICS, as_line(values))
        self._append(TABLE, table_row(values), head=",".join(COLUMNS) + "\n")

    def add_sample(self, step: int, text: str) -> None:
        """Append a text that the model wrote to the samples."""
        self._append(SAMPLES, as_line({"step": step, "text": text}))

    def cut_back(self, step: int) -> None:
        """Remove entries after a step from log, table and samples."""
        self._close_files()
        for name in (METRICS, SAMPLES):
            kept = [line for line in read_lines(self.path / name) if line["step"] <= step]
            write_text(self.path / name, "".join(map(as_line, kept)))
            if name == METRICS:
                rows = "".join(map(table_row, kept))
                write_text(self.path / TABLE, ",".join(COLUMNS) + "\n" + rows)

    def sync(self) -> None:
        """Sync log, table and samples to disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files and release the folder for other processes."""
        self._close_files()
        self._lock.close()  # releases the lock

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
    """Return the objects of a log, without an incomplete last line as a killed run leaves it.

    Raises:
        FileError: naming any other line that is not an object with a step.
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
    """Return the log of a run: a dict per step (step, loss, lr, ...) and per evaluation.

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
    """Return values as a line of JSON; infinite and NaN values become null."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    return json.dumps(plain, ensure_ascii=False) + "\n"


def table_row(values: Mapping[str, Any]) -> str:
    """Return values as a line of CSV, in the order of `COLUMNS`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([values.get(name, "") for name in COLUMNS])
    return buffer.getvalue()


def environment() -> dict[str, Any]:
    """Return the versions and machine facts that results depend on."""
    import torch  # here, so that logs can be read without it

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "machine": platform.machine(),
    }
