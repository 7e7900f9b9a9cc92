"""What the tests of chapter 5 share."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CONFIG

from llm_scratch.model.gpt import GPTModel


@pytest.fixture
def model() -> GPTModel:
    """A tiny model with random weights, in evaluation mode."""
    torch.manual_seed(21)
    return GPTModel(CONFIG).eval()
