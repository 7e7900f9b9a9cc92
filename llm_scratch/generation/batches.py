"""Generation for many prompts, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from llm_scratch.checks import check_count
from llm_scratch.generation.choosing import GREEDY, SamplingSettings
from llm_scratch.generation.texts import Generation, Prompt, TextOptions, generate_text


def generate_in_batches(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    settings: SamplingSettings = GREEDY,
    *,
    batch_size: int = 16,
    **options: Unpack[TextOptions],
) -> list[Generation]:
    """Generate a continuation for each of many prompts, and return them in the same order.

    Args:
        model: as in `generate_text`, like everything not described here.
        tokenizer: the model's tokenizer.
        prompts: texts, or their ids.
        max_new_tokens: the maximum for each of them.
        settings: how each token is chosen.
        batch_size: prompts per batch.
        options: the other options of `generate_text`.

    Raises:
        ValueError: if `batch_size` is below 1, or an option is out of range.
    """
    check_count("batch_size", batch_size)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Generation] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        together = [prompts[i] for i in chosen]
        written = generate_text(model, tokenizer, together, max_new_tokens, settings, **options)
        found.update(zip(chosen, written, strict=True))
    return [found[i] for i in range(len(prompts))]
