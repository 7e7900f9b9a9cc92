"""What the bonus material on preference tuning prints: each function returns what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from llm_scratch.finetuning.dpo_simple import (
    PreferenceDataset,
    compute_dpo_loss_loader,
    compute_logprobs,
    preference_collate,
)
from llm_scratch.model.gpt import GPTModel


def loss_by_picking() -> float:
    """The mean negative log-probability of two targets, each after its own logits."""
    logits = torch.tensor([[[2.0, 1.0, 0.1], [0.5, 2.5, 0.3], [0.0, 0.0, 0.0]]])  # (1, 3, 3)
    labels = torch.tensor([[0, 0, 2]])  # the first has no logits before it
    return -compute_logprobs(logits, labels).item()


def gathered() -> list[list[float]]:
    """What `gather` picks along the last dimension."""
    return (
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]).gather(-1, torch.tensor([[1, 1], [0, 1]])).tolist()
    )


def loss_of_the_reference_itself(path: Path, tokenizer: Any) -> list[float]:
    """Loss and rewards of any model against itself, on a few of the book's pairs."""
    entries = json.loads(path.read_text(encoding="utf-8"))[:8]
    torch.manual_seed(123)
    sizes = {"vocab_size": 50257, "context_length": 512, "emb_dim": 8, "n_heads": 2, "n_layers": 1}
    model = GPTModel({**sizes, "drop_rate": 0.0, "qkv_bias": True}).eval()
    loader = DataLoader(PreferenceDataset(entries, tokenizer), 4, collate_fn=preference_collate)
    return list(compute_dpo_loss_loader(loader, model, model, beta=0.1))
