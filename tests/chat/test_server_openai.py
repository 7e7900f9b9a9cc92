"""What OpenAI's own client makes of the server, checking every answer against its types."""

from __future__ import annotations

import pytest
from scripted_engine import ScriptedEngine
from served_models import QUESTION, application, on_a_port

openai = pytest.importorskip("openai", reason="pip install openai")


@pytest.fixture(scope="module")
def engine():
    return ScriptedEngine()


@pytest.fixture(scope="module")
def url(engine):
    app = application(engine, api_key="k", limits={"body_bytes": 50_000})
    with on_a_port(app) as found:
        yield found + "/v1"


@pytest.fixture(scope="module")
def client(url):
    options = {"base_url": url, "api_key": "k", "max_retries": 0, "timeout": 10}
    with openai.OpenAI(**options, _strict_response_validation=True) as made:
        yield made


EVERY_FIELD = {
    "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["x"], "seed": 3, "frequency_penalty": 0.5,
    "presence_penalty": 0.5, "logit_bias": {"5": -100}, "user": "me",
}  # fmt: skip
CHAT_FIELDS = {
    **EVERY_FIELD, "logprobs": True, "top_logprobs": 2, "max_completion_tokens": 5,
    "response_format": {"type": "text"}, "store": False, "metadata": {}, "tool_choice": "none",
}  # fmt: skip


def test_models(client):
    (listed,) = client.models.list().data
    assert listed.id == client.models.retrieve("tide").id == "tide"


def test_a_chat_with_every_field(client):
    answer = client.chat.completions.create(model="tide", messages=QUESTION, **CHAT_FIELDS)
    assert [choice.message.content for choice in answer.choices] == ["A b c"] * 2
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert len(answer.choices[1].logprobs.content[2].top_logprobs) == 2
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6
    assert answer._request_id.startswith("req-")


def test_a_streamed_chat_with_every_field(client):
    fields = {**CHAT_FIELDS, "stream": True, "stream_options": {"include_usage": True}}
    with client.chat.completions.create(model="tide", messages=QUESTION, **fields) as stream:
        chunks = list(stream)
    assert chunks[-1].usage.completion_tokens == 6
    told = [c.choices[0] for c in chunks[:-1]]
    for index in range(2):
        own = [choice for choice in told if choice.index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == "A b c"
        assert own[-1].finish_reason == "stop"
        assert sum(len(c.logprobs.content) for c in own if c.logprobs) == 3


def test_texts_with_every_field(client):
    answer = client.completions.create(
        model="tide", prompt=["The", "tide"], max_tokens=3, logprobs=2, best_of=2, **EVERY_FIELD
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[3].text == "A b c"
    assert len(answer.choices[0].logprobs.tokens) == 3
    ids = client.completions.create(model="tide", prompt=[[40, 41], [42]], echo=True)
    assert ids.choices[1].text.endswith("A b c")


def test_streamed_texts(url):
    """Not strict: its types want a reason in every chunk, where OpenAI's server says null too."""
    with openai.OpenAI(base_url=url, api_key="k") as client:
        chunks = list(client.completions.create(model="tide", prompt="The", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "A b c"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]


@pytest.mark.parametrize(
    ("error", "fields"),
    [("BadRequestError", {"temperature": 3}),
     ("BadRequestError", {"tools": [{"type": "function"}]}), ("NotFoundError", {"model": "other"}),
     ("APIStatusError", {"messages": [{"role": "user", "content": "x" * 60_000}]})],
)  # fmt: skip
def test_errors_have_their_classes_by_status(client, error, fields):
    asked = {"model": "tide", "messages": QUESTION, **fields}
    with pytest.raises(getattr(openai, error)) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.body["message"]
    assert caught.value.request_id.startswith("req-")
    if error == "BadRequestError":
        assert caught.value.param == next(iter(fields))


def test_a_wrong_key_a_full_queue_and_a_dead_engine_have_their_classes(client, engine):
    def ask(asked):
        return asked.chat.completions.create(model="tide", messages=QUESTION)

    with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
        ask(client.with_options(api_key="wrong"))
    with pytest.raises(openai.PermissionDeniedError, match="does not answer for"):
        ask(client.with_options(default_headers={"host": "evil.example"}))
    engine.places = 0
    with pytest.raises(openai.RateLimitError, match="waiting"):
        ask(client)
    engine.places = 1000
    engine.alive = False
    with pytest.raises(openai.InternalServerError, match="its thread has ended"):
        ask(client)
    engine.alive = True


def test_a_failure_in_a_stream_is_an_error(client, engine):
    engine.fail_after = 1
    stream = client.chat.completions.create(model="tide", messages=QUESTION, stream=True)
    with pytest.raises(openai.APIError, match="the server failed at this request"):
        list(stream)
    engine.fail_after = None
