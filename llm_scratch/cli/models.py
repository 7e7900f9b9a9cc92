"""The model that a command was given: a run, a folder, a file, an adapter, or a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llm_scratch.finetuning.adapter_loading import adapter_base, load_adapter
from llm_scratch.finetuning.adapters import CONFIG_FILE
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.gpt2 import GPT2Tokenizer
from llm_scratch.weights.folder import load_model
from llm_scratch.weights.gpt2 import build_model, find_source
from llm_scratch.weights.source import open_source

GPT2_VOCAB = 50257


def open_model(
    source: str, device: torch.device | str, dtype: torch.dtype | None = None
) -> tuple[GPTModel, Any]:
    """The model, and its tokenizer: GPT-2's for its vocabulary, None where nothing tells.

    A folder with an adapter gives its base with the adapter in it.

    Raises:
        FileNotFoundError: if there is nothing of this name.
        ValueError: if an adapter does not say which model it belongs to.
        WeightsError: if a file is damaged.
    """
    if (Path(source) / CONFIG_FILE).is_file():
        base = adapter_base(source)
        if base is None:
            raise ValueError(f"{source} does not say which model it belongs to; load_adapter does")
        model, tokenizer = open_model(base, device, dtype)
        return model, load_adapter(model, source) or tokenizer
    path = find_source(source)
    opened = open_source(path)
    if opened.metadata and path.is_dir():
        return load_model(path, device=device, dtype=dtype)
    model = build_model(opened, device=device, dtype=dtype)
    return model, GPT2Tokenizer() if model.cfg.vocab_size == GPT2_VOCAB else None
