"""What requests may say: each field by its type and range, and refused by its name."""

import json

import pytest

from llm_scratch.chat.api_errors import ApiError
from llm_scratch.chat.openai_body import parse_body
from llm_scratch.chat.openai_fields import Fields, read_asked, unknown_fields
from llm_scratch.chat.openai_prompts import PromptLimits, read_messages, read_prompts
from llm_scratch.generation.choosing import SamplingSettings

V = 100
HI = {"role": "user", "content": "hi"}


def asked(chat=True, **fields):
    return read_asked(Fields(fields), chat=chat, most_choices=4, vocab_size=V)


def param_of(call, *args, **fields):
    with pytest.raises(ApiError) as caught:
        call(*args, **fields)
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)
    return caught.value.param


def messages_of(*messages):
    return read_messages(Fields({"messages": list(messages)}), PromptLimits())


def prompts_of(prompt):
    return read_prompts(Fields({"prompt": prompt}), PromptLimits(), V)


def test_nothing_said_is_openai_s_defaults():
    found = asked()
    assert found.settings == SamplingSettings(temperature=1.0, top_p=1.0, min_p=0.0)
    assert (found.n, found.max_tokens, found.seed, found.stop) == (1, None, None, ())
    assert (found.top_logprobs, found.stream, found.include_usage) == (None, False, False)
    assert asked(chat=False).max_tokens == 16


def test_null_is_the_same_as_nothing():
    names = ("n", "stop", "seed", "temperature", "top_p", "logit_bias", "logprobs", "max_tokens",
             "max_completion_tokens", "top_logprobs", "stream", "stream_options", "tools",
             "tool_choice", "response_format", "frequency_penalty", "top_k")  # fmt: skip
    assert asked(**dict.fromkeys(names)) == asked()
    texts = dict.fromkeys(("best_of", "suffix", "echo", "logprobs", "max_tokens"))
    assert asked(chat=False, **texts) == asked(chat=False)


