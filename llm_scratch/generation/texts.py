"""Generation of texts from prompts: `generate_text` all at once, `TextStream` piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llm_scratch.generation.choosing import GREEDY, SamplingSettings
from llm_scratch.generation.continuation import Continuation, FinishReason, settings_for
from llm_scratch.generation.decoding import stream
from llm_scratch.generation.reading import Model
from llm_scratch.generation.sampling import Generators, check_generators
from llm_scratch.model.cache import KVCache
from llm_scratch.model.families import is_language_model
from llm_scratch.model.wrappers import device_of, unwrapped
from llm_scratch.tokenizers.any_tokenizer import (
    Special,
    decode,
    encode,
    end_of_text_id,
)
from llm_scratch.tokenizers.simple import END_OF_TEXT

Prompt = str | Sequence[int]
"""A text to continue, or its ids."""


@dataclass(frozen=True)
class Generation:
    """A model's continuation of a prompt.

    Args:
        prompt: the text that was continued.
        text: the continuation, without the end mark or stop string.
        ids: the generated ids, including those that ended it.
        finish_reason: "length" (all requested tokens), "eos", "stop", or "interrupted".
        prompt_tokens: length of the prompt.
        new_tokens: number of generated ids.
        prefill_tokens_per_second: prompt tokens of the whole batch per second until the first ids.
        decode_tokens_per_second: later tokens of the whole batch per second; None without any.
    """

    prompt: str
    text: str
    ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    new_tokens: int
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None


class ReadingOptions(TypedDict, total=False):
    """The options of `stream` other than prompts, settings and stop conditions; see there."""

    generator: Generators
    context_size: int | None
    cache: KVCache | None
    use_cache: bool


class TextOptions(ReadingOptions, total=False):
    """The options for generating text other than sampling settings; see `generate_text`."""

    stop: str | Sequence[str]
    stop_ids: Sequence[int]
    eos_id: int | Literal["auto"] | None
    special: Special


@overload
def generate_text(
    model: Model,
    tokenizer: Any,
    prompts: str,
    max_new_tokens: int = 100,
    settings: SamplingSettings = GREEDY,
    **options: Unpack[TextOptions],
) -> Generation: ...
@overload
def generate_text(
    model: Model,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 100,
    settings: SamplingSettings = GREEDY,
    **options: Unpack[TextOptions],
) -> list[Generation]: ...
def generate_text(
    model: Model,
    tokenizer: Any,
    prompts: str | Sequence[Prompt],
    max_new_tokens: int = 100,
    settings: SamplingSettings = GREEDY,
    **options: Unpack[TextOptions],
) -> Generation | list[Generation]:
    """Generate a continuation of one text, or of each of several texts of any lengths.

    Prompts are run together, padded on the left and masked, so that each gets the same result as
    alone. Ids that the tokenizer lacks are never chosen.

    Args:
        model: a language model, or any callable that maps (B, T) ids to (B, T, V) logits (prompts
            of different lengths then run one after another).
        tokenizer: the model's tokenizer.
        prompts: a text, or several; ids in place of a text are read unchanged. An empty text begins
            with the end-of-text token, which separates documents in training.
        max_new_tokens: 0 or more, for each prompt.
        settings: how each token is chosen.
        options: `stop` (a string or several, which are never shown), `stop_ids`, `eos_id` ("auto"
            is the tokenizer's end-of-text id, None never ends), `special` ("text" reads
            "<|endoftext|>" in a prompt as characters, "allow" as the token), `generator` (one, or
            one per prompt), `context_size`, `cache` and `use_cache` (see `generate`).

    Returns:
        A `Generation` for a text, a list of them for several.

    Raises:
        TypeError: if a prompt is neither text nor ids.
        ValueError: if an option is out of range.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    generator = options.get("generator")
    check_generators(generator, len(texts))
    if is_language_model(unwrapped(model)) or len(texts) < 2:
        groups = [(texts, generator)]
    else:
        own = generator if isinstance(generator, Sequence) else [generator] * len(texts)
        groups = [([text], each) for text, each in zip(texts, own, strict=True)]
    found = []
    for group, options["generator"] in groups:
        batch = TextBatch(model, tokenizer, group, max_new_tokens, settings, **options)
        for _ in batch:
            pass
        found += batch.results()
    return found[0] if isinstance(prompts, str) else found


