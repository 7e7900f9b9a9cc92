"""The requests that an engine takes, and the events with which it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_scratch.generation.choosing import GREEDY, SamplingSettings
from llm_scratch.generation.continuation import FinishReason


@dataclass(frozen=True)
class Request:
    """A prompt and how it is answered.

    Args:
        ids: the prompt.
        max_new_tokens: 1 or more; these and the prompt must fit the model's context.
        settings: how each token is chosen.
        seed: of this request's own generator; None draws one.
        stop: strings that end the answer and are never shown.
        stop_ids: ids that end it.
        top_logprobs: how many of the likeliest tokens are listed at each place, beside the chosen
            one; None gives no log-probabilities.
        score_prompt: whether the prompt's own tokens get log-probabilities too.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    settings: SamplingSettings = GREEDY
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    top_logprobs: int | None = None
    score_prompt: bool = False


@dataclass(frozen=True)
class TokenScore:
    """A token and its log-probability in the model, before any sampling setting.

    Args:
        id: the token.
        logprob: its log-probability (nats); None for the first token of a prompt.
        top: the likeliest tokens at its place with their log-probabilities, the likeliest first.
    """

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class PromptScores:
    """The scores of a prompt, for a request with `score_prompt`; they come before every piece."""

    tokens: tuple[TokenScore, ...]


@dataclass(frozen=True)
class Piece:
    """Text that can be shown: no half character, no part of a stop string.

    Args:
        text: the text; may be empty if there are only scores.
        tokens: the tokens chosen since the last piece, if log-probabilities were asked for.
    """

    text: str
    tokens: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Args:
        reason: as in `Generation`; "interrupted" if it was cancelled.
        ids: the ids written, including the one that ended the answer.
        prompt_tokens: ids of the prompt.
        reused_tokens: how many of them had been read for an earlier request.
    """

    reason: FinishReason
    ids: tuple[int, ...]
    prompt_tokens: int
    reused_tokens: int


@dataclass(frozen=True)
class Failed:
    """The failure of a request.

    Args:
        error: the cause.
    """

    error: Exception


Event = PromptScores | Piece | Finished | Failed
OnEvent = Callable[[Event], None]


class QueueFullError(RuntimeError):
    """The error if more requests would wait than an engine accepts."""


class EngineStoppedError(RuntimeError):
    """The error for an engine that was stopped, or whose thread has failed."""


class ContextLengthError(ValueError):
    """A prompt that leaves no room for an answer.

    Args:
        prompt_tokens: ids of the prompt.
        context_length: how many tokens the model sees.
    """

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens:,} tokens and the model's context {context_length:,}; "
            "shorten the prompt"
        )
        self.prompt_tokens, self.context_length = prompt_tokens, context_length
