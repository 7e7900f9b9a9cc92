"""Comparison of runs: the settings that differ, the lowest losses and the speeds.

Runs that differ only in their seed form a group. The spread within groups is the noise against
which a difference between two groups is judged. No torch is imported here.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_scratch.files import parse_any_json, read_bytes, read_json
from llm_scratch.training.noise import Difference, difference_of, interval_of
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.training.scaling import WARM_UP, steady_speed

SEED = "seed"
PLACE = ("device", "dtype", "processes")
MARKS = ("data", "parts")  # of the training part
CORPORA = ("TokenPart", "Mixture")  # data whose split does not depend on the seed
ABSENT = "not recorded"
MOST_NAMED = 3  # the most settings in the name of a group


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run's folder.

    Args:
        name: the name of the run in the comparison.
        path: its folder.
        settings: the settings of model, training, data and machine, by name.
        kind: the kind of its data, such as "TokenPart"; "" where that is not recorded.
        step: the last step taken.
        steps: the number of steps requested.
        best_loss: the lowest validation loss; None without one.
        best_step: the step after which `best_loss` was measured.
        best_parts: the losses of a mixture's parts at `best_step`.
        train_loss: the mean training loss of the last tenth of the steps.
        tokens_per_s: training tokens per second, without the first steps, evaluations and
            checkpoints; None where the run is too short.
        lines: the lines of its log.
    """

    name: str
    path: str
    settings: Mapping[str, Any]
    kind: str
    step: int
    steps: int
    best_loss: float | None
    best_step: int | None
    best_parts: Mapping[str, float]
    train_loss: float | None
    tokens_per_s: float | None
    lines: Sequence[Mapping[str, Any]] = field(repr=False)

    @property
    def seed(self) -> Any:
        """The seed of the run."""
        return self.settings.get(SEED, ABSENT)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Args:
        name: the name of its first run, with the settings that differ from the first group's.
        runs: one run per seed.
        losses: the losses to compare, in the same order.
    """

    name: str
    runs: Sequence[RunRecord]
    losses: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean of their losses."""
        return statistics.fmean(self.losses)

    @property
    def deviation(self) -> float | None:
        """The standard deviation of their losses; None with a single run."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean; None with a single run."""
        return interval_of(self.losses)

    @property
    def tokens_per_s(self) -> float | None:
        """The mean of their speeds."""
        speeds = [run.tokens_per_s for run in self.runs if run.tokens_per_s is not None]
        return statistics.fmean(speeds) if speeds else None


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, and the difference of each from the first.

    Args:
        measure: the name of the loss that is compared.
        groups: the groups, in the order in which their first runs were given.
        differences: the difference of each later group from the first.
        notes: caveats: runs that were left out or have not finished.
    """

    measure: str
    groups: Sequence[Group]
    differences: Sequence[Difference]
    notes: Sequence[str]


def read_runs(paths: Iterable[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read the folders of runs; name each by its folder, or by its path where folders share a name.

    Raises:
        ValueError: if a folder is given twice, or holds no step yet.
        FileNotFoundError: if a folder is not that of a run.
    """
    folders = [Path(path) for path in paths]
    plain = [folder.resolve() for folder in folders]
    if twice := [str(path) for path in folders if plain.count(path.resolve()) > 1]:
        raise ValueError(f"{twice[0]} is given twice; a run is compared with other runs")
    names = [folder.name for folder in plain]
    if len(set(names)) < len(names):
        root = os.path.commonpath(plain)
        names = [os.path.relpath(folder, root).replace(os.sep, "/") for folder in plain]
    return [_read_run(name, folder) for name, folder in zip(names, folders, strict=True)]


