"""The generation loop of book 4.7 and 5.3: token ids in, more token ids out.

There is one loop. `stream` yields each step's ids as they come, `generate` joins them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from llm_scratch.checks import check_count
from llm_scratch.generation.choosing import GREEDY, SamplingSettings, TokenChooser
from llm_scratch.generation.ending import Endings
from llm_scratch.generation.reading import Model, Reader
from llm_scratch.generation.sampling import Generators
from llm_scratch.model.cache import KVCache
from llm_scratch.model.families import is_language_model
from llm_scratch.model.wrappers import context_length_of, unwrapped


def generate_text_simple(
    model: Model, idx: Tensor, max_new_tokens: int, context_size: int | None = None
) -> Tensor:
    """Extend ids by the most likely token at each step: (B, T) -> (B, T + max_new_tokens).

    Args:
        model: maps (B, T) ids to (B, T, V) logits; its train and eval modes are restored.
        idx: (B, T) ids, T at least 1; all of them are in the result.
        max_new_tokens: 0 or more.
        context_size: number of last ids that the model sees; None means its `cfg.context_length`.

    Raises:
        ValueError: if `idx` is empty or does not have two dimensions, or a number is out of range.

    Source:
        Book 4.7, which does not change the model's mode.
    """
    return generate(model, idx, max_new_tokens, context_size)


def generate(
    model: Model,
    idx: Tensor,
    max_new_tokens: int,
    context_size: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    eos_id: int | None = None,
    *,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    banned: Sequence[int] = (),
    n_vocab: int | None = None,
    settings: SamplingSettings | None = None,
    stop: Sequence[int | Sequence[int]] = (),
    generator: Generators = None,
    attention_mask: Tensor | None = None,
    cache: KVCache | None = None,
    use_cache: bool = True,
    return_logprobs: bool = False,
) -> Tensor | Any:
    """Return the ids with a continuation: (B, T) -> (B, at most T + max_new_tokens).

    Each row ends on its own: it keeps the `eos_id` or `stop` that it produced (the book drops the
    id) and is padded with its last id until the last row has ended. Within the prompt,
    neither ends a row.

    A language model of this library reads every token once, up to its context length. Beyond that,
    positions shift with each token, and it reads the last `context_size` tokens again at every
    step, as any other model does from the start. The ids are the same with and without a cache.

    Args:
        model: maps (B, T) ids to (B, T, V) logits; its train and eval modes are restored.
        idx: (B, T) ids, T at least 1; all of them are in the result.
        max_new_tokens: 0 or more.
        context_size: number of last ids that the model sees; None means its `cfg.context_length`.
        temperature: as in `SamplingSettings`, like all options up to `n_vocab` but `eos_id`.
        top_k: see there.
        eos_id: the id that ends a row; None never ends one.
        top_p: see there.
        min_p: see there.
        repetition_penalty: see there.
        presence_penalty: see there.
        banned: see there.
        n_vocab: see there.
        settings: all of these in one object, instead of single arguments.
        stop: ids, or sequences of ids, that end a row as `eos_id` does.
        generator: the random generator, or one per row, so that a row does not depend on the
            others; None means PyTorch's global generator.
        attention_mask: (B, T), False where an id of the prompt is padding, which must be on the
            left; prompts of different lengths then give the same results as alone.
        cache: a cache of the first tokens of `idx`, which are not read again, or an empty one
            (`model.new_cache`); afterwards it holds all tokens read, which are all but the last.
        use_cache: False reads everything again for each token.
        return_logprobs: whether to also return (B, new) log-probabilities of the new ids under
            the model's own distribution, before any setting; 0 after a row's end.

    Raises:
        ValueError: if `idx` is empty or does not have two dimensions, a number is out of range, the
            cache does not fit, or the model returns NaN (the message names the step).

    Source:
        Book 5.3.3, where `top_k` and `eos_id` work only for one row.
    """
    single = SamplingSettings(
        temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, banned, n_vocab
    )  # fmt: skip
    if settings is not None and single != GREEDY:
        raise ValueError("both settings= and single settings were given; give one of the two")
    steps = stream(
        model, idx, max_new_tokens, settings or single, context_size=context_size, eos_id=eos_id,
        stop=stop, generator=generator, attention_mask=attention_mask, cache=cache,
        use_cache=use_cache, return_logprobs=return_logprobs,
    )  # fmt: skip
    if not return_logprobs:
        return torch.cat([idx, *steps], dim=1)
    ids, logprobs = [idx], [torch.empty(len(idx), 0, device=idx.device)]
    for chosen, logprob in steps:
        ids.append(chosen)
        logprobs.append(logprob)
    return torch.cat(ids, dim=1), torch.cat(logprobs, dim=1)


def stream(
    model: Model,
    idx: Tensor,
    max_new_tokens: int,
    settings: SamplingSettings = GREEDY,
    *,
    context_size: int | None = None,
    eos_id: int | None = None,
    stop: Sequence[int | Sequence[int]] = (),
    generator: Generators = None,
    attention_mask: Tensor | None = None,
    cache: KVCache | None = None,
    use_cache: bool = True,
    return_logprobs: bool = False,
) -> Iterator[Any]:
    """Yield the new ids of `generate` step by step: (B, 1) tensors, as soon as they are chosen.

    With `return_logprobs`, yield pairs of (B, 1) ids and (B, 1) log-probabilities. Between two
    steps, the model has its own train and eval modes. An abandoned stream holds only a cache.

    Args:
        model: as in `generate`, like all arguments.
        idx: (B, T) ids.
        max_new_tokens: 0 or more.
        settings: how each id is chosen.
        context_size: number of last ids that the model sees.
        eos_id: the id that ends a row.
        stop: ids, or sequences of ids, that end a row.
        generator: one, or one per row.
        attention_mask: (B, T), False where an id of the prompt is padding.
        cache: a cache of the first tokens of `idx`, to which tokens read are added.
        use_cache: False reads everything again for each token.
        return_logprobs: whether to yield log-probabilities with the ids.

    Raises:
        ValueError: as in `generate`, before the first step if possible.
    """
    window = _check(model, idx, max_new_tokens, context_size)
    ends = Endings(stop if eos_id is None else [eos_id, *stop], idx.device)
    mask = _check_mask(model, idx, attention_mask)
    chooser = TokenChooser(settings, idx, mask, generator)
    reader = Reader(model, window, use_cache, cache)
    B, prompt_length = idx.shape
    total = prompt_length + max_new_tokens
    reader.start(B, prompt_length, total)
    ids = idx.new_zeros(B, total)  # padding is read as id 0, whatever its id in the prompt
    ids[:, :prompt_length] = idx if mask is None else idx.masked_fill(~mask, 0)
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(B, max_new_tokens)], dim=1)  # (B, T + new)

    @torch.no_grad()
    def steps() -> Iterator[tuple[Tensor, Tensor | None]]:
        logprobs, ended = None, torch.zeros(B, 1, dtype=torch.bool, device=idx.device)
        for length in range(prompt_length, total):
            logits = reader.next_logits(ids[:, :length], mask if mask is None else mask[:, :length])
            chosen = chooser.choose(logits)  # (B, 1)
            if return_logprobs:
                logprobs = _logprobs(logits, chosen).masked_fill_(ended, 0.0)
            if ends:
                chosen = torch.where(ended, ids[:, length - 1 : length], chosen)
            ids[:, length : length + 1] = chosen
            yield chosen, logprobs
            if ends:
                ended |= ends.reached(ids[:, prompt_length : length + 1])
                if bool(ended.all()):
                    return

    return steps() if return_logprobs else (chosen for chosen, _ in steps())


def _logprobs(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the model's log-probabilities of the chosen ids: (B, V), (B, 1) -> (B, 1)."""
    return logits.float().log_softmax(dim=-1).gather(1, chosen)


