"""Requests that nobody means: each gets a documented status, and the next one is right."""

from __future__ import annotations

import json
import random

import pytest
from scripted_engine import ScriptedEngine
from served_models import CHAT, TEXT, chat, client, text

from llm_scratch.chat import server

DOCUMENTED = {200, 400, 401, 403, 404, 405, 408, 413, 429}
CHAT_FIELDS = {
    "model": "tide", "messages": [{"role": "user", "content": "hi"}], "n": 2, "seed": 1,
    "stop": ["a"], "temperature": 0.5, "top_p": 0.5, "logprobs": True, "top_logprobs": 2,
    "max_tokens": 3, "stream": False, "stream_options": {"include_usage": True}, "user": "me",
    "logit_bias": {"5": 1}, "presence_penalty": 1, "frequency_penalty": 1, "tools": [],
    "response_format": {"type": "text"}, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1,
}  # fmt: skip
TEXT_FIELDS = {
    "model": "tide", "prompt": ["a", "b"], "n": 2, "best_of": 2, "echo": True, "logprobs": 2,
    "suffix": "", "max_tokens": 3, "stop": "a", "seed": 1, "temperature": 0, "stream": False,
}  # fmt: skip
ODD = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, 1e-320, "", "a",
    "\U0001f525" * 50, "x" * 20_000, "\0", "\u2028", "<|endoftext|>", [], [[]], [[[]]], [None],
    [True], [1, "a"], ["a"] * 300, list(range(300)), {}, {"": {}}, {"a": [1]}, {"type": "text"},
    {"role": "user"}, [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "NaN",
    {"include_usage": "yes"}, [{"role": "user", "content": "a"}] * 501, "None", {"5": 1e999},
]  # fmt: skip
BYTES = [b"\xff", b"\xc3", b"\\ud800", b"NaN", b"Infinity", b"[" * 3000, b"{", b"}", b'"', b",",
         b"1" * 5000, b"\0", b"\\u00zz", b"null", b"//", b"1e99999"]  # fmt: skip


def hostile(numbers):
    """A path, headers and a body, wrong in one way or several."""
    path = numbers.choice([CHAT, CHAT, TEXT, TEXT, "/v1/models/" + "x" * 300, "/", "/metrics"])
    fields = dict(CHAT_FIELDS if path == CHAT else TEXT_FIELDS)
    for _ in range(numbers.randint(1, 3)):
        name = numbers.choice([*fields, "new", "\u00e9", ""])
        if numbers.random() < 0.2:
            fields.pop(name, None)
        else:
            fields[name] = numbers.choice(ODD)
    body = json.dumps(fields).encode()
    if numbers.random() < 0.35:
        place = numbers.randrange(len(body))
        body = body[:place] + numbers.choice(BYTES) + body[place + numbers.randint(0, 3) :]
    if numbers.random() < 0.05:
        body = body[: numbers.randrange(len(body))]
    headers = {}
    if numbers.random() < 0.1:
        headers["host"] = numbers.choice(["evil.example", "[", "127.0.0.1.evil", "localhost"])
    if numbers.random() < 0.1:
        headers["content-type"] = numbers.choice(["text/plain", "multipart/form-data", "x", ""])
    if numbers.random() < 0.05:
        headers["origin"] = numbers.choice(["null", "http://evil.example", "http://["])
    method = numbers.choice(["POST"] * 20 + ["GET", "PUT", "HEAD", "OPTIONS", "PATCH"])
    return method, path, headers, body


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_hostile_requests_get_documented_statuses_and_harm_nobody(count):
    numbers = random.Random(17)
    lines = []
    engine = ScriptedEngine()
    with client(engine, log=lines, limits={"body_bytes": 18_000}) as asked:
        seen = set()
        for number in range(count):
            method, path, headers, body = hostile(numbers)
            answer = asked.request(method, path, headers=headers, content=body)
            seen.add(answer.status_code)
            assert answer.status_code in DOCUMENTED, (number, method, path, body[:300], answer.text)
            assert "Traceback" not in answer.text
            assert ".py" not in answer.text
            if answer.status_code >= 400 and method != "HEAD":
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                assert len(answer.content) < 1000, answer.text
            if number % 10 == 0:
                right = asked.post(CHAT, json=chat()).json()
                assert right["choices"][0]["message"]["content"] == "A b c"
        assert {200, 400, 403, 404, 405, 413} <= seen
        assert asked.post(TEXT, json=text()).status_code == 200
        assert engine.counters.running == 0
        assert len(lines) <= 10  # of unknown fields, once each


def test_unknown_names_fill_neither_memory_nor_the_log(monkeypatch):
    monkeypatch.setattr(server, "MOST_UNKNOWN", 10)
    lines = []
    asked = client(log=lines)
    for number in range(20):
        asked.post(CHAT, json=chat(**{f"name{number}": 1}))
    assert len(lines) == 10
    fresh = client(log=lines)
    fresh.post(CHAT, json=chat(**{"x" * 100_000: 1}))
    assert len(lines) == 11
    assert max(map(len, lines)) < 200
