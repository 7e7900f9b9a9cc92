"""Facts that identify a run: the same in all its processes, and when it resumes."""

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
    """Return the facts that identify a run, as plain values.

    Args:
        model: the model.
        data: the training data.
        length: tokens per row.
        tokenizer: the tokenizer of the data.
        base: a hash of the frozen part of a model with extra parameters, such as LoRA's.
    """
    facts = {} if base is None else {"base": base}
    return (
        facts
        | {"model": asdict(model.cfg)}
        | data_facts(data, length)
        | {"tokenizer": None if tokenizer is None else fingerprint(tokenizer)}
    )


def data_facts(data: TrainData, length: int) -> dict[str, Any]:
    """Return the data's row count and hash; for a mixture, also its shares and parts' facts."""
    mix = parts = None
    if isinstance(data, Mixture):
        mix = " ".join(f"{name}:{share}" for name, share in data.shares.items())
        parts = {name: _marks(part, length) for name, part in data.parts.items()}
    return {"mix": mix, "parts": parts, **_marks(data, length)}


def _marks(data: TrainData, length: int) -> dict[str, Any]:
    return {"rows": data.num_rows(length), "first rows": first_rows(data, length)}


def first_rows(data: TrainData, length: int) -> str:
    """Return a hash of the data's first 16 shuffled rows: 16 hex digits."""
    batch = data.batch(0, 0, 16, length)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).hexdigest()[:16]


def weights_mark(model: torch.nn.Module) -> str:
    """Return a hash of a model's parameters, by name alone on the meta device: 16 hex digits."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.is_meta or checksum(parameter)}".encode())
    return digest.hexdigest()[:16]


def difference(was: Any, now: Any, name: str = "") -> str:
    """Return a fact's old and new value in words; of two dicts, only the entries that differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        names = [key for key in {**now, **was} if was.get(key) != now.get(key)]
        found = (difference(was.get(key), now.get(key), f"{name}{key} ") for key in names)
        return ", ".join(found)
    return f"{name}{was!r} before, {now!r} now"