def _read_run(name: str, folder: Path) -> RunRecord:
    lines = read_metrics(folder)
    config = read_json(folder / "config.json")
    train, data = config.get("train", {}), config.get("data", {})
    steps = [line for line in lines if "seconds" in line]
    measured = [line for line in lines if line.get("val_loss") is not None]
    best = min(measured, key=lambda line: line["val_loss"], default={})
    losses = [line["loss"] for line in steps[-max(1, len(steps) // 10) :]]
    finite = [loss for loss in losses if loss is not None]
    return RunRecord(
        name=name,
        path=str(folder),
        settings=_settings(folder, config),
        kind=data.get("kind", ""),
        step=lines[-1]["step"],
        steps=train.get("steps", lines[-1]["step"]),
        best_loss=best.get("val_loss"),
        best_step=best.get("step"),
        best_parts={
            key.removeprefix("val_loss/"): loss
            for key, loss in best.items()
            if key.startswith("val_loss/")
        },
        train_loss=statistics.fmean(finite) if finite else None,
        tokens_per_s=steady_speed(lines, WARM_UP)[1] if len(steps) > WARM_UP else None,
        lines=lines,
    )


def _settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings in which runs may differ, by name."""
    data = config.get("data", {})
    found = dict(config.get("train", {}))
    found |= {"mix": data.get("mix"), "rows": data.get("rows"), "data": data.get("first rows")}
    found |= {name: data[name] for name in ("parts", "tokenizer", "base") if data.get(name)}
    place = folder / "environment.json"
    if place.is_file() and (starts := parse_any_json(place, read_bytes(place))):
        found |= {name: starts[-1][name] for name in PLACE if name in starts[-1]}
    if (adapter := folder / "adapter_config.json").is_file():
        lora = read_json(adapter)
        found |= {"lora rank": lora.get("r"), "lora alpha": lora.get("lora_alpha")}
    for name, value in config.get("model", {}).items():
        found[f"model {name}" if name in found else name] = value
    return found


def differing(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings that differ between runs: by name, the value in each run."""
    names = {name: None for run in runs for name in run.settings}
    values = {name: [run.settings.get(name, ABSENT) for run in runs] for name in names}
    return {name: found for name, found in values.items() if len(set(map(_mark, found))) > 1}


def compare(runs: Sequence[RunRecord], *, grouped: bool = True) -> Comparison:
    """Group runs that differ only in their seed, and compare each group with the first.

    Args:
        runs: the result of `read_runs`.
        grouped: False keeps each run separate, under its own name, and computes no differences.

    Raises:
        ValueError: if no run has a loss.
    """
    notes = [
        f"{run.name} stands at step {run.step} of {run.steps}"
        for run in runs
        if run.step < run.steps
    ]
    measure, losses = _measured(runs, notes)
    if not grouped:
        alone = [Group(run.name, [run], [losses[run.name]]) for run in runs if run.name in losses]
        return Comparison(measure, alone, [], notes)
    together: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.name in losses:
            _add(together.setdefault(_key(run), []), run, notes)
    firsts = [group[0] for group in together.values()]
    if len({run.settings.get("data") for run in firsts}) > 1:
        notes.append("the groups read other data: where the validation parts differ too, so do "
                     "their losses")  # fmt: skip
    groups = [
        Group(name, group, [losses[run.name] for run in group])
        for name, group in zip(_names(firsts), together.values(), strict=True)
    ]
    found = [difference_of(groups[0].losses, other.losses) for other in groups[1:]]
    return Comparison(measure, groups, found, notes)


def _measured(runs: Sequence[RunRecord], notes: list[str]) -> tuple[str, dict[str, float]]:
    """Return the name of the loss to compare, and each run's value; note the runs without one."""
    measure = "best validation loss"
    losses = {run.name: run.best_loss for run in runs if run.best_loss is not None}
    if not losses:
        measure = "training loss of the last tenth of the steps"
        losses = {run.name: run.train_loss for run in runs if run.train_loss is not None}
    if not losses:
        raise ValueError("no run has a loss that could be compared")
    notes += [f"{run.name} has no {measure} and is left out" for run in runs
              if run.name not in losses]  # fmt: skip
    return measure, losses


def _add(group: list[RunRecord], run: RunRecord, notes: list[str]) -> None:
    """Add a run to its group, unless its seed is already there and so adds nothing on the noise."""
    twin = next((other for other in group if other.seed == run.seed), None)
    if twin is None:
        group.append(run)
    else:
        notes.append(f"{run.name} has settings and seed of {twin.name} and is left out")


def _key(run: RunRecord) -> str:
    """Return a key made of the settings that the runs of a group share.

    Fine-tuning splits its rows by the seed, so another seed trains on other rows of the same data.
    Such data is identified by its number of rows.
    """
    left_out = {SEED} if run.kind in (*CORPORA, "") else {SEED, *MARKS}
    return _mark({name: value for name, value in run.settings.items() if name not in left_out})


def _names(firsts: Sequence[RunRecord]) -> list[str]:
    """Return a name for each group: its first run, and the settings that differ from the first."""
    names = [firsts[0].name]
    for run in firsts[1:]:
        found = differing([firsts[0], run])
        left_out = {SEED, "parts", *(("rows", "data") if "mix" in found else ())}
        named = [f"{n} {as_text(v[1])}" for n, v in found.items() if n not in left_out]
        more = [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
        names.append(f"{run.name} ({', '.join(named[:MOST_NAMED] + more)})")
    return names


def as_text(value: Any) -> str:
    """Return a setting's value as a user would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else _mark(value)


def _mark(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
