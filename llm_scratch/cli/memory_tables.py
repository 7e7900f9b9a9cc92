"""The tables that `llm-scratch memory` prints: estimates, checks, advice and other tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llm_scratch.memory.moments import KINDS
from llm_scratch.memory.terms import Peak

if TYPE_CHECKING:
    from llm_scratch.memory.estimate import Estimate
    from llm_scratch.memory.generating import GenerationEstimate
    from llm_scratch.memory.other_tools import Like
    from llm_scratch.memory.suggest import Advice, Rung
    from llm_scratch.memory.tracking import Tracked

MIB, GIB = 2**20, 2**30


def mib(size: float) -> str:
    """Return bytes as MiB: "12,345.6"."""
    return f"{size / MIB:,.1f}"


def gib(size: float) -> str:
    """Return bytes as GiB: "12.35 GiB"."""
    return f"{size / GIB:,.2f} GiB"


def table(rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Return rows in columns; the first is a heading, the first `left` columns are texts."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def peaks_table(peaks: Sequence[tuple[str, Peak]]) -> str:
    """Return a table of the terms of some peaks, with a column for each of them."""
    names: dict[tuple[str, str], list[int]] = {}
    for place, (_, peak) in enumerate(peaks):
        for term in peak.terms:
            sizes = names.setdefault((term.name, term.formula), [0] * len(peaks))
            sizes[place] += term.bytes
    rows = [["what", "bytes", *(f"{name}, MiB" for name, _ in peaks)]]
    rows += [[*key, *(mib(size) if size else "" for size in sizes)] for key, sizes in names.items()]
    rows.append(["in all", "", *(mib(peak.bytes) for _, peak in peaks)])
    return table(rows)


def _sentences(heading: str, lines: Iterable[str]) -> str:
    return "\n".join([heading, *(f"  {line}" for line in lines)])


def _step_lines(estimate: Estimate) -> list[str]:
    """Return two lines that describe the step of an estimate."""
    step = estimate.step
    each = "" if step.ranks == 1 else f" on each of {step.ranks} processes"
    again = f" x {step.accumulation}" if step.accumulation > 1 else ""
    kinds = {"ours": "this library's engine", "deepspeed": "DeepSpeed's engine"}
    settings = [f"weights {step.weights}", f"products {step.compute_type}", step.optimizer]
    settings += [f"LoRA of rank {step.lora_rank}"] if step.lora_rank else []
    settings += [f"the last {step.last_blocks} blocks learn"] if step.last_blocks else []
    if step.checkpoint_blocks:
        every = "all blocks" if step.checkpoint_blocks == 1 else (
            f"one of {step.checkpoint_blocks} blocks")  # fmt: skip
        settings.append(f"{every} computed again")
    settings.append(f"attention {step.attention}")
    settings.append("logits of all tokens" if step.loss_chunk is None
                    else f"logits of {step.loss_chunk} tokens")  # fmt: skip
    division = step.division
    if division.shard != "none":
        words = [f"shard {division.shard}"]
        words += ["kept between forward and backward"] if not division.reshard else []
        words += ["offloaded"] if division.offload else []
        words += [f"mesh {division.mesh[0]}x{division.mesh[1]}"] if division.mesh else []
        settings.append(", ".join(words))
    return [
        f"a step of {step.rows} x {step.tokens_a_row:,} tokens{again}{each}, on {step.device}, "
        f"{kinds[step.engine]}",
        ", ".join(settings),
    ]


def estimate_text(name: str, estimate: Estimate) -> str:
    """Return an estimate as it is printed."""
    parts = ["\n".join([f"{name}: {_step_lines(estimate)[0]}", _step_lines(estimate)[1]])]
    peaks = [("backward", estimate.backward), ("optimizer's step", estimate.update)]
    parts.append(peaks_table(peaks))
    decides = "the backward pass" if estimate.winner == "backward" else "the optimizer's step"
    each = " of each process" if estimate.step.ranks > 1 else ""
    parts.append(
        f"Peak{each}: {gib(estimate.bytes)}. {decides[0].upper()}{decides[1:]} decides; the peak "
        f"is at: {estimate.peak.moment}."
    )
    if estimate.host:
        rows = [["in the host's memory, for each process", "bytes", "MiB"]]
        rows += [[term.name, term.formula, mib(term.bytes)] for term in estimate.host]
        parts.append(table([*rows, ["in all", "", mib(estimate.host_bytes)]]))
    parts.append(_sentences("Not counted:", estimate.left_out))
    parts.append(_legend(estimate.legend))
    return "\n\n".join(parts)


def _legend(legend: dict[str, str]) -> str:
    return _sentences("Letters:", (f"{letter}  {about}" for letter, about in legend.items()))


def generation_text(name: str, estimate: GenerationEstimate) -> str:
    """Return an estimate of generation as it is printed."""
    peaks = [("reading", estimate.reading), ("writing", estimate.writing)]
    return "\n\n".join([
        f"{name}: generation",
        peaks_table(peaks),
        f"Peak: {gib(estimate.bytes)}, {estimate.peak.moment}.",
        _sentences("Not counted:", estimate.left_out),
        _legend(estimate.legend),
    ])  # fmt: skip


def like_text(name: str, found: Like) -> str:
    """Return another tool's figures as they are printed."""
    parts = [f"{name}, as {found.tool} {found.version} counts it: {found.counted}"]
    for heading, rows in found.tables:
        parts.append(f"{heading}\n{table(rows, left=1)}")
    parts.append(_sentences(f"{found.tool} leaves out:", found.left_out))
    return "\n\n".join(parts)


