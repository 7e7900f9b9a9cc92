"""What appendix E needs messages and models for: each function returns what came out of them.

Nothing here keeps a model, so that there is only one of GPT-2's size in memory at a time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from book_ch06 import LOG_LINE, TINY, loaders, percents
from torch.utils.data import DataLoader, Subset

from llm_scratch.finetuning.spam_classifier import SpamDataset, train_classifier_simple
from llm_scratch.finetuning.text_classifier import replace_head
from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.lora.layers import freeze, replace_linear_with_lora
from llm_scratch.model.config import gpt2_config
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids, token_ids_to_text


def trainable_numbers(size: str, classes: int | None) -> SimpleNamespace:
    """How many numbers learn in a model of GPT-2's size: as it is, frozen, and with LoRA."""
    model = GPTModel.empty(replace(gpt2_config(size), tie_weights=False))
    if classes:
        replace_head(model, classes, train="all")
    counts = [model.num_parameters(trainable_only=True)]
    freeze(model)
    counts.append(model.num_parameters(trainable_only=True))
    replace_linear_with_lora(model, rank=16, alpha=16)
    counts.append(model.num_parameters(trainable_only=True))
    return SimpleNamespace(before=counts[0], frozen=counts[1], lora=counts[2])


def greedy_text(folder: Path, tokenizer: Any) -> str:
    """What the released GPT-2 in a folder writes."""
    from llm_scratch.weights.gpt2 import load_gpt2

    model = load_gpt2(folder, tie_weights=False)
    idx = text_to_token_ids("Every effort moves you", tokenizer)
    return token_ids_to_text(generate_text_simple(model, idx, 15, 1024), tokenizer)


def with_lora(model: GPTModel, parts: list[SpamDataset]) -> SimpleNamespace:
    """A classifier from a language model, as in E.3 and E.4: accuracies before and after LoRA.

    The random numbers come in the book's order: LoRA's matrices are drawn after the accuracies.
    """
    torch.manual_seed(123)
    replace_head(model, 2, train="all")
    all_loaders = loaders(parts)
    torch.manual_seed(123)
    before = percents(all_loaders, model, 10)
    freeze(model)
    replace_linear_with_lora(model, rank=16, alpha=16)
    torch.manual_seed(123)
    after = percents(all_loaders, model, 10)
    return SimpleNamespace(loaders=all_loaders, before=before, with_zero_b=after)


def whole_training(model: GPTModel, parts: list[SpamDataset]) -> SimpleNamespace:
    """The book's run with LoRA: the rows of its log, and the accuracies at its end."""
    start = with_lora(model, parts)
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-4, weight_decay=0.1)
    lines: list[str] = []
    train_classifier_simple(model, *start.loaders[:2], optimizer, "cpu", 5, 50, 5, log=lines.append)
    found = [LOG_LINE.fullmatch(line) for line in lines]
    rows = [[int(m[1]), int(m[2]), float(m[3]), float(m[4])] for m in found if m]
    return SimpleNamespace(rows=rows, final=percents(start.loaders, model, None))


def losses_of_a_tiny_model(parts: list[SpamDataset]) -> list[float]:
    """Training and validation loss of a tiny model with LoRA after one step on five messages."""
    both = [DataLoader(Subset(part, range(5)), batch_size=5) for part in parts[:2]]
    torch.manual_seed(123)
    model = GPTModel(TINY)
    torch.manual_seed(123)
    replace_head(model, 2, train="all")
    freeze(model)
    replace_linear_with_lora(model, rank=16, alpha=16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    results = train_classifier_simple(
        model, *both, optimizer, "cpu", 1, 1, 1, log=lambda line: None
    )
    return [results[0][0], results[1][0]]
