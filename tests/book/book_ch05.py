"""What chapter 5 needs models for: each function makes one, and returns what came out of it.

Nothing here keeps a model, so that there is only one of GPT-2's size in memory at a time.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from llm_scratch.generation.decoding import generate, generate_text_simple
from llm_scratch.model.config import GPT_CONFIG_124M
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.windows import create_dataloader_v1, split_text
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids, token_ids_to_text
from llm_scratch.training.evaluation import evaluate_model
from llm_scratch.training.losses import calc_loss_batch, calc_loss_loader
from llm_scratch.training.simple import load_checkpoint, save_checkpoint, train_model_simple

CONFIG = {**GPT_CONFIG_124M, "context_length": 256}
START = "Every effort moves you"
LOG_LINE = re.compile(r"Ep (\d+) \(Step (\d{6})\): Train loss (\d+\.\d{3}), Val loss (\d+\.\d{3})")


def loaders(text: str, batch_size: int = 2, length: int = 256) -> tuple[DataLoader, DataLoader]:
    """The loaders of the training and the validation part."""
    train, val = split_text(text, 0.9)
    return (
        create_dataloader_v1(train, batch_size, length, length),
        create_dataloader_v1(val, batch_size, length, length, shuffle=False, drop_last=False),
    )


def seeded_model() -> GPTModel:
    torch.manual_seed(123)
    return GPTModel(CONFIG)


def adamw(model: GPTModel, lr: float = 4e-4, fused: bool = False) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1, fused=fused)


def rows_of(lines: list[str]) -> list[list[float]]:
    """The numbers in a log, as it prints them: epoch, step, training loss, validation loss."""
    found = [LOG_LINE.fullmatch(line) for line in lines]
    return [[int(m[1]), int(m[2]), float(m[3]), float(m[4])] for m in found if m]


def train(
    model: GPTModel, loaders_of_both: Any, optimizer: Any, tokenizer: Any, **options: Any
) -> tuple[list[float], list[float], list[int]]:
    """The book's loop with the book's settings, where `options` don't say otherwise."""
    settings = {"num_epochs": 1, "eval_freq": 5, "eval_iter": 5, "log": lambda line: None}
    return train_model_simple(
        model,
        *loaders_of_both,
        optimizer,
        "cpu",
        start_context=START,
        tokenizer=tokenizer,
        **{**settings, **options},
    )


def before_training(tokenizer: Any) -> SimpleNamespace:
    """What the untrained model says."""
    model = seeded_model().eval()
    inputs = torch.tensor([tokenizer.encode(t) for t in ("every effort moves", "I really like")])
    texts = (" effort moves you", " really like chocolate")
    targets = torch.tensor([tokenizer.encode(t) for t in texts])
    with torch.no_grad():
        return SimpleNamespace(
            ids=generate_text_simple(model, text_to_token_ids(START, tokenizer), 10, 256),
            inputs=inputs,
            targets=targets,
            logits=model(inputs),
            loss=calc_loss_batch(inputs, targets, model, "cpu"),
        )


class EnoughError(Exception):
    """Ends a training run after the first line of its log."""


def first_row(
    model: GPTModel, loaders_of_both: Any, optimizer: Any, tokenizer: Any, **options: Any
) -> list[float]:
    """The first line that a training run logs, which is all that is run of it."""
    lines: list[str] = []

    def log_one(line: str) -> None:
        lines.append(line)
        raise EnoughError

    with contextlib.suppress(EnoughError):
        train(model, loaders_of_both, optimizer, tokenizer, log=log_one, **options)
    (row,) = rows_of(lines)
    return row


def untrained_losses(text: str) -> tuple[float, float]:
    """Training and validation loss before training."""
    return evaluate_model(seeded_model(), *loaders(text), "cpu", None)


