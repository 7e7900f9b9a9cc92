"""What chapter 7 needs instructions and models for: each function returns what came out of them.

Nothing here keeps a model, so that there is only one of GPT-2's size in memory at a time.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from book_ch06 import LOG_LINE, TINY
from torch.utils.data import DataLoader

from llm_scratch.finetuning.instructions import (
    InstructionDataset,
    InstructionDatasetWithMasking,
    custom_collate_fn,
    custom_collate_with_masking_fn,
)
from llm_scratch.finetuning.prompts import extract_response, format_input
from llm_scratch.generation.decoding import generate
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids, token_ids_to_text
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT
from llm_scratch.training.losses import calc_loss_loader
from llm_scratch.training.simple import train_model_simple

OF_EXERCISE_2 = (999, 43, 265)  # the rows of the file that the exercise has as its sample


def split(data: list) -> tuple[list, list, list]:
    """The book's training, test and validation parts, in the order of the file."""
    train, test = int(len(data) * 0.85), int(len(data) * 0.1)
    return data[:train], data[train : train + test], data[train + test :]


def loaders(train: list, val: list, tokenizer: Any, most: int) -> list[DataLoader]:
    """The book's loaders: training and validation."""
    collate = partial(custom_collate_fn, device="cpu", allowed_max_length=most)
    parts = [InstructionDataset(part, tokenizer) for part in (train, val)]
    torch.manual_seed(123)
    return [
        DataLoader(parts[0], 8, shuffle=True, drop_last=True, collate_fn=collate),
        DataLoader(parts[1], 8, shuffle=False, drop_last=False, collate_fn=collate),
    ]


def sample_batch(data: list, tokenizer: Any) -> SimpleNamespace:
    """The batch of exercise 7.2, whose instructions are masked."""
    dataset = InstructionDatasetWithMasking([data[row] for row in OF_EXERCISE_2], tokenizer)
    inputs, targets = custom_collate_with_masking_fn([dataset[i] for i in range(len(dataset))])
    return SimpleNamespace(inputs=inputs, targets=targets)


def losses_of_a_tiny_model(data: list, tokenizer: Any) -> list[float]:
    """The first losses of training a tiny model on fifteen entries."""
    train, _, val = split(data)
    both = loaders(train[:15], val[:15], tokenizer, 100)
    model = GPTModel(TINY).eval()
    torch.manual_seed(123)
    found, _ = trained(model, both, val, tokenizer, 1)
    return [found[0][0], found[1][0]]


def trained(model: GPTModel, both: list[DataLoader], val: list, tokenizer: Any, epochs: int) -> Any:
    """The book's training: what it returns, and the rows of its log."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    lines: list[str] = []
    start = format_input(val[0])
    found = train_model_simple(
        model, *both, optimizer, "cpu", epochs, 5, 5, start, tokenizer, log=lines.append
    )
    matches = [LOG_LINE.fullmatch(line) for line in lines]
    return found, [[int(m[1]), int(m[2]), float(m[3]), float(m[4])] for m in matches if m]


def untrained(folder: Path, data: list, tokenizer: Any) -> SimpleNamespace:
    """What the released GPT-2 in a folder makes of instructions: its losses and an answer."""
    model = released_model(folder)
    train, _, val = split(data)
    both = loaders(train, val, tokenizer, 1024)
    text = answer(model, tokenizer, val[0], 35)
    return SimpleNamespace(losses=first_losses(model, both), answer=text)


def released_model(folder: Path) -> GPTModel:
    from llm_scratch.weights.gpt2 import load_gpt2

    return load_gpt2(folder, tie_weights=False).eval()


def first_losses(model: GPTModel, both: list[DataLoader]) -> list[float]:
    """Training and validation loss of five batches, each batch as much as another."""
    torch.manual_seed(123)
    return [calc_loss_loader(part, model, "cpu", 5, average="batches") for part in both]


def whole_training(folder: Path, data: list, tokenizer: Any) -> list[list[float]]:
    """The book's run on the released GPT-2: the rows of its log."""
    model = released_model(folder)
    train, _, val = split(data)
    both = loaders(train, val, tokenizer, 1024)
    first_losses(model, both)
    torch.manual_seed(123)
    return trained(model, both, val, tokenizer, 2)[1]


def answer(model: GPTModel, tokenizer: Any, entry: dict, new_tokens: int) -> str:
    """The greedy answer to an entry, as the book cuts it out."""
    prompt = format_input(entry)
    ids = text_to_token_ids(prompt, tokenizer)
    written = generate(model.eval(), ids, new_tokens, 1024, eos_id=50256)
    text = token_ids_to_text(written, tokenizer).removesuffix(END_OF_TEXT)
    return extract_response(text, prompt)
