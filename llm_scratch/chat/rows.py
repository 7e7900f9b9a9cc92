"""One request in the engine: what is read, chosen and reported next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_scratch.chat.prefix import ReadPrefix
from llm_scratch.chat.requests import (
    Event,
    Finished,
    OnEvent,
    Piece,
    PromptScores,
    Request,
    TokenScore,
)
from llm_scratch.chat.scores import scores_of
from llm_scratch.generation.choosing import TokenChooser
from llm_scratch.generation.continuation import Continuation, settings_for
from llm_scratch.generation.reading import prefill, prefill_scored
from llm_scratch.model.cache import KVCache
from llm_scratch.model.wrappers import device_of
from llm_scratch.tokenizers.any_tokenizer import end_of_text_id

SCORED = 32
"""The number of prompt positions whose logits are held at once: 32 x V numbers, twice."""


class Ticket:
    """A request that an engine has accepted.

    Args:
        request: the request.
        on_event: called with its events.

    Attributes:
        cancelled: whether nobody waits for the answer any more.
        deaf: whether `on_event` has failed, and is not called any more.
    """

    def __init__(self, request: Request, on_event: OnEvent) -> None:
        self.request, self.on_event = request, on_event
        self.cancelled = self.deaf = False

    def cancel(self) -> None:
        """Cancel the request, so that its row is freed before the next step.

        This works from any thread, at any time; a request that has ended stays as it is. `Finished`
        with the reason "interrupted" still comes.
        """
        self.cancelled = True


class Row:
    """One request that the engine works on.

    Args:
        ticket: the request, and the receiver of its events.
    """

    prefix: ReadPrefix
    cache: KVCache

    def __init__(self, ticket: Ticket) -> None:
        self.ticket, self.request = ticket, ticket.request
        self.begun = False
        self.reused_tokens = 0
        self._answer: Continuation | None = None
        self._untold: list[TokenScore] = []
        self._prompt_scores = [TokenScore(self.request.ids[0], None)]

    def begin(self, model: Any, tokenizer: Any, prefix: ReadPrefix) -> None:
        """Prepare for reading, with a prefix that was read before.

        Raises:
            TypeError: if the model takes no cache.
            ValueError: if the settings are out of range.
        """
        request, device = self.request, device_of(model)
        self.reused_tokens = prefix.prepare(request.ids, request.max_new_tokens)
        if prefix.cache is None:
            raise TypeError(f"a {type(model).__name__} takes no cache, which an engine needs")
        self._model, self.prefix, self.cache = model, prefix, prefix.cache
        generator = torch.Generator(device)
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        settings = settings_for(tokenizer, request.settings)
        prompt = torch.tensor([request.ids], device=device)
        self._chooser = TokenChooser(settings, prompt, None, generator)
        self._answer = Continuation(
            tokenizer,
            request.ids,
            stop=request.stop,
            eos_id=end_of_text_id(tokenizer),
            stop_ids=request.stop_ids,
        )
        self.begun = True

    @property
    def unread(self) -> int:
        """The number of ids of the prompt still to be read."""
        return len(self.request.ids) - (self.cache.length if self.begun else 0)

    @property
    def written(self) -> list[int]:
        """The ids of the answer so far; the newest is read next."""
        return [] if self._answer is None else self._answer.ids

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self._answer is not None and self._answer.finish_reason is not None

    def read(self, most: int) -> list[Event]:
        """Read up to `most` ids of the prompt; after its last id, choose the answer's first."""
        past, ids = self.cache.length, self.request.ids
        chunk = torch.tensor([ids[past : past + most]], device=device_of(self._model))
        if self.request.score_prompt:
            logits = self._read_scored(chunk, past)
        else:
            logits = prefill(self._model, chunk, self.cache)  # (1, V)
        self.prefix.note(ids)
        if self.unread:
            return []
        told: list[Event] = []
        if self.request.score_prompt:
            told.append(PromptScores(tuple(self._prompt_scores)))
        return told + self.take(logits)

    def _read_scored(self, chunk: Tensor, past: int) -> Tensor:
        """Read ids and score those that follow them; return the last logits: (1, V)."""
        for logits in prefill_scored(self._model, chunk, self.cache, SCORED):  # (1, n, V)
            after = self.request.ids[past + 1 : past + 1 + logits.shape[1]]
            found = scores_of(logits[0, : len(after)], after, self.request.top_logprobs)
            self._prompt_scores += found
            past += logits.shape[1]
        return logits[:, -1]

    def take(self, logits: Tensor) -> list[Event]:
        """Choose the next id: (1, V) logits -> the events that follow from it.

        Raises:
            ValueError: if the logits are NaN, or the settings don't fit them.
        """
        chosen, text = int(self._chooser.choose(logits)), ""
        if self.request.top_logprobs is not None:
            self._untold += scores_of(logits, [chosen], self.request.top_logprobs)
        if self._answer is not None:
            text = self._answer.push(chosen)
            if len(self._answer.ids) == self.request.max_new_tokens:
                text += self._answer.finish("length")
        return self._piece(text)

    def interrupt(self) -> list[Event]:
        """End the answer where it is, with the text that was held back."""
        return [] if self._answer is None else self._piece(self._answer.finish("interrupted"))

    def _piece(self, text: str) -> list[Event]:
        """Return the text as an event, with the scores held back until text or the end came."""
        if not text and not (self._untold and self.ended):
            return []
        piece = Piece(text, tuple(self._untold))
        self._untold = []
        return [piece]

    def finished(self) -> Finished:
        """Return how the answer has ended; "interrupted" if it has not."""
        reason = self._answer.finish_reason if self._answer is not None else None
        return Finished(
            reason or "interrupted",
            tuple(self.written),
            len(self.request.ids),
            self.reused_tokens,
        )

    def given_back(self) -> ReadPrefix | None:
        """Return the part of prompt and answer that was read, for a later request."""
        if not self.begun:
            return None
        self.prefix.note([*self.request.ids, *self.written])
        return self.prefix
