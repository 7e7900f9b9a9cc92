"""`llm-scratch compare`: runs side by side, and whether a difference is larger than the noise."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.memory_tables import table
from llm_scratch.cli.options import add_command, add_option, matching, save_picture

if TYPE_CHECKING:
    from llm_scratch.training.comparing import Comparison, Group, RunRecord
    from llm_scratch.training.noise import Difference


def add_commands(subparsers: Any) -> None:
    """Add this group's command."""
    parser = add_command(
        subparsers,
        "compare",
        "show which settings of runs differ, and their lowest losses",
        "compare runs/one runs/two --group",
        run_compare,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--group", action="store_true",
                        help="group runs that differ only in their seed, and report whether "
                             "groups differ by more than the noise")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_option(parser, "--picture FILE", "loss curves and best losses as a picture", usual="none")


def run_compare(args: argparse.Namespace) -> int:
    """Print the settings that differ, and the losses."""
    from llm_scratch.training.comparing import compare, read_runs

    runs = read_runs(run for name in args.runs for run in matching(name))
    found = compare(runs, grouped=args.group)
    if args.json:
        print(json.dumps(_as_json(runs, found), indent=1))
    else:
        parts = [_run_table(runs), _settings(runs)]
        if args.group:
            parts += [_group_table(found), _differences(found)]
        parts.append([f"note: {note}" for note in found.notes])
        print("\n\n".join("\n".join(lines) for lines in parts if lines))
    if args.picture is not None:
        from llm_scratch.plotting.comparing import plot_comparison

        lines = {group.name: [run.lines for run in group.runs] for group in found.groups}
        losses = {group.name: group.losses for group in found.groups}
        intervals = {group.name: group.interval for group in found.groups}
        measure = found.measure[0].upper() + found.measure[1:]
        with redirect_stdout(sys.stderr if args.json else sys.stdout):
            save_picture(args.picture, lambda: plot_comparison(lines, losses, intervals, measure))
    return 0


def _run_table(runs: Sequence[RunRecord]) -> list[str]:
    """Return a line for each run: its step, its lowest losses, its speed."""
    parts = list({part: None for run in runs for part in run.best_parts})
    heads = ["run", "steps", "best loss", "at step", *parts, "training loss", "tokens/s"]
    rows = [
        [
            run.name,
            f"{run.step:,} of {run.steps:,}",
            _number(run.best_loss),
            _number(run.best_step, ",d"),
            *(_number(run.best_parts.get(part)) for part in parts),
            _number(run.train_loss),
            _number(run.tokens_per_s, ",.0f"),
        ]
        for run in runs
    ]
    return [table([heads, *rows], left=1)]


def _settings(runs: Sequence[RunRecord]) -> list[str]:
    """Return a line for each setting that differs: its values, and the runs that have them."""
    from llm_scratch.training.comparing import as_text, differing

    found = differing(runs)
    if not found:
        return ["no setting differs"] if len(runs) > 1 else []
    lines = ["settings that differ"]
    width = max(map(len, found))
    for name, values in found.items():
        having: dict[str, list[str]] = {}
        for run, value in zip(runs, values, strict=True):
            having.setdefault(as_text(value), []).append(run.name)
        shown = "; ".join(f"{value} ({', '.join(names)})" for value, names in having.items())
        lines.append(f"  {name:<{width}}  {shown}")
    return lines


def _group_table(found: Comparison) -> list[str]:
    """Return a line for each group: mean and standard deviation."""
    heads = ["group", "runs", found.measure, "", "tokens/s"]
    rows = [
        [
            group.name,
            str(len(group.runs)),
            _number(group.mean),
            "one seed" if group.deviation is None else f"± {group.deviation:.4f}",
            _number(group.tokens_per_s, ",.0f"),
        ]
        for group in found.groups
    ]
    return [table([heads, *rows], left=1)]


def _differences(found: Comparison) -> list[str]:
    """Return a sentence for each group except the first: its distance from that one."""
    if len(found.groups) == 1:
        return ["one group: the runs differ only in their seed"]
    first, *others = found.groups
    return [
        f"{group.name} against {first.name}: {_in_words(difference)}"
        for group, difference in zip(others, found.differences, strict=True)
    ]


def _in_words(difference: Difference) -> str:
    if difference.is_real is None:
        return f"difference {difference.value:+.4f}; {difference.method}"
    verdict = "larger than the noise" if difference.is_real else "within the noise"
    return (
        f"difference {difference.value:+.4f}, 95 % interval {difference.low:+.4f} to "
        f"{difference.high:+.4f}, {verdict} ({difference.method}, {difference.freedom:.1f} degrees "
        "of freedom)"
    )


def _as_json(runs: Sequence[RunRecord], found: Comparison) -> dict[str, Any]:
    from llm_scratch.training.comparing import differing

    names = [run.name for run in runs]
    settings = {
        name: dict(zip(names, values, strict=True)) for name, values in differing(runs).items()
    }
    left_out = ("lines", "settings")
    whole = {
        "runs": [{k: v for k, v in vars(run).items() if k not in left_out} for run in runs],
        "settings": settings,
        "measure": found.measure,
        "notes": found.notes,
    }
    if found.differences or len(found.groups) < len(runs):
        whole["groups"] = [_group_as_json(group) for group in found.groups]
        whole["differences"] = [
            {"from": found.groups[0].name, "to": group.name, **asdict(difference)}
            | {"larger_than_noise": difference.is_real}
            for group, difference in zip(found.groups[1:], found.differences, strict=True)
        ]
    return whole


def _group_as_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "runs": [run.name for run in group.runs],
        "losses": list(group.losses),
        "mean": group.mean,
        "deviation": group.deviation,
        "interval": group.interval,
        "tokens_per_s": group.tokens_per_s,
    }


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)
