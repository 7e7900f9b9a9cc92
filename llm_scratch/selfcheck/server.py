"""A server on this machine that answers every request of a reader's code, and records it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

HERE = "127.0.0.1"
NO_PROXY = {"no_proxy": "*", "NO_PROXY": "*"}


@dataclass
class Served:
    """The replies of the server, and the requests that it got.

    Args:
        body: the answer to every GET.
        reply: the text of a chat's question -> the model's answer.
        url: the address of the server.
        fetched: the number of requests for `body`.
        questions: the JSON of each question, in order.
    """

    body: bytes = b""
    reply: Callable[[str], str] = str
    url: str = ""
    fetched: int = 0
    questions: list[dict[str, Any]] = field(default_factory=list)


def text_of(question: dict[str, Any]) -> str:
    """Return the text of a question to a model: its messages or its prompt."""
    messages = question.get("messages") or []
    texts = [str(message.get("content", "")) for message in messages]
    return "\n".join([*texts, str(question.get("prompt", ""))]).strip()


def chat_lines(question: dict[str, Any], reply: str) -> bytes:
    """Return a reply as Ollama sends it: piece by piece, or whole if streaming is off."""
    third = max(len(reply) // 3, 1)
    pieces = [reply[:third], reply[third : 2 * third], reply[2 * third :], ""]
    if question.get("stream") is False:
        pieces = [reply]
    lines = [
        json.dumps(
            {
                "message": {"role": "assistant", "content": piece},
                "response": piece,
                "done": number == len(pieces),
            }
        )
        for number, piece in enumerate(pieces, 1)
    ]
    return ("\n".join(lines) + "\n").encode()


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            served.fetched += 1
            self._send(served.body)

        def do_HEAD(self) -> None:
            self._send(b"", len(served.body))

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            try:
                question = dict(json.loads(self.rfile.read(size)))
            except (ValueError, TypeError):
                self.send_error(400, "the question is not a JSON object")
                return
            served.questions.append(question)
            self._send(chat_lines(question, served.reply(text_of(question))))

        def _send(self, body: bytes, size: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) if size is None else size))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    return Handler


@contextlib.contextmanager
def serving(served: Served) -> Iterator[Served]:
    """Answer every HTTP request in the meantime; nothing leaves this machine."""
    with socketserver.ThreadingTCPServer((HERE, 0), _handler(served)) as server:
        server.daemon_threads = True
        port = int(server.server_address[1])
        served.url = f"http://{HERE}:{port}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            with _all_addresses_are(port):
                yield served
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def _all_addresses_are(port: int) -> Iterator[None]:
    """Resolve every address to a port of this machine, bypassing any proxy."""
    lookup = socket.getaddrinfo
    before = {name: os.environ.get(name) for name in NO_PROXY}
    answer = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HERE, port))]
    os.environ.update(NO_PROXY)
    socket.getaddrinfo = lambda *_, **__: answer  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.getaddrinfo = lookup
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
