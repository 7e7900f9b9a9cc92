"""A point to measure: a training step and how to measure it, and its form in tables and JSON.

PyTorch is not imported here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from llm_scratch.checks import check_count
from llm_scratch.memory.step import TrainingStep
from llm_scratch.model.families import config_of_saved, family_of
from llm_scratch.training.division import Division

Allocator = Literal["default", "expandable"]
ALLOCATORS: tuple[str, ...] = get_args(Allocator)
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)}
RENAMED = {"rows": "batch"}  # fields of the step whose column is named after the option


@dataclass(frozen=True)
class Point:
    """A step, and how it is measured.

    Args:
        step: the step.
        model: the name by which the configuration was requested.
        steps: updates that are timed, after those in which the optimizers create their state.
        limit: bytes that a process may add to what it has before the model exists; None: no limit.
        allocator: "expandable" lets CUDA's allocator grow the segments it has taken.
        tune_allocator: whether freed memory is kept for the next step, as in `TrainConfig`.
        compile: whether the model is compiled.
        epoch_rows: rows of the epoch whose duration is computed.
        seed: the seed of weights and data.

    Raises:
        ValueError: if a number is out of range, or this library can't take such a step.
    """

    step: TrainingStep
    model: str = ""
    steps: int = 3
    limit: int | None = None
    allocator: Allocator = "default"
    tune_allocator: bool = False
    compile: bool = False
    epoch_rows: int | None = None
    seed: int = 1234

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        for name in ("limit", "epoch_rows"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.allocator not in ALLOCATORS:
            raise ValueError(f"allocator={self.allocator!r}; there are {', '.join(ALLOCATORS)}")
        if self.step.engine != "ours":
            raise ValueError(
                f"engine={self.step.engine!r} can be estimated, not measured; leave it out"
            )
        if self.step.device == "cpu" and self.allocator != "default":
            raise ValueError(
                f"--allocator {self.allocator} is CUDA's, and the step is on a CPU; leave it out"
            )
        if self.step.device != "cpu" and self.tune_allocator:
            raise ValueError("--tune-allocator is for a CPU; leave it out on CUDA")

    def as_row(self) -> dict[str, str]:
        """Return the complete configuration as text by column; `point_in` reads it."""
        step = {f.name: getattr(self.step, f.name) for f in fields(self.step)}
        cfg, division = step.pop("cfg"), step.pop("division")
        step["length"] = self.step.tokens_a_row
        config = {"kind": family_of(cfg).model, **asdict(cfg)}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "step"}
        values = {"model": own.pop("model")} | step | asdict(division) | own
        row = {RENAMED.get(name, name): as_text(value) for name, value in values.items()}
        return row | {"config": json.dumps(config, separators=(",", ":"))}


def point_in(row: Mapping[str, str]) -> Point:
    """Return the point whose configuration a row holds.

    Raises:
        ValueError: if a column is missing, or holds an impossible value.
    """
    try:
        kinds = {
            f.name: str(f.type) for kind in (TrainingStep, Division, Point) for f in fields(kind)
        }
        names = {name: RENAMED.get(name, name) for name in kinds}
        values = {
            name: _value_of(kind, row[names[name]])
            for name, kind in kinds.items()
            if name not in ("cfg", "division", "step")
        }
        config = json.loads(row["config"])
        parts: dict[str, Any] = {
            kind.__name__: {f.name: values[f.name] for f in fields(kind) if f.name in values}
            for kind in (TrainingStep, Division, Point)
        }
        cfg = config_of_saved(config.pop("kind"), config)
        division = Division(**parts["Division"])
        return Point(
            TrainingStep(cfg, division=division, **parts["TrainingStep"]), **parts["Point"]
        )
    except KeyError as err:
        raise ValueError(f"the column {err.args[0]!r} is missing") from None
    except (TypeError, AttributeError) as err:
        raise ValueError(f"the column 'config' holds no model: {err}") from None


def as_text(value: Any) -> str:
    """Return a value as a table shows it: "" for None, yes or no for a bool, 2x4 for a pair."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return str(value)


def _value_of(kind: str, text: str) -> Any:
    """Return the value of a type that a text stands for."""
    kind, _, optional = kind.partition(" | ")
    if optional and not text:
        return None
    if kind.startswith("tuple"):
        return tuple(int(part) for part in text.split("x"))
    if kind == "bool":
        if text not in ("yes", "no"):
            raise ValueError(f"{text[:40]!r} must be yes or no")
        return text == "yes"
    return int(text) if kind == "int" else text


def bytes_of(text: str) -> int:
    """Return the bytes of a size in text form: "6GiB", "500 MB", "1.5e9".

    Raises:
        ValueError: if it is not a size above 0.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)\s*", text)
    try:
        size = round(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"{text!r} must be a size above 0, as 6GiB or 500MB")
    return size
