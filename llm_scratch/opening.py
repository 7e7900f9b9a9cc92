"""The front door: one call that opens any model, with the tokenizer that belongs to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm_scratch.lora.loading import adapter_base, load_adapter
from llm_scratch.lora.saving import CONFIG_FILE
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.weights.folder import load_model
from llm_scratch.weights.gpt2 import build_model, find_source
from llm_scratch.weights.source import open_source

GPT2_VOCAB = 50257


@dataclass(frozen=True)
class OpenModel:
    """An opened model; unpacks as `model, tokenizer = open_model(...)`.

    Args:
        model: in evaluation mode.
        tokenizer: the one that it was trained with; None where nothing says which.
        format: how conversations become text for it; None as long as it has none.
    """

    model: Any
    tokenizer: Any
    format: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))


def open_model(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: Any = None,
) -> OpenModel:
    """Open a model and its tokenizer, whatever holds them.

    Raises:
        FileNotFoundError: if there is nothing of this name.
        ValueError: if an adapter does not say which model it belongs to.
        WeightsError: if a file is damaged.
    """
    if (Path(source) / CONFIG_FILE).is_file():
        base = adapter_base(source)
        if base is None:
            raise ValueError(f"{source} does not say which model it belongs to; load_adapter does")
        opened_base = open_model(base, device=device, dtype=dtype)
        own = load_adapter(opened_base.model, source)
        return OpenModel(opened_base.model, tokenizer or own or opened_base.tokenizer)
    path = find_source(source)
    opened = open_source(path)
    if opened.metadata and path.is_dir():
        model, own = load_model(path, device=device, dtype=dtype)
        return OpenModel(model, tokenizer or own)
    model = build_model(opened, device=device, dtype=dtype)
    own = GPT2Tokenizer() if model.cfg.vocab_size == GPT2_VOCAB else None
    return OpenModel(model, tokenizer or own)
