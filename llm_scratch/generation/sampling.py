"""Sampling: pure functions from (B, V) logits to the next token, one choice per row (book 5.3).

The order, if several settings are given: repetition, presence and frequency penalty, biases, banned
ids; then, at a temperature of 0, the most likely token; above 0, top-k, temperature, top-p, min-p,
softmax, draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm_scratch.checks import check_count, is_number

# How many of the most likely tokens top-p looks at first: sorting a whole vocabulary takes half
# the time that GPT-2 takes per token.
NUCLEUS = 2048

Generators = torch.Generator | Sequence[torch.Generator] | None


def check_sampling(
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> None:
    """Refuse meaningless settings before any work is done.

    Raises:
        ValueError: if `temperature` is negative or not a number, `top_k` is negative, or `top_p`
            or `min_p` is not a probability.
    """
    if not is_number(temperature, 0):
        raise ValueError(f"{temperature=} must be 0 or more and finite; 0 is greedy")
    if top_k is not None:
        check_count("top_k", top_k, 0, "0 and None mean no limit")
    if top_p is not None and not is_number(top_p, 0, 1):
        raise ValueError(f"{top_p=} must be from 0 (the likeliest token alone) to 1 (no limit)")
    if min_p is not None and not is_number(min_p, 0, 1):
        raise ValueError(f"{min_p=} must be from 0 (no limit) to 1 (the likeliest token alone)")


def keep_top_k(logits: Tensor, top_k: int | None) -> Tensor:
    """Set all but the k largest logits of each row to -inf: (B, V) -> (B, V).

    Ties with the k-th largest stay. None, 0 and anything from V on mean no limit.

    Source:
        Book 5.3.2; Fan et al. 2018, arXiv:1805.04833.
    """
    if not top_k or top_k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float | None) -> Tensor:
    """Set all logits but those of the tokens that make up `top_p` to -inf: (B, V) -> (B, V).

    These are the most likely tokens, whose probabilities together reach `top_p`. The token that
    crosses the limit stays, so one is always left. None and 1 mean no limit.

    Source:
        Holtzman et al. 2020, arXiv:1904.09751 (nucleus sampling).
    """
    if top_p is None or top_p >= 1:
        return logits
    probabilities = logits.softmax(dim=-1)
    largest, ids = probabilities.topk(min(NUCLEUS, probabilities.shape[-1]), dim=-1)  # (B, N)
    rest = probabilities.sum(dim=-1) - largest.sum(dim=-1)
    if bool((rest > 1 - top_p).any()):  # a flat distribution: sort them all
        largest, ids = probabilities.sort(dim=-1, descending=True)
    if largest.shape == probabilities.shape:
        rest = torch.zeros_like(rest)
    # From the smallest up: adding small numbers first keeps the digits that decide at the limit.
    below = rest[:, None] + largest.flip(-1).cumsum(dim=-1).flip(-1)  # (B, N)
    dropped = below <= 1 - top_p
    dropped[:, 0] = False
    return logits.masked_fill(
        torch.ones_like(logits, dtype=torch.bool).scatter(-1, ids, dropped), -torch.inf
    )


def keep_min_p(logits: Tensor, min_p: float | None) -> Tensor:
    """Set the logits of tokens below `min_p` times the highest probability to -inf: (B, V) -> same.

    If the model is certain, few tokens stay; otherwise many do. None and 0 mean no limit.

    Source:
        Nguyen et al. 2024, arXiv:2407.01082.
    """
    if not min_p:
        return logits
    probabilities = logits.softmax(dim=-1)
    smallest_kept = min_p * probabilities.amax(dim=-1, keepdim=True)  # (B, 1)
    return logits.masked_fill(probabilities < smallest_kept, -torch.inf)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens seen so far less likely: (B, V) logits -> (B, V).

    A positive logit is divided by the penalty, a negative one multiplied. 1 changes nothing.

    Args:
        logits: (B, V).
        seen: (B, V) booleans, True for the ids in a row's prompt or continuation.
        penalty: above 0; above 1 discourages, below 1 encourages.

    Source:
        Keskar et al. 2019, arXiv:1909.05858, section 4.1.
    """
    if penalty == 1:
        return logits
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalize_presence(logits: Tensor, written: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from the logits of tokens written so far: (B, V) -> (B, V).

    Args:
        logits: (B, V).
        written: (B, V) booleans, True for ids in a row's continuation; the prompt does not count.
        penalty: above 0 discourages, below 0 encourages, 0 changes nothing.
    """
    return logits if penalty == 0 else torch.where(written, logits - penalty, logits)


def penalize_frequency(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Subtract `penalty` from a token's logits for each time it was written: (B, V) -> (B, V).

    Args:
        logits: (B, V).
        counts: (B, V) how often each id occurs in a row's continuation; the prompt does not count.
        penalty: above 0 discourages, below 0 encourages, 0 changes nothing.
    """
    return logits if penalty == 0 else logits - penalty * counts


def ban(logits: Tensor, banned: Tensor) -> Tensor:
    """Set the logits of banned tokens to -inf: (B, V), (V,) booleans -> (B, V)."""
    return logits.masked_fill(banned, -torch.inf)


def next_probabilities(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    *,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Compute each token's probability of being drawn: (B, V) logits -> (B, V) float32.

    Rows sum to 1. At a temperature of 0, the most likely token has probability 1.

    Args:
        logits: (B, V), in any floating-point type.
        temperature: 0 or more.
        top_k: only the k most likely tokens stay; None and 0 mean no limit.
        top_p: only the most likely that together reach this probability stay; None and 1 mean no
            limit.
        min_p: only those with at least this share of the highest probability stay; None and 0 mean
            no limit.

    Raises:
        ValueError: if a setting is out of range.

    Source:
        Book 5.3.
    """
    check_sampling(temperature, top_k, top_p, min_p)
    if temperature == 0:
        likeliest = torch.zeros_like(logits, dtype=torch.float32)
        return likeliest.scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    logits = keep_top_k(logits.float(), top_k)
    if temperature < 1e-3:  # or the division overflows
        logits = logits - logits.amax(dim=-1, keepdim=True)
        temperature = max(temperature, 1e-30)
    logits = keep_min_p(keep_top_p(logits / temperature, top_p), min_p)
    return logits.softmax(dim=-1)


def sample_next(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: Generators = None,
    *,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Choose one next token per row: (B, V) logits -> (B, 1) ids.

    A temperature of 0 takes the most likely token and draws no random number; higher values sample
    more evenly.

    Args:
        logits: (B, V), in any floating-point type; probabilities are computed in float32.
        temperature: 0 or more.
        top_k: only the k most likely tokens can be chosen; None and 0 mean no limit.
        generator: the random generator, or one per row, so that a row does not depend on the
            others; None means PyTorch's global generator.
        top_p: only the most likely tokens that together reach this probability; None and 1 mean no
            limit.
        min_p: only tokens with at least this share of the highest probability; None and 0 mean no
            limit.

    Raises:
        ValueError: if a setting is out of range, or the number of generators is not the number of
            rows.

    Source:
        Book 5.3.
    """
    check_sampling(temperature, top_k, top_p, min_p)
    check_generators(generator, len(logits))
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    probabilities = next_probabilities(logits, temperature, top_k, top_p=top_p, min_p=min_p)
    if generator is None or isinstance(generator, torch.Generator):
        return torch.multinomial(probabilities, num_samples=1, generator=generator)
    rows = zip(probabilities.split(1), generator, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=own) for row, own in rows])


def check_generators(generator: Generators, rows: int) -> None:
    """Refuse a list of generators that does not match the rows.

    Raises:
        ValueError: naming both numbers.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return
    if len(generator) != rows:
        raise ValueError(f"{len(generator)} generators for {rows} rows; give one, or one per row")
