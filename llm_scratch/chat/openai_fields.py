"""The fields of a request in OpenAI's format: checked by type and range, refused by name.

A field that is null counts as left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_scratch.chat.api_errors import refused
from llm_scratch.checks import is_number
from llm_scratch.conversations.turns import shown
from llm_scratch.generation.choosing import SamplingSettings

MOST_STOPS, LONGEST_STOP, MOST_BIASES = 4, 1_000, 1_024
LEAST_SEED, MOST_SEED = -(2**63), 2**63 - 1
MOST_COUNT = 2**31 - 1

USED = frozenset({
    "model", "stream", "stream_options", "n", "stop", "seed", "temperature", "top_p", "top_k",
    "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias",
    "logprobs", "max_tokens",
})  # fmt: skip
CHAT_ONLY = frozenset({"messages", "max_completion_tokens", "top_logprobs"})
TEXT_ONLY = frozenset({"prompt", "echo", "best_of", "suffix"})
WITHOUT_EFFECT = frozenset({
    "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls", "reasoning_effort", "verbosity",
})  # fmt: skip
"""OpenAI's fields that do not change an answer here."""
NOT_DONE = (
    "tools", "functions", "function_call", "audio", "prediction", "web_search_options",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
    "json_schema", "grammar",
)  # fmt: skip
"""Fields that would change the meaning of an answer; any value with an effect is refused, never
ignored."""


