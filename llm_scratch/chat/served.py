"""The models of a server, by name, each with its engine, and the limits of requests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llm_scratch.chat.api_errors import ApiError, refused
from llm_scratch.chat.openai_fields import Asked, Fields, read_asked, unknown_fields
from llm_scratch.chat.openai_prompts import PromptLimits, read_messages, read_prompts
from llm_scratch.chat.requests import ContextLengthError, OnEvent, Request
from llm_scratch.conversations.encoding import Format, encode_prompt
from llm_scratch.conversations.turns import shown
from llm_scratch.generation.texts import prompt_ids
from llm_scratch.model.wrappers import context_length_of, unwrapped
from llm_scratch.tokenizers.any_tokenizer import decode, end_of_text_id, vocab_size_of


class Ticket(Protocol):
    """A request on its way, as `Engine.submit` returns it."""

    def cancel(self) -> None:
        """End the request; it finishes as interrupted."""


class Answering(Protocol):
    """The part of an engine that the server uses."""

    model: Any
    tokenizer: Any

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""

    @property
    def counters(self) -> Any:
        """The counters of the engine so far."""

    def submit(self, request: Request, on_event: OnEvent) -> Ticket:
        """Take a request."""

    def stop(self, timeout: float = 5.0) -> None:
        """End all running requests."""


@dataclass(frozen=True)
class ServerLimits:
    """The limits on one request.

    Args:
        body_bytes: the size of its body.
        body_seconds: the time for the body to arrive.
        prompts: the size of its prompts.
        choices: answers for each prompt (`n`).
        together: answers of one request that the engine works on at a time.
        answer_tokens: the length of an answer, also if the request gives none.
        seconds: the time after which an answer ends as if it were long enough.
        silence: the seconds without text after which a stream sends a sign of life.
    """

    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    prompts: PromptLimits = PromptLimits()
    choices: int = 16
    together: int = 8
    answer_tokens: int = 4096
    seconds: float = 600.0
    silence: float = 5.0


def say(line: str) -> None:
    """Print a line for the server's operator."""
    print(f"llm-scratch: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server: who may ask, and how much.

    Args:
        api_key: the key that requests must send; None needs none.
        hosts: further names that the server answers to; "*" is any.
        origins: pages of other servers that may ask, such as "https://chat.example"; "*" is any.
        limits: of each request.
        log: called with lines for the server's operator.
    """

    api_key: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: ServerLimits = ServerLimits()
    log: Callable[[str], None] = say


@dataclass(frozen=True)
class ServedModel:
    """A model that the server offers.

    Args:
        name: its name in requests.
        engine: the engine that answers, with its model and tokenizer.
        format: how a chat becomes text for it; None if unknown.
        created: seconds since 1970.
    """

    name: str
    engine: Answering
    format: Format | None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def context_length(self) -> int:
        """The number of tokens that the model sees."""
        return context_length_of(self.engine.model)

    @property
    def vocab_size(self) -> int:
        """The number of ids that both the model and its tokenizer know."""
        known = vocab_size_of(self.engine.tokenizer)
        most = int(unwrapped(self.engine.model).cfg["vocab_size"])
        return most if known is None else min(most, known)

    def listed(self) -> dict[str, Any]:
        """Return the model's entry in `/v1/models`."""
        return {
            "id": self.name, "object": "model", "created": self.created,
            "owned_by": "llm-scratch", "context_length": self.context_length,
        }  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A request that has been read completely; from here on, only the engine can refuse it.

    Args:
        served: the model that answers.
        asked: the settings of the request.
        requests: one per prompt and choice, for the engine.
        prompts: the text of each prompt if it comes back, else "".
        chat: whether it is a chat.
        unknown: names of fields that have no effect here.
        log: called with the details of a failure.
    """

    served: ServedModel
    asked: Asked
    requests: list[Request]
    prompts: list[str]
    chat: bool
    unknown: list[str]
    log: Callable[[str], None]


def find_model(models: Mapping[str, ServedModel], name: Any) -> ServedModel:
    """Return the model with this name.

    Raises:
        ApiError: 404 with the known names.
    """
    if name not in models:
        names = ", ".join(models)
        raise ApiError(
            404, f"no model is called {shown(name)} here; use {names}", param="model",
            code="model_not_found",
        )  # fmt: skip
    return models[name]


def prepare(
    values: Mapping[str, Any],
    models: Mapping[str, ServedModel],
    settings: ServerSettings,
    *,
    chat: bool,
) -> Prepared:
    """Read a request, and encode its content.

    Raises:
        ApiError: 400 or 404, naming the field.
    """
    fields, limits = Fields(values), settings.limits
    served = find_model(models, fields.text("model"))
    asked = read_asked(
        fields, chat=chat, most_choices=limits.choices, vocab_size=served.vocab_size
    )  # fmt: skip
    prompts, texts = (
        _encode_chat(fields, served, limits)
        if chat
        else _encode_texts(fields, served, limits, asked)
    )
    name = "messages" if chat else "prompt"
    requests = [
        _request(ids, k, served, asked, limits, name) for ids in prompts for k in range(asked.n)
    ]
    unknown = unknown_fields(fields, chat=chat)
    return Prepared(served, asked, requests, texts, chat, unknown, settings.log)


Encoded = tuple[list[list[int]], list[str]]


def _encode_chat(fields: Fields, served: ServedModel, limits: ServerLimits) -> Encoded:
    """Return the ids of a chat; its text does not come back."""
    if (format := served.format) is None:
        raise ApiError(
            400, f"nothing says how a chat becomes text for {served.name}; start the server with "
            "--format NAME, or ask /v1/completions", param="model", code="no_chat_format",
        )  # fmt: skip
    messages = read_messages(fields, limits.prompts)
    try:
        ids = encode_prompt(messages, format, served.engine.tokenizer)
    except ValueError as err:  # turns out of order, or a template that refuses them
        raise refused("messages", f"can't be answered: {' '.join(str(err).split())}") from err
    return [ids], [""]


def _encode_texts(
    fields: Fields, served: ServedModel, limits: ServerLimits, asked: Asked
) -> Encoded:
    """Return the ids of each prompt, and its text if it comes back."""
    tokenizer = served.engine.tokenizer
    prompts = read_prompts(fields, limits.prompts, served.vocab_size)
    try:
        ids = [prompt_ids(tokenizer, each, "text", end_of_text_id(tokenizer)) for each in prompts]
        texts = [_text(tokenizer, each) if asked.echo else "" for each in prompts]
    except ValueError as err:  # an empty text, and no token to begin it
        raise refused("prompt", f"can't be read: {' '.join(str(err).split())}") from err
    return ids, texts


def _text(tokenizer: Any, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else decode(tokenizer, prompt)


def _request(
    ids: list[int], k: int, served: ServedModel, asked: Asked, limits: ServerLimits, name: str
) -> Request:
    """Return the request of one choice, whose answer fits the context."""
    room = served.context_length - len(ids)
    if room < 1:
        error = ContextLengthError(len(ids), served.context_length)
        raise ApiError(400, str(error), param=name, code="context_length_exceeded")
    most = limits.answer_tokens if asked.max_tokens is None else max(asked.max_tokens, 1)
    tokenizer, format = served.engine.tokenizer, served.format if name == "messages" else None
    end = end_of_text_id(tokenizer)
    ends = format.end_ids(tokenizer) if format else () if end is None else (end,)
    return Request(
        tuple(ids),
        min(most, room, limits.answer_tokens),
        asked.settings,
        None if asked.seed is None else (asked.seed + k) % 2**63,
        (*asked.stop, *(format.stop_strings if format else ())),
        ends,
        asked.top_logprobs,
        asked.echo and asked.top_logprobs is not None,
    )
