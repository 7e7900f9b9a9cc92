"""Measurement of how well a model predicts a text: loss, perplexity, bits per byte."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import device_of
from llm_scratch.text.mixed_files import MixedFiles
from llm_scratch.text.token_file import TokenFile
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.training.config import Precision
from llm_scratch.training.facts import first_rows
from llm_scratch.training.precision import pick_precision
from llm_scratch.training.steps import Engine


@dataclass(frozen=True)
class Measured:
    """A measurement.

    Args:
        loss: nats per token.
        targets: the number of tokens predicted.
        bits_per_byte: independent of the vocabulary; None where the bytes are not known.
    """

    loss: float
    targets: int
    bits_per_byte: float | None

    @property
    def perplexity(self) -> float:
        """The number of equally likely tokens with the same loss: `exp(loss)`."""
        return math.exp(self.loss)


@torch.no_grad()
def measure(
    model: Any,
    part: TokenPart,
    length: int,
    rows: int = 8,
    id_bytes: np.ndarray | None = None,
    *,
    precision: Precision = "auto",
) -> Measured:
    """Measure a model on every window of a part, in order.

    Args:
        model: a `GPTModel`; its modes are left as found.
        part: the tokens.
        length: tokens per window; no window sees the ones before it.
        rows: windows at a time.
        id_bytes: the number of bytes of text per id (`TokenFile.id_bytes`).
        precision: as in `TrainConfig`.

    Raises:
        ValueError: if the part is shorter than a window, or `length` is above the context length.
    """
    if length > model.cfg.context_length:
        raise ValueError(f"{length=} is above the context length of {model.cfg.context_length}")
    device = device_of(model)
    engine = Engine(model, [], device, pick_precision(precision, device))
    total, targets_seen, bytes_seen = 0.0, 0, 0
    with evaluation_mode(model):
        for inputs, targets in part.rows_in_order(length, rows):
            total += engine.loss((inputs, targets), 1.0).item()
            targets_seen += targets.numel()
            if id_bytes is not None:
                bytes_seen += int(id_bytes[targets.numpy()].sum())
    bits = total / math.log(2) / bytes_seen if bytes_seen else None
    return Measured(total / targets_seen, targets_seen, bits)


def check_vocabularies(model: Any, tokenizer: Any, data: TokenFile | MixedFiles) -> None:
    """Check that a token file was made for a model.

    Args:
        model: the model.
        tokenizer: the model's tokenizer; None compares only the vocabulary sizes.
        data: one token file or several.

    Raises:
        ValueError: if the tokenizers differ, or the file has ids that the model does not have.
    """
    if tokenizer is not None and (own := fingerprint(tokenizer)) != data.fingerprint:
        raise ValueError(
            f"{data.path} was made with the tokenizer {data.fingerprint[:12]}..., the model has "
            f"{own[:12]}...; prepare the text with the model's tokenizer"
        )
    if data.vocab_size > model.cfg.vocab_size:
        raise ValueError(
            f"{data.path} has a vocabulary of {data.vocab_size} ids, the model of "
            f"{model.cfg.vocab_size}; they do not belong together"
        )


def part_to_measure(
    data: TokenFile, length: int, *, name: str | None = None, run: str | os.PathLike[str] = ""
) -> tuple[str, TokenPart]:
    """Return the part of a token file to measure a model on: its name and its tokens.

    Args:
        data: the token file.
        length: tokens per window.
        name: "train", "val" or "all"; None is "val" if the run was trained on this file, else
            "all", as the model has seen none of it.
        run: the folder of the run that the model comes from, if any.

    Raises:
        ValueError: if the name is not known, or a part is shorter than a window.
    """
    if name is None:
        name = "val" if trained_on(run, data) else "all"
    if name == "all":
        return name, data.whole
    if name not in ("train", "val"):
        raise ValueError(f"part {name!r} is not known; there are train, val, all")
    return name, data.split(min_tokens=length + 1)[name == "val"]


def trained_on(run: str | os.PathLike[str], data: TokenFile) -> bool:
    """Return whether the run in a folder was trained on this token file."""
    try:
        content = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))
        length = content["train"]["length"] or content["model"]["context_length"]
        part = data.split(min_tokens=length + 1)[0]
        facts = content["data"]
        known = [facts, *(facts.get("parts") or {}).values()]
        return first_rows(part, length) in [source["first rows"] for source in known]
    except (OSError, ValueError, KeyError, TypeError):
        return False