class Fields:
    """The fields of one request, each asked for by its type.

    Args:
        values: the object that came.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        """Return whether a field was given, and is not null."""
        return name in self._values

    def names(self) -> list[str]:
        """Return the names of all fields that were given."""
        return list(self._values)

    def any(self, name: str) -> Any:
        """Return a field as it came, or None if it is missing."""
        return self._values.get(name)

    def flag(self, name: str) -> bool:
        """Return a field that is true or false; false if it is missing."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise refused(name, f"is {shown(value)}; true or false is needed")
        return value

    def count(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number from `low` to `high`, or None if it is missing."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            wanted = f"a whole number from {low} to {high}"
            raise refused(name, f"is {shown(value)}; {wanted} is needed")
        return value

    def number(self, name: str, low: float, high: float, usual: float) -> float:
        """Return a number from `low` to `high`, or `usual` if it is missing."""
        value = self._values.get(name, usual)
        if not is_number(value, low, high):
            raise refused(name, f"is {shown(value)}; a number from {low:g} to {high:g} is needed")
        return float(value)

    def text(self, name: str) -> str:
        """Return a field that must be present and must be a text."""
        value = self._values.get(name)
        if not isinstance(value, str):
            raise refused(name, f"is {shown(value)}; a text is needed")
        return value


@dataclass(frozen=True)
class Asked:
    """The settings of a request, besides its prompt.

    Args:
        settings: how tokens are chosen.
        n: answers for each prompt.
        max_tokens: of an answer; None leaves it to the server.
        seed: of the first answer; the others count up from it. None draws one for each.
        stop: texts that end an answer.
        top_logprobs: how many of the likeliest tokens are listed at each place; None gives no
            log-probabilities.
        echo: whether the prompt comes back in front of the answer.
        stream: whether the answer comes in pieces.
        include_usage: whether a stream ends with the token counts.
    """

    settings: SamplingSettings
    n: int
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    top_logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool


def read_asked(fields: Fields, *, chat: bool, most_choices: int, vocab_size: int) -> Asked:
    """Return what a request asks for.

    Args:
        fields: of the request.
        chat: whether the request is for `/v1/chat/completions`.
        most_choices: the maximum number of answers for each prompt.
        vocab_size: the number of ids that the model has.

    Raises:
        ApiError: 400, naming the field.
    """
    refuse_what_is_not_done(fields, chat)
    options = fields.any("stream_options") or {}
    if not isinstance(options, dict):
        raise refused("stream_options", f"is {shown(options)}; an object is needed")
    n = fields.count("n", 1, most_choices) or 1
    if not chat and (fields.count("best_of", 1, most_choices) or n) != n:
        raise refused("best_of", f"is not supported here; leave it out, or give n={n}")
    return Asked(
        settings=read_sampling(fields, vocab_size),
        n=n,
        max_tokens=_max_tokens(fields, chat),
        seed=fields.count("seed", LEAST_SEED, MOST_SEED),
        stop=read_stop(fields.any("stop")),
        top_logprobs=_chat_logprobs(fields) if chat else fields.count("logprobs", 0, 5),
        echo=not chat and fields.flag("echo"),
        stream=fields.flag("stream"),
        include_usage=Fields(options).flag("include_usage"),
    )


def refuse_what_is_not_done(fields: Fields, chat: bool) -> None:
    """Refuse fields that would change the meaning of the answer and are not supported here."""
    for name in NOT_DONE:
        if fields.any(name) not in (None, [], {}, "", False):
            raise refused(name, "is not supported here; leave it out", "unsupported_parameter")
    if fields.any("tool_choice") not in (None, "none", "auto"):
        raise refused("tool_choice", "is not supported; leave it out", "unsupported_parameter")
    shape = fields.any("response_format")
    if shape is not None and shape != {"type": "text"}:
        raise refused(
            "response_format", 'must be {"type": "text"} here; leave it out',
            "unsupported_parameter",
        )  # fmt: skip
    if fields.any("modalities") not in (None, ["text"]):
        raise refused("modalities", 'must be ["text"] here', "unsupported_parameter")
    if not chat and fields.any("suffix") not in (None, ""):
        raise refused("suffix", "is not supported here; leave it out", "unsupported_parameter")


def read_sampling(fields: Fields, vocab_size: int) -> SamplingSettings:
    """Return how tokens are chosen; missing fields are OpenAI's defaults, as a temperature of 1."""
    repetition = fields.number("repetition_penalty", 0, 10, 1)
    if repetition == 0:
        raise refused("repetition_penalty", "is 0; a number above 0 is needed, 1 changes nothing")
    return SamplingSettings(
        temperature=fields.number("temperature", 0, 2, 1),
        top_k=max(fields.count("top_k", -1, MOST_COUNT) or 0, 0) or None,
        top_p=fields.number("top_p", 0, 1, 1),
        min_p=fields.number("min_p", 0, 1, 0),
        repetition_penalty=repetition,
        presence_penalty=fields.number("presence_penalty", -2, 2, 0),
        frequency_penalty=fields.number("frequency_penalty", -2, 2, 0),
        logit_bias=read_bias(fields.any("logit_bias"), vocab_size),
    )


def read_stop(value: Any) -> tuple[str, ...]:
    """Return the texts that end an answer: one, or a list of up to four."""
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
        raise refused("stop", f"is {shown(value)}; a text or a list of texts is needed")
    if len(stops) > MOST_STOPS:
        raise refused("stop", f"has {len(stops)} texts; up to {MOST_STOPS} are taken")
    if not all(0 < len(each) <= LONGEST_STOP for each in stops):
        raise refused("stop", f"has a text that is empty or longer than {LONGEST_STOP} characters")
    return tuple(stops)


def read_bias(value: Any, vocab_size: int) -> dict[int, float]:
    """Return what is added to the logits of single tokens, by their ids."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        raise refused("logit_bias", f"must be an object of ids and numbers, at most {MOST_BIASES}")
    found = {}
    for name, bias in value.items():
        digits = name.isascii() and name.isdecimal() and len(name) < 10
        if not digits or int(name) >= vocab_size:
            raise refused(
                "logit_bias", f"names {shown(name)}; ids go from 0 to {vocab_size - 1}"
            )  # fmt: skip
        if not is_number(bias, -100, 100):
            raise refused("logit_bias", f"has {shown(bias)}; numbers from -100 to 100 are needed")
        found[int(name)] = float(bias)
    return found


def _chat_logprobs(fields: Fields) -> int | None:
    wanted, most = fields.flag("logprobs"), fields.count("top_logprobs", 0, 20)
    if most is not None and not wanted:
        raise refused("top_logprobs", 'needs "logprobs": true')
    return (most or 0) if wanted else None


def _max_tokens(fields: Fields, chat: bool) -> int | None:
    if chat:
        new = fields.count("max_completion_tokens", 1, MOST_COUNT)
        old = fields.count("max_tokens", 1, MOST_COUNT)
        return old if new is None else new
    least = 0 if fields.flag("echo") else 1
    most = fields.count("max_tokens", least, MOST_COUNT)
    return 16 if most is None else most


def unknown_fields(fields: Fields, *, chat: bool) -> list[str]:
    """Return the names of fields that are unknown here."""
    own = CHAT_ONLY if chat else TEXT_ONLY
    known = {*USED, *own, *WITHOUT_EFFECT, *NOT_DONE, "tool_choice", "response_format"}
    return [name for name in fields.names() if name not in known | {"modalities"}]
