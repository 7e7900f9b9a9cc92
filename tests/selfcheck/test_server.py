from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.request

import pytest

from llm_scratch.selfcheck.server import Served, serving


def test_server_answers_for_every_address() -> None:
    with serving(Served(b"the file")) as served:
        with urllib.request.urlopen("http://example.org/data.json") as response:
            assert response.read() == b"the file"
    assert served.fetched == 1


@pytest.mark.parametrize(("stream", "lines"), [(True, 4), (False, 1)])
def test_server_replies_as_ollama_does(stream: bool, lines: int) -> None:
    question = {"messages": [{"role": "user", "content": "two"}], "stream": stream}
    with serving(Served(reply=lambda text: f"{text} and three")) as served:
        connection = http.client.HTTPConnection("localhost", 11434)
        connection.request("POST", "/api/chat", json.dumps(question))
        parts = [json.loads(line) for line in connection.getresponse().read().splitlines()]
        connection.close()
    assert len(parts) == lines
    assert "".join(part["message"]["content"] for part in parts) == "two and three"
    assert [part["done"] for part in parts] == [False] * (lines - 1) + [True]
    assert served.questions == [question]


def test_server_refuses_a_question_that_is_no_json() -> None:
    with serving(Served()) as served:
        connection = http.client.HTTPConnection("localhost", 11434)
        connection.request("POST", "/api/chat", "[1")
        assert connection.getresponse().status == 400
        connection.close()
    assert not served.questions


def test_server_leaves_look_ups_and_environment_as_found(monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.delenv("NO_PROXY", raising=False)
    lookup = socket.getaddrinfo
    before = dict(os.environ)
    with serving(Served()):
        assert socket.getaddrinfo is not lookup
        assert os.environ["no_proxy"] == "*"
    assert socket.getaddrinfo is lookup
    assert dict(os.environ) == before
