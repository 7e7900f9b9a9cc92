"""A small model and a small text for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.token_parts import TokenPart

VOCAB, LENGTH = 50, 16


@pytest.fixture
def build() -> Callable[..., GPTModel]:
    """A function that makes the same small model every time, other options as asked."""

    def build_model(**options: Any) -> GPTModel:
        sizes = {"vocab_size": VOCAB, "context_length": LENGTH, "emb_dim": 16, "n_heads": 2}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return GPTModel({**sizes, "n_layers": 2, "tie_weights": True, **options})

    return build_model


@pytest.fixture(scope="session")
def parts() -> tuple[TokenPart, TokenPart]:
    """A training and a validation part of a text that can be learned."""
    steps = np.random.default_rng(0).integers(0, 3, 1500)
    tokens = (np.cumsum(steps) % VOCAB).astype(np.uint16)
    return TokenPart.from_tokens(tokens[:1200], VOCAB), TokenPart.from_tokens(tokens[1200:], VOCAB)
