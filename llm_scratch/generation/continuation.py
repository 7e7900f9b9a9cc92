"""One prompt's continuation: ids go in one by one, text comes out as soon as it can be shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.ending import StopStrings
from llm_scratch.tokenizers.any_tokenizer import IncrementalDecoder, vocab_size_of

FinishReason = Literal["length", "eos", "stop", "interrupted"]
SEED_IDS = 8  # prompt ids by which a decoder knows whether a space precedes the next word


class Continuation:
    """The continuation of a prompt: its ids, its text, and what ended it.

    Args:
        tokenizer: the model's tokenizer.
        prompt_ids: the ids that it continues.
        stop: strings that end the text and are never shown.
        eos_id: the id that ends it with the reason "eos"; None for no such id.
        stop_ids: ids that end it with the reason "stop".

    Attributes:
        ids: the ids generated so far, including the one that ended it.
        text: the part of their text that can be shown.
        finish_reason: what ended it, None until then.

    Raises:
        ValueError: if a stop string is empty.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt_ids: Sequence[int],
        *,
        stop: Sequence[str] = (),
        eos_id: int | None = None,
        stop_ids: Collection[int] = (),
    ) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        for token_id in prompt_ids[-SEED_IDS:]:
            self._decoder.push(token_id)
        self._stop = StopStrings(stop)
        self._eos_id, self._stop_ids = eos_id, frozenset(stop_ids)
        self.text = ""
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that can now be shown."""
        if self.finish_reason:
            return ""
        self.ids.append(token_id)
        if token_id == self._eos_id:
            return self.finish("eos")
        if token_id in self._stop_ids:
            return self.finish("stop")
        piece = self._stop.push(self._decoder.push(token_id))
        if self._stop.found is not None:
            self.finish_reason = "stop"
        self.text += piece
        return piece

    def finish(self, reason: FinishReason) -> str:
        """End the continuation and return the text that was held back."""
        if self.finish_reason:
            return ""
        piece = self._stop.push(self._decoder.flush()) + self._stop.flush()
        self.finish_reason = "stop" if self._stop.found else reason
        self.text += piece
        return piece


def settings_for(tokenizer: Any, settings: SamplingSettings) -> SamplingSettings:
    """Return settings under which ids that the tokenizer lacks are never chosen.

    Settings with an `n_vocab` of their own are returned unchanged.
    """
    if settings.n_vocab is not None:
        return settings
    unused = getattr(tokenizer, "unused_ids", ())  # gaps between the ids of its tokens
    banned = (*settings.banned, *unused)
    return replace(settings, n_vocab=vocab_size_of(tokenizer), banned=banned)