def check_text(estimate: Estimate, tracked: Tracked) -> str:
    """Return an estimate beside the tracked bytes."""
    backward, update = estimate.backward, estimate.update
    rows = [["kind", "backward: estimated", "followed", "step: estimated", "followed"]]
    for kind in KINDS:
        numbers = (backward.of_kind(kind), tracked.backward_parts[kind],
                   update.of_kind(kind), tracked.step_parts[kind])  # fmt: skip
        rows.append([kind, *map(mib, numbers)])
    peaks = (backward.bytes, tracked.backward_peak, update.bytes, tracked.step_peak)
    rows.append(["in all, MiB", *map(mib, peaks)])
    text = "\n".join(_step_lines(estimate))
    how = "followed tensor by tensor"
    if not tracked.followed:
        how = "counted without a tracker, nothing temporary,"
    return "\n\n".join([
        text,
        table(rows, left=1),
        f"Peak: estimated {gib(estimate.bytes)}, {how} {gib(tracked.peak)}: "
        f"{_difference(estimate.bytes, tracked.peak):+.2f} %. {tracked.seconds:.1f} s",
    ])  # fmt: skip


def _difference(estimated: int, found: int) -> float:
    return 100 * (estimated / found - 1) if found else 0.0


def check_json(estimate: Estimate, tracked: Tracked) -> dict[str, Any]:
    """Return both as plain values."""
    parts = {"backward": tracked.backward_parts, "step": tracked.step_parts}
    return {
        "estimated": estimate.as_json(),
        "tracked": {"bytes": tracked.peak, "host": tracked.host, "parts": parts,
                    "seconds": tracked.seconds},
        "difference_percent": _difference(estimate.bytes, tracked.peak),
    }  # fmt: skip


def advice_text(name: str, advice: Advice) -> str:
    """Return the rungs of the ladder as they are printed."""
    step = advice.rungs[0].estimate.step
    lines = [
        f"{name}: {step.rows} x {step.tokens_a_row:,} tokens on "
        f"{'a GPU' if step.ranks == 1 else f'each of {step.ranks} GPUs'} with "
        f"{gib(advice.memory)}; {gib(advice.limit)} may be used, {100 * advice.headroom:g} % is "
        "left to the allocator, kernels and libraries"
    ]
    rows = [["", "setting", "mostly", "needs"]]
    for rung in advice.rungs:
        mark = "fits" if rung.fits else "no"
        rows.append([mark, rung.name, _mostly(rung), gib(rung.estimate.bytes)])
    lines.append(table(rows, left=3))
    found, before = advice.found, advice.before
    if found is None:
        lines.append("Nothing on this ladder fits; use more GPUs, larger ones, or a smaller model.")
        return "\n\n".join(lines)
    priced = [f"{rung.name}: {rung.price}" for rung in advice.rungs if rung.price]
    lines.append(f"Take: {found.options or 'the settings as they are'}")
    if found.estimate.host:
        lines.append(f"In the host's memory: {gib(found.estimate.host_bytes)} for each process.")
    if priced:
        lines.append(_sentences("What that costs:", _taken(priced, found)))
    if before is not None:
        over = before.estimate.bytes - advice.limit
        lines.append(f"Without the last of these, {gib(over)} is missing: {_mostly(before)}.")
    lines.append(f"The largest batch that then fits: {advice.rows} rows.")
    return "\n\n".join(lines)


def _taken(priced: list[str], found: Rung) -> list[str]:
    """Return the prices of the rungs that the advice takes; ZeRO-1 ends where ZeRO-3 begins."""
    options = found.options
    passed = {"ZeRO-1": "--shard full" in options,
              "host's memory": "--offload" not in options}  # fmt: skip
    left = [line for line in priced if not any(no and word in line for word, no in passed.items())]
    return [line for line in left if not line.startswith("rows of") or found.name in line]


def _mostly(rung: Rung) -> str:
    term = rung.largest
    return f"{term.name} {gib(term.bytes)}"


def advice_json(advice: Advice) -> dict[str, Any]:
    """Return the rungs as plain values."""
    rungs = [
        {"name": rung.name, "options": rung.options, "price": rung.price, "fits": rung.fits,
         "bytes": rung.estimate.bytes, "host_bytes": rung.estimate.host_bytes}
        for rung in advice.rungs
    ]  # fmt: skip
    found = advice.found
    return {"memory": advice.memory, "headroom": advice.headroom, "limit": advice.limit,
            "rungs": rungs, "take": None if found is None else found.options,
            "largest_batch": advice.rows}  # fmt: skip