def _check(model: Model, idx: Tensor, max_new_tokens: int, context_size: int | None) -> int:
    """Return the maximum number of ids that the model sees; refuse invalid arguments."""
    if idx.dim() != 2 or idx.shape[1] == 0:
        raise ValueError(
            f"expected ids of shape (batch, tokens) with at least one token, got {tuple(idx.shape)}"
        )
    check_count("max_new_tokens", max_new_tokens, 0)
    if context_size is None:
        context_size = context_length_of(model)
    check_count("context_size", context_size)
    most, inner = min(context_size, idx.shape[1] + max_new_tokens - 1), unwrapped(model)
    if is_language_model(inner) and max_new_tokens and most > context_length_of(inner):
        raise ValueError(
            f"{context_size=} is more than this model's context_length of "
            f"{context_length_of(inner)}; leave it out to use that"
        )
    return context_size


def _check_mask(model: Model, idx: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """Return the mask as booleans, None if nothing is padded."""
    if attention_mask is None:
        return None
    if attention_mask.shape != idx.shape:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}, the ids "
            f"{tuple(idx.shape)}; they must be equal"
        )
    mask = attention_mask.bool()
    if not bool(mask[:, -1].all()):
        raise ValueError("a row ends in padding; pad prompts on the left, where nothing follows")
    if bool(mask.all()):
        return None
    if not is_language_model(unwrapped(model)):
        raise TypeError(
            f"{type(model).__name__} takes no attention_mask; run prompts of other lengths alone"
        )
    return mask