def start_of_training(text: str, tokenizer: Any) -> SimpleNamespace:
    """The validation loss before training, the loss of the first batch, the log's first line."""
    both = loaders(text)
    model = seeded_model()
    fresh = torch.get_rng_state()
    val_loss = calc_loss_loader(both[1], model.eval(), "cpu")

    torch.set_rng_state(fresh)  # a loader draws from it, whether it shuffles or not
    inputs, targets = next(iter(both[0]))
    with torch.no_grad():
        first_batch = calc_loss_batch(inputs, targets, model.train(), "cpu")

    torch.set_rng_state(fresh)
    row = first_row(model, both, adamw(model, fused=True), tokenizer)  # the same digits, sooner
    return SimpleNamespace(val_loss=val_loss, first_batch=first_batch.item(), first_row=row)


def whole_training(text: str, tokenizer: Any, folder: Path) -> SimpleNamespace:
    """The book's training run: its log, what the trained model writes, and one more epoch."""
    lines: list[str] = []
    both = loaders(text)
    model = seeded_model()
    optimizer = adamw(model)
    losses, _, _ = train(model, both, optimizer, tokenizer, num_epochs=10, log=lines.append)

    prompt = text_to_token_ids(START, tokenizer)
    greedy = generate(model, prompt, 25, 256)
    torch.manual_seed(123)
    sampled = generate(model, prompt, 15, 256, temperature=1.4, top_k=25)

    checkpoint = folder / "model_and_optimizer.pth"
    save_checkpoint(checkpoint, model, optimizer)
    del model, optimizer
    more_lines = one_more_epoch(both, tokenizer, checkpoint)
    checkpoint.unlink()  # 1.9 GB
    return SimpleNamespace(
        rows=rows_of(lines),
        evaluations=len(losses),
        greedy=token_ids_to_text(greedy, tokenizer),
        sampled=token_ids_to_text(sampled, tokenizer),
        more_rows=rows_of(more_lines),
    )


def one_more_epoch(both: Any, tokenizer: Any, checkpoint: Path) -> list[str]:
    """The log of an epoch that goes on from the saved model and optimizer."""
    lines: list[str] = []
    model = GPTModel(CONFIG)
    optimizer = adamw(model, lr=5e-4)
    load_checkpoint(checkpoint, model, optimizer)
    torch.manual_seed(123)
    train(model, both, optimizer, tokenizer, log=lines.append)
    return lines


def evaluations_of_a_tiny_run(text: str, tokenizer: Any) -> int:
    """How many evaluations an epoch of a tiny model makes."""
    sizes = {"context_length": 12, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
    model = GPTModel({**GPT_CONFIG_124M, **sizes})
    both = loaders(text, batch_size=2, length=12)
    return len(train(model, both, adamw(model), tokenizer, eval_iter=1)[0])


def losses_after_one_window(text: str, tokenizer: Any) -> list[float]:
    """Training and validation loss after one step on a single window."""
    both = [DataLoader(Subset(loader.dataset, range(1)), batch_size=1) for loader in loaders(text)]
    model = seeded_model()
    return first_row(model, both, adamw(model, lr=5e-4), tokenizer)[2:]


def released_model(folder: Path, tokenizer: Any) -> SimpleNamespace:
    """What the released GPT-2 in a folder is and writes."""
    from llm_scratch.weights.gpt2 import load_gpt2

    model = load_gpt2(folder)
    prompt = text_to_token_ids(START, tokenizer)
    torch.manual_seed(123)
    ids = generate(model, prompt, 25, 1024, temperature=1.5, top_k=50)
    embedding = model.tok_emb.weight.detach()
    return SimpleNamespace(
        cfg=model.cfg,
        text=token_ids_to_text(ids, tokenizer).rstrip("\n"),
        embedding_shape=embedding.shape,
        embedding_corners=embedding[[0, 1, 2, -3, -2, -1]].clone(),
    )


def released_model_losses(folder: Path, text: str) -> tuple[float, float]:
    """Training and validation loss of the released GPT-2 in a folder."""
    from llm_scratch.weights.gpt2 import load_gpt2

    both = loaders(text)
    torch.manual_seed(123)
    return evaluate_model(load_gpt2(folder), *both, "cpu", None)
