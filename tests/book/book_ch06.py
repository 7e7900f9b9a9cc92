"""What chapter 6 needs messages and models for: each function returns what came out of them.

Nothing here keeps a model, so that there is only one of GPT-2's size in memory at a time.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from llm_scratch.finetuning.labelled_rows import create_balanced_dataset, random_split, read_sms
from llm_scratch.finetuning.spam_classifier import (
    SpamDataset,
    calc_accuracy_loader,
    classify_review,
    last_position_loss,
    train_classifier_simple,
)
from llm_scratch.finetuning.text_classifier import replace_head
from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids, token_ids_to_text
from llm_scratch.training.losses import calc_loss_loader

LOG_LINE = re.compile(r"Ep (\d+) \(Step (\d{6})\): Train loss (\d+\.\d{3}), Val loss (\d+\.\d{3})")
TINY = {
    **{"vocab_size": 50257, "context_length": 120, "emb_dim": 12, "n_heads": 2, "n_layers": 1},
    **{"drop_rate": 0.0, "qkv_bias": False},
}


def datasets(path: Path, tokenizer: Any) -> list[SpamDataset]:
    """The book's three data sets: training, validation, test."""
    parts = random_split(create_balanced_dataset(read_sms(path)), 0.7, 0.1)
    train = SpamDataset(parts[0], tokenizer)
    return [train, *(SpamDataset(part, tokenizer, train.max_length) for part in parts[1:])]


def loaders(parts: list[SpamDataset]) -> list[DataLoader]:
    """The book's three loaders."""
    torch.manual_seed(123)
    train = DataLoader(parts[0], batch_size=8, shuffle=True, num_workers=0, drop_last=True)
    return [train, *(DataLoader(part, batch_size=8, drop_last=False) for part in parts[1:])]


def percents(all_loaders: list[DataLoader], model: Any, batches: int | None) -> list[float]:
    return [100 * calc_accuracy_loader(part, model, "cpu", batches) for part in all_loaders]


def released_model(folder: Path, tokenizer: Any, prompt: str) -> SimpleNamespace:
    """What the released GPT-2 in a folder writes, and what a new head makes of it."""
    from llm_scratch.weights.gpt2 import load_gpt2

    model = load_gpt2(folder, tie_weights=False)
    texts = []
    for start, new_tokens in (("Every effort moves you", 15), (prompt, 23)):
        ids = generate_text_simple(model, text_to_token_ids(start, tokenizer), new_tokens, 1024)
        texts.append(token_ids_to_text(ids, tokenizer))
    torch.manual_seed(123)
    replace_head(model, 2)
    with torch.no_grad():
        outputs = model(text_to_token_ids("Do you have time", tokenizer))
    return SimpleNamespace(greedy=texts[0], answer=texts[1][len(prompt) :], outputs=outputs)


def whole_training(
    model: GPTModel, parts: list[SpamDataset], tokenizer: Any, texts: list[str], folder: Path
) -> SimpleNamespace:
    """The book's run on a model without a head for classes: before, the log, after, and use."""

    def said(model: GPTModel) -> list[str]:
        length = parts[0].max_length
        return [classify_review(text, model, tokenizer, "cpu", length) for text in texts]

    torch.manual_seed(123)
    replace_head(model, 2)
    all_loaders = loaders(parts)
    torch.manual_seed(123)
    before = percents(all_loaders, model, 10)
    losses = [
        calc_loss_loader(part, model, "cpu", 5, loss_fn=last_position_loss) for part in all_loaders
    ]
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    lines: list[str] = []
    results = train_classifier_simple(
        model, *all_loaders[:2], optimizer, "cpu", 5, 50, 5, log=lines.append
    )
    found = [LOG_LINE.fullmatch(line) for line in lines]
    path = folder / "review_classifier.pth"
    torch.save(model.state_dict(), path)
    loaded = replace_head(GPTModel.empty(model.cfg), 2)
    loaded.load_state_dict(torch.load(path, weights_only=True))
    path.unlink()  # 500 MB
    return SimpleNamespace(
        accuracy_before=before,
        losses_before=losses,
        rows=[[int(m[1]), int(m[2]), float(m[3]), float(m[4])] for m in found if m],
        epoch_accuracy=[[100 * a, 100 * b] for a, b in zip(*results[2:4], strict=True)],
        accuracy_after=percents(all_loaders, model, None),
        said=said(model),
        said_when_loaded=said(loaded),
    )


def tiny_model() -> GPTModel:
    """A tiny model with a head for two classes."""
    torch.manual_seed(123)
    model = GPTModel(TINY)
    torch.manual_seed(123)
    return replace_head(model, 2)


def losses_of_a_tiny_model(parts: list[SpamDataset]) -> list[float]:
    """Training and validation loss of a tiny model after one step on five messages."""
    both = [DataLoader(Subset(part, range(5)), batch_size=5) for part in parts[:2]]
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    results = train_classifier_simple(
        model, *both, optimizer, "cpu", 1, 1, 1, log=lambda line: None
    )
    return [results[0][0], results[1][0]]
