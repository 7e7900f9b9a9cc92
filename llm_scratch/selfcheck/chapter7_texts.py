"""Parts that the checks of chapter 7 share: entries, a tokenizer of characters, formulas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import must, number
from llm_scratch.selfcheck.outcome import MistakeError

SECTION = "Preferences"
ENTRIES = [
    {"instruction": "Give the plural.", "input": "goose", "output": "geese"},
    {"instruction": "Name a prime number.", "input": "", "output": "Seventeen"},
    {"instruction": "Translate into Latin.", "input": "the tide", "output": "aestus"},
]


class Characters:
    """A tokenizer whose ids are the numbers of a text's characters."""

    n_vocab = 256
    eot_token = 0

    def encode(self, text: str, *args: Any, **kwargs: Any) -> list[int]:
        """Return one id per character; options such as `allowed_special` change nothing."""
        return [ord(character) % self.n_vocab for character in text]

    def decode(self, ids: Sequence[int], *args: Any, **kwargs: Any) -> str:
        """Return one character per id."""
        return "".join(chr(int(number)) for number in ids)


def text_of_item(item: Any) -> str:
    """Return the text of an item, which is a list or a tensor of ids."""
    if isinstance(item, str) or not hasattr(item, "__len__"):
        raise MistakeError("a list of ids", type(item).__name__, hints.NOT_TENSOR)
    return Characters().decode([int(number) for number in item])


def must_hold(text: str, parts: Iterable[str], hint: str) -> None:
    """Check that a text contains some parts, in this order."""
    start = 0
    for part in parts:
        place = text.find(part, start)
        end = repr(text[-50:])
        must(place >= 0, f"{part!r} in the text, in its place", f"a text that ends in {end}", hint)
        start = place + len(part)


def mean_logprobs(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean log-probability of each row's tokens that the mask counts: (B,)."""
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:, None]).squeeze(-1)
    counted = torch.ones_like(chosen) if mask is None else mask[:, 1:].to(chosen.dtype)
    return (chosen * counted).sum(-1) / counted.sum(-1)


def dpo_loss(model: Sequence[Tensor], reference: Sequence[Tensor], beta: float) -> Tensor:
    """Return the DPO loss and both mean rewards: (3,).

    Args:
        model: log-probabilities of the chosen and the rejected answers, (B,) each.
        reference: the same from the reference.
        beta: the factor of the difference of the rewards.
    """
    rewards = model[0] - reference[0], model[1] - reference[1]
    loss = -F.logsigmoid(beta * (rewards[0] - rewards[1])).mean()
    return torch.stack([loss, rewards[0].mean(), rewards[1].mean()])


def must_be_numbers(came: Any, what: str = "loss, chosen rewards, rejected rewards") -> Tensor:
    """Return three results as a tensor (3,)."""
    must(
        isinstance(came, (tuple, list)) and len(came) == 3,
        what,
        type(came).__name__,
        hints.NOT_TENSOR,
    )
    numbers = [number(value) for value in came]
    sizes = {tuple(value.shape) for value in numbers}
    must(sizes == {()}, "three numbers", f"shapes {sizes}", hints.DPO_MEAN)
    return torch.stack(numbers)
