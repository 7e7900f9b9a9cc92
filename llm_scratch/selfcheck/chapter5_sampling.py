"""The checks of the middle of chapter 5: temperature, top-k and the end of a text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter4_model import PROMPT, Counting, must_write
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_equal, randn
from llm_scratch.selfcheck.foreign import attempt, describe
from llm_scratch.selfcheck.outcome import Check, MistakeError

SIGNATURE = "(model, idx, max_new_tokens, context_size, temperature=0.0, top_k=None, eos_id=None)"
START = torch.tensor([[0]])


class Fixed(nn.Module):
    """A model with the same scores everywhere."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores: (B, T) -> (B, T, V)."""
        return self.logits.expand(*ids.shape, -1).clone()


class Ladder(nn.Module):
    """A model that counts: the next id is the last one plus 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor) -> Tensor:
        """Score the next number highest: (B, T) -> (B, T, 10)."""
        return self.scale * nn.functional.one_hot((ids + 1) % 10, 10).float()


def _divides_by_temperature(function: Any) -> None:
    logits = randn(7)
    for temperature in (0.5, 3.0):
        came = call(
            "softmax_with_temperature",
            function,
            (logits.clone(), temperature),
            "(logits, temperature)",
        )
        mistakes: Mistakes = {
            hints.TEMPERATURE_INVERTED: (logits * temperature).softmax(0),
            hints.TEMPERATURE_IGNORED: [logits.softmax(0), logits.softmax(0) / temperature],
        }
        must_equal(came, (logits / temperature).softmax(0), mistakes, hints.SOFTMAX)


def _is_greedy(function: Any) -> None:
    def write(model: Counting, prompt: Tensor) -> Any:
        return call("generate", function, (model, prompt, 6, 20), SIGNATURE)

    must_write(write, PROMPT[:1], 20)


def _crops(function: Any) -> None:
    must_write(lambda model, prompt: function(model, prompt, 6, 3), PROMPT[:1], 3)


def _draw(
    function: Any, logits: list[float], count: int, temperature: float, top_k: int | None
) -> Tensor:
    """Return how often each token was drawn, as shares."""
    came = function(Fixed(logits), START.clone(), count, 2, temperature, top_k)
    drawn = came[0, 1:]
    return torch.bincount(drawn, minlength=len(logits)) / max(len(drawn), 1)


def _samples_with_temperature(function: Any) -> None:
    logits = [2.0, 1.0, 0.0, -1.0]
    temperature = 2.0
    share = float(_draw(function, logits, 600, temperature, None)[0])
    scores = torch.tensor(logits)
    wanted, inverted, ignored = (
        float((scores * factor).softmax(0)[0]) for factor in (1 / temperature, temperature, 1.0)
    )
    if abs(share - wanted) < 0.09:
        return
    hint = hints.TEMPERATURE_IGNORED
    if abs(share - inverted) < 0.08:
        hint = hints.TEMPERATURE_INVERTED
    elif abs(share - ignored) > 0.08:
        hint = "At a temperature above 0, tokens are drawn at random; see how, and from what."
    raise MistakeError(
        f"the likeliest token in about {wanted:.0%} of the draws at temperature 2",
        f"{share:.0%}",
        hint,
    )


def _keeps_top_k(function: Any) -> None:
    logits = [0.0, 1.0, 0.5, -1.0, 0.2, -0.5]
    shares: list[Tensor] = []
    error = attempt(lambda: shares.append(_draw(function, logits, 200, 1.0, 3)))
    if isinstance(error, (RuntimeError, IndexError)):
        raise MistakeError("the 3 likeliest of 6 tokens", describe(error), hints.TOP_K_AXIS)
    if error is not None:
        raise error
    drawn = shares[0].nonzero().flatten().tolist()
    must(drawn == [1, 2, 4], "draws of the 3 likeliest tokens [1, 2, 4]", f"{drawn}", hints.TOP_K)


def _is_greedy_with_top_1(function: Any) -> None:
    shares = _draw(function, [0.0, 1.0, 0.5, -1.0], 50, 5.0, 1)
    must(float(shares[1]) == 1.0, "always token 1 with top_k=1", f"{shares.tolist()}", hints.TOP_K)


def _ends_at_eos(function: Any) -> None:
    prompt = torch.tensor([[1, 2]])
    came = function(Ladder(), prompt.clone(), 7, 10, 0.0, None, 5)
    ids = came[0].tolist()
    must(
        ids in ([1, 2, 3, 4], [1, 2, 3, 4, 5]),
        "[1, 2, 3, 4] and then the end, which is 5 (kept or dropped)",
        f"{ids}",
        hints.EOS,
    )
    ids = function(Ladder(), prompt.clone(), 7, 10)[0].tolist()
    must(len(ids) == 9, "7 new tokens without eos_id", f"{len(ids) - 2}", hints.EOS)


SAMPLING_CHECKS = (
    Check(
        "5.3.1",
        "softmax_with_temperature",
        "divides the scores by the temperature",
        _divides_by_temperature,
    ),
    Check("5.3.3", "generate", "takes the likeliest token at temperature 0", _is_greedy),
    Check("5.3.3", "generate", "shows the model the last context_size ids", _crops),
    Check(
        "5.3.3", "generate", "samples more evenly at higher temperature", _samples_with_temperature
    ),
    Check("5.3.3", "generate", "draws from the top k only", _keeps_top_k),
    Check("5.3.3", "generate", "with top_k=1 leaves no choice", _is_greedy_with_top_1),
    Check("5.3.3", "generate", "ends at eos_id", _ends_at_eos),
)
