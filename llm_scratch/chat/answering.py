"""An answer in progress: its tokens as text to show; it can be stopped anywhere and continued."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llm_scratch.chat.prefix import ReadPrefix
from llm_scratch.generation.choosing import SamplingSettings, TokenChooser
from llm_scratch.generation.continuation import SEED_IDS, FinishReason, settings_for
from llm_scratch.generation.ending import StopStrings
from llm_scratch.generation.reading import Reader
from llm_scratch.model.wrappers import context_length_of, device_of
from llm_scratch.tokenizers.any_tokenizer import (
    IncrementalDecoder,
    decode,
    end_of_text_id,
)


@dataclass
class Clock:
    """The time that an answer, or a part of it, took.

    Args:
        prompt_tokens: the ids before it.
        reused_tokens: how many of them had been read before.
        shown_tokens: written tokens whose text is shown, so not the one that ends an answer.
        reading_seconds: time until the first token.
        writing_seconds: time for all others.
    """

    prompt_tokens: int
    reused_tokens: int = 0
    shown_tokens: int = 0
    reading_seconds: float = 0.0
    writing_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Time from the question to the last token."""
        return self.reading_seconds + self.writing_seconds

    def count(self, seconds: float) -> None:
        """Count the time of one token."""
        if self.reading_seconds == 0.0:
            self.reading_seconds = seconds
        else:
            self.writing_seconds += seconds


class Answer:
    """The assistant's answer to one prompt, as far as it has been written.

    `write` continues from the ids already written, with the same generator and the same state of
    the penalties. So an answer that is stopped and continued equals one that was never stopped.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        prompt: the ids to answer.
        settings: how each token is chosen.
        seed: of the answer's own generator.
        stop: strings that end the answer and are never shown.
        end_ids: ids that end the answer.

    Attributes:
        ids: the ids written, including the one that ended the answer.
        text: the text shown so far; no half character at its end.
        finish_reason: as in `Generation`.
        ended_by: the string that ended the answer, or the text of the token that did; None while
            the answer is open.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: Sequence[int],
        settings: SamplingSettings,
        seed: int,
        *,
        stop: Sequence[str] = (),
        end_ids: Sequence[int] = (),
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._stop, self._end_ids = stop, frozenset(end_ids)
        self._generator = torch.Generator(device_of(model)).manual_seed(seed)
        self._settings = settings
        self._chooser: TokenChooser | None = None
        self.prompt = tuple(prompt)
        self.ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason = "interrupted"
        self.ended_by: str | None = None

    def write(
        self, read: ReadPrefix, new_tokens: int, settings: SamplingSettings, clock: Clock
    ) -> Iterator[str]:
        """Yield the text of further tokens, piece by piece, none empty.

        Args:
            read: what the model has read; updated with what it reads here.
            new_tokens: the maximum number of tokens; all of them fit the context.
            settings: how each token is chosen from here on.
            clock: updated with the tokens read and written, and the time they take.
        """
        self.finish_reason = "interrupted"
        ids = [*self.prompt, *self.ids]
        words, known = self._words(), len(self.ids)
        clock.reused_tokens = read.prepare(ids, new_tokens)
        try:
            for token_id in self._choose(read, ids, new_tokens, settings, clock):
                self.ids.append(token_id)
                if self._ends(token_id, words):
                    break
                if piece := self._newly_shown(words.text):
                    clock.shown_tokens = len(self.ids) - known
                    yield piece
            else:
                self.finish_reason = "length"
            if piece := self._newly_shown(words.rest(at_end=self.ended_by is not None)):
                clock.shown_tokens = len(self.ids) - known - (self.ended_by is not None)
                yield piece
        finally:
            read.note([*self.prompt, *self.ids])

    def _choose(
        self,
        read: ReadPrefix,
        ids: list[int],
        new_tokens: int,
        settings: SamplingSettings,
        clock: Clock,
    ) -> Iterator[int]:
        """Yield the ids, each as soon as it is chosen."""
        total = len(ids) + new_tokens
        written = torch.zeros(1, total, dtype=torch.int64)
        written[0, : len(ids)] = torch.tensor(ids)
        written = written.to(device_of(self._model))  # (1, T)
        if self._chooser is None or settings != self._settings:
            self._settings, known = settings, settings_for(self._tokenizer, settings)
            self._chooser = TokenChooser(known, written[:, : len(ids)], None, self._generator)
        reader = Reader(self._model, context_length_of(self._model), cache=read.cache)
        reader.start(1, len(ids), total)
        for length in range(len(ids), total):
            start = time.perf_counter()
            chosen = self._chooser.choose(reader.next_logits(written[:, :length]))
            written[:, length : length + 1] = chosen
            token_id = int(chosen)  # waits for a GPU
            clock.count(time.perf_counter() - start)
            yield token_id

    def _words(self) -> _Words:
        """Return the text of the ids so far, in the state before the last stop."""
        words = _Words(self._tokenizer, self.prompt, self._stop)
        for token_id in self.ids:
            words.push(token_id)
        return words

    def _ends(self, token_id: int, words: _Words) -> bool:
        """Take the next id and return whether it ends the answer."""
        if token_id in self._end_ids:
            self.ended_by = decode(self._tokenizer, [token_id])
            self.finish_reason = "eos" if token_id == end_of_text_id(self._tokenizer) else "stop"
            return True
        words.push(token_id)
        if words.stop.found is not None:
            self.ended_by, self.finish_reason = words.stop.found, "stop"
        return self.ended_by is not None

    def _newly_shown(self, text: str) -> str:
        """Take the current text and return the part that has not been shown.

        If an answer was stopped within a stop string, the text may end before what has been shown.
        """
        piece = text[len(self.text) :]
        if piece or self.ended_by is not None:
            self.text = text
        return piece


class _Words:
    """Ids as text: the part that is certain to be shown, and the part that is held back."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self.stop = StopStrings(stop)
        self.text = ""
        self._decoder = IncrementalDecoder(tokenizer)
        for token_id in prompt[-SEED_IDS:]:
            self._decoder.push(token_id)

    def push(self, token_id: int) -> None:
        """Take the next id."""
        self.text += self.stop.push(self._decoder.push(token_id))

    def rest(self, at_end: bool) -> str:
        """Return the whole text, including what was held back in case a stop string followed.

        Args:
            at_end: whether nothing follows, so that half a character is shown as U+FFFD.
        """
        if at_end:
            self.text += self.stop.push(self._decoder.flush())
        return self.text + self.stop.flush()
