"""The server on a port: clients that leave, that are slow, that break off, and its own end."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import closing

import pytest
from scripted_engine import ScriptedEngine, wait_until
from served_models import CHAT, TEXT, application, chat, on_a_port, text

from llm_scratch.chat import serving
from llm_scratch.chat.serving import bind, url_of


def connect(url):
    """A plain socket to the server."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(path=CHAT, length=0, more="", method="POST"):
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}"]
    return ("\r\n".join([*lines, *filter(None, [more])]) + "\r\n\r\n").encode()


def request(body, path=CHAT):
    data = json.dumps(body).encode()
    return head(path, len(data)) + data


def read_all(sock):
    data = b""
    while part := sock.recv(65536):
        data += part
    return data


def is_well(url):
    """Whether the next request is answered as it should be."""
    host, port = url.removeprefix("http://").split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=10)) as asked:
        asked.request("POST", TEXT, json.dumps(text()))
        answer = asked.getresponse()
        told = json.loads(answer.read())
    return answer.status == 200 and told["choices"][0]["text"] == "A b c"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row(stream):
    engine = ScriptedEngine([" a"] * 2000, pause=0.01)
    app = application(engine, limits={"answer_tokens": 1000})
    with on_a_port(app) as url:
        with connect(url) as sock:
            sock.sendall(request(chat(n=3, stream=stream)))
            wait_until(lambda: engine.counters.running == 3)
            if stream:
                assert b"200 OK" in sock.recv(1000)
        wait_until(lambda: engine.counters.running == 0)
        assert engine.counters.cancelled == 3
        engine.pieces, engine.pause = ("A", " b", " c"), 0
        assert is_well(url)


def test_a_client_that_leaves_before_the_first_word_frees_its_row():
    engine = ScriptedEngine(pause=60)
    with on_a_port(application(engine)) as url:
        with connect(url) as sock:
            sock.sendall(request(chat(stream=True)))
            wait_until(lambda: engine.counters.running == 1)
        wait_until(lambda: engine.counters.running == 0)


def test_a_client_that_leaves_within_its_body_is_forgotten():
    app = application()
    with on_a_port(app) as url:
        with connect(url) as sock:
            sock.sendall(head(length=500) + b"{")
        assert is_well(url)
    assert app.models["tide"].engine.counters.requests == 1


def test_a_body_that_does_not_come_is_given_up():
    with on_a_port(application(limits={"body_seconds": 1.0})) as url:
        with connect(url) as sock:
            sock.sendall(head(length=50) + b"{")
            answer = read_all(sock)  # until the server closes
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "timeout"
        assert is_well(url)


@pytest.mark.parametrize("words", [b"", b"POST /v1/chat", b"GET /health HTTP/1.1\r\nHost: x"])
def test_a_head_that_does_not_come_is_given_up(words, monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    with on_a_port(application()) as url, connect(url) as sock:
        sock.sendall(words)
        assert read_all(sock) == b""
        monkeypatch.undo()
        assert is_well(url)


def test_a_second_head_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    with on_a_port(application()) as url, connect(url) as sock:
        sock.sendall(head("/health", method="GET") + b"GET /hea")
        answer = read_all(sock)
        assert answer.count(b"HTTP/1.1") == 1


def test_a_half_closed_connection_still_gets_its_answer_or_its_end():
    with on_a_port(application()) as url:
        with connect(url) as sock:
            sock.sendall(request(chat()))
            sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 200")
        assert is_well(url)


def test_requests_one_after_the_other_on_one_connection():
    with on_a_port(application()) as url, connect(url) as sock:
        sock.sendall(request(chat()) + request(chat(stream=True)) + head("/health", method="GET"))
        data = b""
        while data.count(b"HTTP/1.1 200") < 3 or b'"status":"ok"' not in data:
            data += sock.recv(65536)


def test_the_end_of_the_server_is_told_in_running_answers():
    engine = ScriptedEngine([" a"] * 5000, pause=0.01)
    app = application(engine, limits={"answer_tokens": 4000})
    engine.model.cfg = engine.model.cfg.__class__(**{**engine.model.cfg, "context_length": 5000})
    with on_a_port(app) as url:
        streamed, whole = connect(url), connect(url)
        streamed.sendall(request(chat(stream=True)))
        whole.sendall(request(chat()))
        wait_until(lambda: engine.counters.running == 2)
    with streamed, whole:
        events = read_all(streamed)
        assert b'data: {"error":{' in events
        assert b'"code":"engine_stopped"' in events
        assert b"[DONE]" not in events
        assert read_all(whole).startswith(b"HTTP/1.1 503 ")


def test_a_client_that_reads_nothing_is_given_up(monkeypatch):
    from llm_scratch.chat import server

    monkeypatch.setattr(server, "SPARE_SECONDS", 0.1)
    engine = ScriptedEngine(["x" * 400_000] * 40)
    app = application(engine, limits={"seconds": 0.3})
    with on_a_port(app) as url, connect(url) as sock:
        sock.sendall(request(chat(stream=True)))
        assert sock.recv(10)
        time.sleep(0.6)
        data = b""
        try:
            data = read_all(sock)
        except ConnectionError:
            pass
        assert b"[DONE]" not in data
        engine.pieces = ("A", " b", " c")
        assert is_well(url)


def test_a_port_in_use_is_told_in_one_line():
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(OSError, match=f"^port {port} of 127.0.0.1 is in use; choose another"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_told_in_one_line():
    with pytest.raises(OSError, match=r"^host\.invalid is not an address .*--host$"):
        bind("host.invalid", 0)


def test_addresses_as_a_browser_takes_them():
    with bind("0.0.0.0", 0) as bound:
        assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_many_clients_at_once_get_their_own_answers():
    engine = ScriptedEngine(pause=0.001)
    with on_a_port(application(engine)) as url:
        right = []

        def ask():
            right.extend(is_well(url) for _ in range(3))

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert right == [True] * 48