class TextStream:
    """An iterator over the pieces of a prompt's continuation, as they are generated.

    No piece has half a character or a part of a stop string; joined, the pieces are the text of
    `generate_text`. `result` can be called at any time.

    Args:
        model: as in `generate_text`, like all arguments.
        tokenizer: the model's tokenizer.
        prompt: the text to continue, or its ids.
        max_new_tokens: 0 or more.
        settings: how each token is chosen.
        options: as in `generate_text`.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        prompt: Prompt,
        max_new_tokens: int = 100,
        settings: SamplingSettings = GREEDY,
        **options: Unpack[TextOptions],
    ) -> None:
        self._batch = TextBatch(model, tokenizer, [prompt], max_new_tokens, settings, **options)
        self._pieces = (pieces[0] for pieces in self._batch if pieces[0])

    def __iter__(self) -> Iterator[str]:
        """Return the stream itself, an iterator over the remaining pieces."""
        return self

    def __next__(self) -> str:
        """Return the next piece, which is never empty."""
        return next(self._pieces)

    def result(self) -> Generation:
        """Return the text so far; its `finish_reason` is "interrupted" before the end."""
        return self._batch.results()[0]


class TextBatch:
    """An iterator over the steps of several prompts, with a piece of text for each prompt.

    Args:
        model: as in `generate_text`, like all arguments.
        tokenizer: the model's tokenizer.
        prompts: texts of any lengths, or their ids.
        max_new_tokens: 0 or more, for each prompt.
        settings: how each token is chosen; ids that the tokenizer lacks never are.
        stop: strings that end a text and are never shown.
        stop_ids: ids that end a text.
        eos_id: "auto" is the tokenizer's end-of-text id, None never ends one.
        special: how special tokens in a prompt are read.
        reading: `generator` (one, or one per prompt), `context_size`, `cache` and `use_cache`, as
            in `stream`.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        settings: SamplingSettings = GREEDY,
        *,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        eos_id: int | Literal["auto"] | None = "auto",
        special: Special = "text",
        **reading: Unpack[ReadingOptions],
    ) -> None:
        end = end_of_text_id(tokenizer)
        eos_id = end if eos_id == "auto" else eos_id
        encoded = [prompt_ids(tokenizer, prompt, special, end) for prompt in prompts]
        self._prompts = [
            (prompt if isinstance(prompt, str) else decode(tokenizer, ids), len(ids))
            for prompt, ids in zip(prompts, encoded, strict=True)
        ]
        shown: Any = {"stop": [stop] if isinstance(stop, str) else list(stop), "eos_id": eos_id}
        self._rows = [
            Continuation(tokenizer, ids if prompt else (), stop_ids=stop_ids, **shown)
            for prompt, ids in zip(prompts, encoded, strict=True)
        ]
        self._prefill_seconds = self._decode_seconds = 0.0
        self._steps: Iterator[Tensor] = iter(())
        if not prompts:
            return
        idx, mask = pad_left(encoded, device_of(model))
        settings = settings_for(tokenizer, settings)
        ends: Any = {"eos_id": eos_id, "stop": list(stop_ids), "attention_mask": mask}
        self._steps = stream(model, idx, max_new_tokens, settings, **ends, **reading)

    def __iter__(self) -> Iterator[list[str]]:
        """Yield each step's pieces, "" if nothing can be shown yet; iterate only once."""
        new_ids, self._prefill_seconds = self._timed_step()
        yield self._push(new_ids)
        while not all(row.finish_reason for row in self._rows):
            new_ids, seconds = self._timed_step()
            self._decode_seconds += seconds
            yield self._push(new_ids)

    def _timed_step(self) -> tuple[list[int] | None, float]:
        """Return the next id of each row, None after the last, and the seconds it took."""
        start = time.perf_counter()
        chosen = next(self._steps, None)
        new_ids = None if chosen is None else chosen[:, 0].tolist()  # waits for a GPU
        return new_ids, time.perf_counter() - start

    def _push(self, new_ids: list[int] | None) -> list[str]:
        if new_ids is None:
            return [row.finish("length") for row in self._rows]
        return [row.push(i) for row, i in zip(self._rows, new_ids, strict=True)]

    def results(self) -> list[Generation]:
        """Return each prompt's continuation so far."""
        prompt_tokens = sum(length for _, length in self._prompts)
        decoded = sum(len(row.ids) - 1 for row in self._rows if row.ids)
        rates = (
            prompt_tokens / self._prefill_seconds if self._prefill_seconds else None,
            decoded / self._decode_seconds if decoded and self._decode_seconds else None,
        )
        return [
            Generation(
                prompt,
                row.text,
                list(row.ids),
                row.finish_reason or "interrupted",
                length,
                len(row.ids),
                *rates,
            )  # fmt: skip
            for (prompt, length), row in zip(self._prompts, self._rows, strict=True)
        ]


def pad_left(
    rows: Sequence[Sequence[int]], device: torch.device | str | None = None, pad_id: int = 0
) -> tuple[Tensor, Tensor]:
    """Pad rows of ids on the left: (B, T) ids and (B, T) booleans, False at padding."""
    ids = [torch.tensor(row, dtype=torch.int64) for row in rows]
    ones = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    left = partial(pad_sequence, batch_first=True, padding_side="left")
    return left(ids, padding_value=pad_id).to(device), left(ones, padding_value=False).to(device)


def prompt_ids(tokenizer: Any, prompt: Prompt, special: Special, end: int | None) -> list[int]:
    """Return the ids of a prompt; an empty text becomes the id that separates documents.

    Raises:
        TypeError: if it is neither a text nor ids.
        ValueError: if it is empty, and `end` is None.
    """
    if isinstance(prompt, list | tuple) and prompt and all(isinstance(i, int) for i in prompt):
        return list(prompt)
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt is a text, or a list of ids, got {type(prompt).__name__}")
    ids = encode(tokenizer, prompt, special)
    if ids:
        return ids
    if end is None:
        raise ValueError(
            f"an empty prompt, and this tokenizer has no {END_OF_TEXT} to begin with; give a text"
        )
    return [end]
