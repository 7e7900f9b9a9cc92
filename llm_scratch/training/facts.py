"""Facts that tell one run from another: the same when it continues, and for all its processes."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import torch

from llm_scratch.text.mixture import Mixture
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.training.objective import TrainData
from llm_scratch.weights.folder_metadata import checksum


def facts_of(
    model: Any, data: TrainData, length: int, tokenizer: Any = None, base: str | None = None
) -> dict[str, Any]:
    """Return what a run is told apart by, as plain values.

    Args:
        model: what learns.
        data: what it learns from.
        length: tokens of a row.
        tokenizer: of the data.
        base: a mark of what is frozen, of a model with more than its family has.
    """
    facts = {} if base is None else {"base": base}
    return (
        facts
        | {"model": asdict(model.cfg)}
        | data_facts(data, length)
        | {"tokenizer": None if tokenizer is None else fingerprint(tokenizer)}
    )


def data_facts(data: TrainData, length: int) -> dict[str, Any]:
    """Return the marks of some data: of a mixture, its shares and the marks of each part, too."""
    mix = parts = None
    if isinstance(data, Mixture):
        mix = " ".join(f"{name}:{share}" for name, share in data.shares.items())
        parts = {name: _marks(part, length) for name, part in data.parts.items()}
    return {"mix": mix, "parts": parts, **_marks(data, length)}


def _marks(data: TrainData, length: int) -> dict[str, Any]:
    return {"rows": data.num_rows(length), "first rows": first_rows(data, length)}


def first_rows(data: TrainData, length: int) -> str:
    """Return a mark of some data: 16 hex digits that its first shuffled rows have."""
    batch = data.batch(0, 0, 16, length)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).hexdigest()[:16]


def weights_mark(model: torch.nn.Module) -> str:
    """Return 16 hex digits for a model's parameters; those on the meta device have no numbers."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.is_meta or checksum(parameter)}".encode())
    return digest.hexdigest()[:16]


def difference(was: Any, now: Any, name: str = "") -> str:
    """Return in words how a fact differs from what it was; of two dicts, where they differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [key for key in {**now, **was} if was.get(key) != now.get(key)]
        found = (difference(was.get(key), now.get(key), f"{name}{key} ") for key in names)
        return ", ".join(found)
    return f"{name}{was!r} before, {now!r} now"
