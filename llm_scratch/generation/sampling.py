"""From logits to the next token: pure functions on (B, V) logits, one choice a row (book 5.3).

The order, where several settings are given: repetition, presence and frequency penalty, biases,
banned ids; then, at a temperature of 0, the likeliest token; above 0 top-k, temperature, top-p,
min-p, softmax, draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm_scratch.checks import check_count, is_number

# How many of the likeliest tokens top-p looks at first: sorting a whole vocabulary takes half as
# long as GPT-2 takes for a token.
NUCLEUS = 2048

Generators = torch.Generator | Sequence[torch.Generator] | None


def check_sampling(
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> None:
    """Refuse settings that mean nothing, before any work is done.

    Raises:
        ValueError: if `temperature` is negative or no number, `top_k` is negative, or `top_p` or
            `min_p` is no probability.
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
    """Logits with all but the k largest of each row at -inf: (B, V) -> (B, V).

    Ties with the k-th largest stay. None, 0 and anything from V on mean no limit.

    Source:
        Book 5.3.2; Fan et al. 2018, arXiv:1805.04833.
    """
    if not top_k or top_k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float | None) -> Tensor:
    """Logits with all but the likeliest tokens that make up `top_p` at -inf: (B, V) -> (B, V).

    The token that crosses the border stays, so one is always left. None and 1 mean no limit.

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
    # From the smallest up: sums of small numbers first keep the digits that decide at the border.
    below = rest[:, None] + largest.flip(-1).cumsum(dim=-1).flip(-1)  # (B, N)
    dropped = below <= 1 - top_p
    dropped[:, 0] = False
    return logits.masked_fill(
        torch.ones_like(logits, dtype=torch.bool).scatter(-1, ids, dropped), -torch.inf
    )


def keep_min_p(logits: Tensor, min_p: float | None) -> Tensor:
    """Logits with all tokens below `min_p` times the likeliest's probability at -inf: (B, V).

    Where the model is sure few tokens stay, where it is not many do. None and 0 mean no limit.

    Source:
        Nguyen et al. 2024, arXiv:2407.01082.
    """
    if not min_p:
        return logits
    probabilities = logits.softmax(dim=-1)
    smallest_kept = min_p * probabilities.amax(dim=-1, keepdim=True)  # (B, 1)
    return logits.masked_fill(probabilities < smallest_kept, -torch.inf)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits with the tokens seen so far made less likely: (B, V) -> (B, V).

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
    """Logits with `penalty` taken from the tokens written so far: (B, V) -> (B, V).

    Args:
        logits: (B, V).
        written: (B, V) booleans, True for the ids in a row's continuation; the prompt is free.
        penalty: above 0 discourages, below 0 encourages, 0 changes nothing.
    """
    return logits if penalty == 0 else torch.where(written, logits - penalty, logits)


def penalize_frequency(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Logits with `penalty` taken once for each time a token was written: (B, V) -> (B, V).

    Args:
        logits: (B, V).
        counts: (B, V) how often each id stands in a row's continuation; the prompt is free.
        penalty: above 0 discourages, below 0 encourages, 0 changes nothing.
    """
    return logits if penalty == 0 else logits - penalty * counts


def ban(logits: Tensor, banned: Tensor) -> Tensor:
    """Logits with tokens that must not be chosen at -inf: (B, V), (V,) booleans -> (B, V)."""
    return logits.masked_fill(banned, -torch.inf)


def next_probabilities(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    *,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """How likely each token is to be drawn under these settings: (B, V) logits -> (B, V) float32.

    Rows sum to 1. A temperature of 0 gives all to the likeliest token.

    Args:
        logits: (B, V), in any floating-point type.
        temperature: 0 or more.
        top_k: only the k likeliest tokens stay; None and 0 mean no limit.
        top_p: only the likeliest that make up this probability stay; None and 1 mean no limit.
        min_p: only those with this share of the likeliest's probability stay; None and 0: no limit.

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

    A temperature of 0 takes the likeliest token and draws no random number; above 0 it samples,
    flatter as it grows.

    Args:
        logits: (B, V), in any floating-point type; probabilities are computed in float32.
        temperature: 0 or more.
        top_k: only the k likeliest tokens can be chosen; None and 0 mean no limit.
        generator: where random numbers come from: one, or one for each row, so that what a row
            gets does not depend on the others; None is PyTorch's global generator.
        top_p: only the likeliest tokens that make up this probability; None and 1 mean no limit.
        min_p: only tokens with this share of the likeliest's probability; None and 0: no limit.

    Raises:
        ValueError: if a setting is out of range, or there are not as many generators as rows.

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
        raise ValueError(f"{len(generator)} generators for {rows} rows; give one, or one a row")