def test_every_setting_arrives():
    found = asked(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=1.2,
        presence_penalty=-1, frequency_penalty=2, logit_bias={"5": -100, "6": 1.5}, n=2, seed=-3,
        stop=["a", "b"], max_tokens=9, logprobs=True, top_logprobs=20, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert found.settings == SamplingSettings(
        0.5, 7, 0.9, 0.1, 1.2, -1.0, frequency_penalty=2.0, logit_bias={5: -100.0, 6: 1.5}
    )
    assert (found.n, found.seed, found.stop, found.max_tokens) == (2, -3, ("a", "b"), 9)
    assert (found.top_logprobs, found.stream, found.include_usage) == (20, True, True)


def test_words_with_two_meanings_have_the_right_one():
    assert asked(max_tokens=9, max_completion_tokens=4).max_tokens == 4
    assert asked(stop="x").stop == ("x",)
    assert asked(logprobs=True).top_logprobs == 0
    assert asked(logprobs=False).top_logprobs is None
    assert asked(chat=False, logprobs=0).top_logprobs == 0
    assert asked(top_k=-1).settings.top_k is asked(top_k=0).settings.top_k is None
    assert asked(chat=False, best_of=2, n=2).n == 2
    assert asked(chat=False, echo=True, max_tokens=0).max_tokens == 0
    assert asked(tools=[], tool_choice="none", response_format={"type": "text"}) == asked()


REFUSED = [
    ("temperature", [-0.1, 2.1, "1", True, [], 1e999, 10**400]),
    ("top_p", [-1, 1.5, "0.5", False]),
    ("min_p", [-1, 2, {}]),
    ("top_k", [-2, 1.5, "5", True, 10**30]),
    ("repetition_penalty", [0, -1, 11, "1"]),
    ("presence_penalty", [-2.5, 3, "0"]),
    ("frequency_penalty", [-2.5, 3, [1]]),
    ("n", [0, 5, -1, 1.0, "2", True, 10**50]),
    ("seed", [2**63, -(2**63) - 1, 1.5, "7", True]),
    ("stop", [1, [1], ["a"] * 5, "", ["a", ""], {}, "x" * 1001]),
    ("stream", [1, "true", []]),
    ("stream_options", [1, "x", [1]]),
    ("max_tokens", [0, -1, 2.0, "5", True, 2**31]),
    ("max_completion_tokens", [0, "5", False]),
    ("logprobs", [1, "true"]),
    ("top_logprobs", [-1, 21, 1.5, True]),
    ("logit_bias", [[], 5, {"100": 1}, {"-1": 1}, {"a": 1}, {"5": 101}, {"5": True}, {"٣": 1},
                    {"9" * 5000: 1}, {"1": None}, {str(i): 1 for i in range(1025)}]),
    ("tools", [[{"type": "function"}], "x"]),
    ("functions", [[{}]]),
    ("function_call", ["auto"]),
    ("tool_choice", ["required", {"type": "function"}, 5]),
    ("response_format", [{"type": "json_object"}, "text", {}]),
    ("modalities", [["text", "audio"], "text"]),
    ("audio", [{"voice": "x"}]),
    ("guided_regex", ["a*"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values"), REFUSED, ids=[name for name, _ in REFUSED])
def test_wrong_values_are_refused_by_name(name, values):
    for value in values:
        more = {"logprobs": True} if name == "top_logprobs" else {}
        assert param_of(asked, **{name: value}, **more) == name, value


@pytest.mark.parametrize(
    ("name", "values"),
    [("best_of", [2, 0, "1", True]), ("suffix", ["end", 5]), ("echo", [1, "yes"]),
     ("logprobs", [True, 6, -1, 1.0]), ("max_tokens", [0])],
)  # fmt: skip
def test_wrong_values_of_completions_are_refused_by_name(name, values):
    for value in values:
        assert param_of(asked, chat=False, **{name: value}) == name, value


def test_likely_tokens_need_the_log_probabilities():
    assert param_of(asked, top_logprobs=2) == "top_logprobs"
    assert param_of(asked, stream_options={"include_usage": 1}) == "include_usage"


def test_unknown_fields_are_named_and_known_ones_are_not():
    fields = Fields({"model": "m", "messages": [], "user": "u", "n": 1, "new": 1, "prompt": "p"})
    assert unknown_fields(fields, chat=True) == ["new", "prompt"]
    assert unknown_fields(fields, chat=False) == ["messages", "new"]


def test_messages_of_all_roles_and_forms():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = messages_of(
        {"role": "developer", "content": "S", "name": "x"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "A", "refusal": None, "tool_calls": None},
    )
    assert [(m.role, m.content) for m in found] == [
        ("system", "S"), ("user", "ab"), ("assistant", "A"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({"content": "hi"}, "messages[0].role"),
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[0].role"),
        ({"role": ["user"], "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": ["hi"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": ["text"]}]}, "messages[0].content[0]"),
    ],
)
def test_wrong_messages_are_refused_by_their_place(message, param):
    assert param_of(messages_of, message) == param


def test_messages_are_counted():
    fields, limits = Fields({"messages": [HI] * 3}), PromptLimits(messages=2)
    assert param_of(read_messages, fields, limits) == "messages"
    assert param_of(read_messages, fields, PromptLimits(characters=5)) == "messages"
    assert len(read_messages(fields, PromptLimits(messages=3, characters=6))) == 3
    for value in ({}, [], "hi", None):
        assert param_of(read_messages, Fields({"messages": value}), limits) == "messages"


def test_prompts_are_texts_or_ids_one_or_several():
    assert prompts_of("a") == ["a"]
    assert prompts_of("") == [""]
    assert prompts_of(["a", "b"]) == ["a", "b"]
    assert prompts_of([1, 2]) == [[1, 2]]
    assert prompts_of([[1, 2], [3]]) == [[1, 2], [3]]


@pytest.mark.parametrize(
    "prompt",
    [None, 5, {}, [], [[]], ["a", 1], ["a", [1]], [True], [[1], [True]], [1.0], [[1], []], [V],
     [-1], [[[1]]], [None], ["a"] * 257, [10**40]],
    ids=repr,
)  # fmt: skip
def test_wrong_prompts_are_refused(prompt):
    assert param_of(prompts_of, prompt) == "prompt"


def test_long_prompts_are_refused_before_they_are_encoded():
    fields = Fields({"prompt": ["a" * 5, "b" * 5]})
    assert param_of(read_prompts, fields, PromptLimits(characters=9), V) == "prompt"


BROKEN = [
    b"", b"{", b"[]", b'"x"', b"null", b"5", b"\xff\xfe", b'{"a": "\xc3"}', b'{"a": NaN}',
    b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1, "a": 2}', b'{"b": {"a": 1, "a": 2}}',
    b'{"a": "\\ud800"}', b'{"\\udc00": 1}', b"[" * 100_000, b'{"a":' * 50_000, b"{'a': 1}",
    b'{"a": 1,}', b'\xef\xbb\xbf{"a": 1}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "\n"}', b"\0",
]  # fmt: skip


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_what_is_not_the_json_of_an_object_is_refused(body):
    with pytest.raises(ApiError, match="the body is not the JSON") as caught:
        parse_body(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    json.dumps(caught.value.body()).encode("utf-8")


def test_whole_surrogate_pairs_are_characters():
    assert parse_body(b'{"a": "\\ud83d\\udd25"}') == {"a": "\U0001f525"}
    assert parse_body('{"a": "\U0001f525", "b": 1e3}'.encode()) == {"a": "\U0001f525", "b": 1000.0}
