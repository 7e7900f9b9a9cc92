"""Answers in OpenAI's format: whole ones, and the pieces of streams."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_scratch.chat.requests import Finished, TokenScore
from llm_scratch.tokenizers.any_tokenizer import IncrementalDecoder, decode, token_bytes

LEAST_LOGPROB = -9999.0
"""The substitute for minus infinity, which JSON does not have."""
Object = dict[str, Any]


@dataclass
class Choice:
    """One answer to a request, as far as it has come.

    Args:
        prompt: the text that comes back in front of it.
        text: the text written so far.
        scores: of the tokens; those of the prompt come first, if asked for.
        finished: how it ended.
    """

    prompt: str = ""
    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def finish_reason(self) -> str | None:
        """The reason for the end, in OpenAI's words; running out of time counts as "length"."""
        if self.finished is None:
            return None
        return "stop" if self.finished.reason in ("eos", "stop") else "length"


def usage(choices: Sequence[Choice], n: int) -> Object:
    """Return the token counts: each prompt counts once, and every answer.

    Args:
        choices: all choices, grouped by prompt.
        n: the number of choices per prompt.
    """
    ends = [each.finished for each in choices if each.finished is not None]
    prompts, written = sum(e.prompt_tokens for e in ends[::n]), sum(len(e.ids) for e in ends)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": written,
        "total_tokens": prompts + written,
        "prompt_tokens_details": {"cached_tokens": sum(e.reused_tokens for e in ends[::n])},
    }


def head(prefix: str, model: str) -> Object:
    """Return the fields that all events of one answer share."""
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}


class TokenTexts:
    """Tokens as text and bytes, with their log-probabilities.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def text(self, token_id: int) -> str:
        """Return the text of a token; half a character becomes U+FFFD."""
        data = token_bytes(self._tokenizer, token_id)
        return (
            decode(self._tokenizer, [token_id]) if data is None else data.decode(errors="replace")
        )

    def data(self, token_id: int) -> list[int] | None:
        """Return the bytes of a token, None if the tokenizer does not know them."""
        data = token_bytes(self._tokenizer, token_id)
        return None if data is None else list(data)

    def of_chat(self, scores: Sequence[TokenScore]) -> Object:
        """Return the log-probabilities of some tokens in the form of chats."""
        told = [
            {
                **self._one(score.id, score.logprob),
                "top_logprobs": [self._one(*pair) for pair in score.top],
            }
            for score in scores
        ]
        return {"content": told, "refusal": None}

    def _one(self, token_id: int, logprob: float | None) -> Object:
        return {
            "token": self.text(token_id), "logprob": shown(logprob), "bytes": self.data(token_id),
        }  # fmt: skip

    def of_texts(self, scores: Sequence[TokenScore], offsets: Sequence[int]) -> Object:
        """Return the log-probabilities of some tokens in the form of completions.

        Args:
            scores: the tokens.
            offsets: where each begins in the text.
        """
        return {
            "tokens": [self.text(score.id) for score in scores],
            "token_logprobs": [shown(score.logprob) for score in scores],
            "top_logprobs": [self._top(score) for score in scores],
            "text_offset": list(offsets),
        }

    def _top(self, score: TokenScore) -> dict[str, float | None] | None:
        """Return the likeliest tokens and the chosen one, by their texts."""
        if score.logprob is None:
            return None
        found: dict[str, float | None] = {}
        for token_id, logprob in (*score.top, (score.id, score.logprob)):
            found.setdefault(self.text(token_id), shown(logprob))  # of equal texts, the likeliest
        return found


def shown(logprob: float | None) -> float | None:
    """Return a log-probability that JSON can hold."""
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


class Offsets:
    """The positions at which tokens begin in a text, computed as they come.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._decoder, self._length = IncrementalDecoder(tokenizer), 0

    def push(self, scores: Sequence[TokenScore]) -> list[int]:
        """Take the next tokens and return the number of whole characters before each."""
        found = []
        for score in scores:
            found.append(self._length)
            self._length += len(self._decoder.push(score.id))
        return found


class ChatAnswers:
    """The answers of `/v1/chat/completions`.

    Args:
        model: the model's name in the request.
        tokenizer: the model's.
        scored: whether log-probabilities are included.
    """

    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, tokenizer: Any, scored: bool) -> None:
        self.head = head("chatcmpl", model)
        self._tokens, self._scored = TokenTexts(tokenizer), scored

    def whole(self, index: int, choice: Choice) -> Object:
        """Return a choice that has ended."""
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": index, "message": message, "logprobs": self._logprobs(choice.scores),
            "finish_reason": choice.finish_reason,
        }  # fmt: skip

    def opening(self, index: int, choice: Choice) -> Object | None:
        """Return the first event of a choice in a stream."""
        return self._piece(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str, scores: Sequence[TokenScore]) -> Object:
        """Return the next piece of a choice."""
        return self._piece(index, {"content": text}, self._logprobs(scores))

    def ending(self, index: int, choice: Choice) -> Object:
        """Return the last event of a choice in a stream."""
        return self._piece(index, {}, None, choice.finish_reason)

    def _piece(
        self, index: int, delta: Object, logprobs: Any = None, reason: str | None = None
    ) -> Object:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, scores: Sequence[TokenScore]) -> Object | None:
        return self._tokens.of_chat(scores) if self._scored else None


class TextAnswers:
    """The answers of `/v1/completions`.

    Args:
        model: the model's name in the request.
        tokenizer: the model's.
        scored: whether log-probabilities are included.
    """

    whole_object = chunk_object = "text_completion"

    def __init__(self, model: str, tokenizer: Any, scored: bool) -> None:
        self.head = head("cmpl", model)
        self._tokenizer, self._scored = tokenizer, scored
        self._tokens, self._offsets = TokenTexts(tokenizer), dict[int, Offsets]()

    def whole(self, index: int, choice: Choice) -> Object:
        """Return a choice that has ended."""
        text = choice.prompt + choice.text
        return {**self.piece(index, text, choice.scores), "finish_reason": choice.finish_reason}

    def opening(self, index: int, choice: Choice) -> Object | None:
        """Return the first event of a choice in a stream: the prompt, if it comes back."""
        return self.piece(index, choice.prompt, ()) if choice.prompt and not self._scored else None

    def piece(self, index: int, text: str, scores: Sequence[TokenScore]) -> Object:
        """Return the next piece of a choice."""
        logprobs = None
        if self._scored:
            offsets = self._offsets.setdefault(index, Offsets(self._tokenizer))
            logprobs = self._tokens.of_texts(scores, offsets.push(scores))
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def ending(self, index: int, choice: Choice) -> Object:
        """Return the last event of a choice in a stream."""
        reason = choice.finish_reason
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}


Answers = ChatAnswers | TextAnswers


def whole_answer(answers: Answers, choices: Sequence[Choice], n: int) -> Object:
    """Return the answer to a request that did not ask for a stream."""
    told = [answers.whole(i, choice) for i, choice in enumerate(choices)]
    kind = {"object": answers.whole_object}
    return {**answers.head, **kind, "choices": told, "usage": usage(choices, n)}


def chunk(answers: Answers, choices: list[Object], **more: Any) -> Object:
    """Return an event of a stream."""
    return {**answers.head, "object": answers.chunk_object, "choices": choices, **more}
