"""The server: models behind OpenAI's API, and a page to talk with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llm_scratch.chat.api_errors import ApiError, failed
from llm_scratch.chat.guards import Guards, error_response
from llm_scratch.chat.openai_body import parse_body
from llm_scratch.chat.page_answer import PAGE, page_headers, read_page
from llm_scratch.chat.running_choices import (
    ClientLeftError,
    RunningChoices,
    answer_stream,
    answer_whole,
    start_answering,
)
from llm_scratch.chat.served import Prepared, ServedModel, ServerSettings, find_model, prepare
from llm_scratch.chat.serving_metrics import CONTENT_TYPE, metrics_text

CLIENT_LEFT = 499
MOST_UNKNOWN = 200
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
SPARE_SECONDS = 30.0
"""The extra time that a client has for reading, beyond the limit for its answer."""


class Application:
    """The server's endpoints over some models.

    Args:
        models: the models to serve; their engines have started.
        settings: who may ask, and how much.
        bound: the host that the server listens at.
        page: the file of the page.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        settings: ServerSettings,
        bound: str = "127.0.0.1",
        page: Path = PAGE,
    ) -> None:
        self.models = {served.name: served for served in models}
        self.settings = settings
        self._page = read_page(page) if page.is_file() else ""
        # One thread reads all requests: tokenizers need not be safe to use from several.
        self._reader = ThreadPoolExecutor(1, "llm-scratch-requests")
        self._unknown: set[str] = set()
        self.guards = Guards(self._starlette(), settings, bound)

    def _starlette(self) -> Starlette:
        routes = [
            Route("/", self.show_page),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{name:path}", self.show_model),
            Route("/v1/chat/completions", partial(self.answer, chat=True), methods=["POST"]),
            Route("/v1/completions", partial(self.answer, chat=False), methods=["POST"]),
        ]
        handlers: Mapping[Any, Any] = {
            ApiError: _show_error, HTTPException: _show_http_error, Exception: _show_failure,
        }  # fmt: skip
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self.stop)
        self._reader.shutdown(wait=False)

    def stop(self) -> None:
        """End all answers and engines."""
        for served in self.models.values():
            served.engine.stop()

    async def show_page(self, request: Request) -> Response:
        """Answer `/`."""
        if not self._page:
            raise HTTPException(404)
        return HTMLResponse(self._page, headers=page_headers(self._page))

    async def health(self, request: Request) -> Response:
        """Answer `/health`: 503 if a model does not answer any more."""
        alive = {name: served.engine.alive for name, served in self.models.items()}
        whole = all(alive.values())
        told: dict[str, Any] = {"status": "ok" if whole else "failed"}
        if self.settings.api_key is None:  # names are for those with the key
            told["models"] = {name: "ok" if lives else "failed" for name, lives in alive.items()}
        return JSONResponse(told, 200 if whole else 503)

    async def metrics(self, request: Request) -> Response:
        """Answer `/metrics`."""
        text = metrics_text(self.models, self.guards.statuses)
        return Response(text, media_type=None, headers={"content-type": CONTENT_TYPE})

    async def list_models(self, request: Request) -> Response:
        """Answer `/v1/models`."""
        data = [served.listed() for served in self.models.values()]
        return JSONResponse({"object": "list", "data": data})

    async def show_model(self, request: Request) -> Response:
        """Answer `/v1/models/NAME`, where names may have slashes."""
        return JSONResponse(find_model(self.models, request.path_params["name"]).listed())

    async def answer(self, request: Request, *, chat: bool) -> Response:
        """Answer a chat or a completion."""
        try:
            body = await self._read_body(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._reader, self._prepare, body, chat)
        self._log_unknown(prepared.unknown)
        running = start_answering(prepared, self.settings.limits)
        if prepared.asked.stream:
            return EventStream(running, prepared, self.settings.limits.seconds + SPARE_SECONDS)
        gone = asyncio.create_task(_client_leaves(request.receive))
        try:
            return _json(await answer_whole(running, prepared, gone))
        except ClientLeftError:
            return Response(status_code=CLIENT_LEFT)
        finally:
            gone.cancel()
            running.cancel()

    def _prepare(self, body: bytes, chat: bool) -> Prepared:
        return prepare(parse_body(body), self.models, self.settings, chat=chat)

    async def _read_body(self, request: Request) -> bytes:
        """Return the body of a request, within the limits of size and time."""
        limits = self.settings.limits
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 15 or int(declared) > limits.body_bytes):
            raise _too_large(limits.body_bytes)
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > limits.body_bytes:
                        raise _too_large(limits.body_bytes)
        except TimeoutError:
            raise ApiError(
                408, f"the body has not come in {limits.body_seconds:g} seconds", code="timeout",
                headers={"Connection": "close"},
            ) from None  # fmt: skip
        return bytes(body)

    def _log_unknown(self, names: list[str]) -> None:
        """Log fields that are unknown here, once each."""
        new = {name[:60] for name in names} - self._unknown
        if new and len(self._unknown) < MOST_UNKNOWN:
            self._unknown |= new
            listed = ", ".join(map(repr, sorted(new)))
            self.settings.log(f"fields without effect here, in a request: {listed}")


class EventStream(Response):
    """A response that sends the events of an answer as they come, and ends it with its client.

    Args:
        running: the choices in progress.
        prepared: the request.
        seconds: the time after which a client that does not read is given up.
    """

    def __init__(self, running: RunningChoices, prepared: Prepared, seconds: float) -> None:
        self._running, self._prepared, self._seconds = running, prepared, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        gone = asyncio.create_task(_client_leaves(receive))
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(send, gone)
        except (ClientLeftError, TimeoutError, OSError):
            return
        finally:
            gone.cancel()
            self._running.cancel()

    async def _send(self, send: Send, gone: asyncio.Task[None]) -> None:
        headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in STREAM_HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def say(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            async with aclosing(answer_stream(self._running, self._prepared, gone)) as events:
                async for event in events:
                    await say(b": ping\n\n" if event is None else _event(event))
        except ApiError as error:
            await say(_event(error.body()), more=False)
        else:
            await say(b"data: [DONE]\n\n", more=False)


async def _client_leaves(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + _dumped(content) + b"\n\n"


def _dumped(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _json(content: dict[str, Any]) -> Response:
    return Response(_dumped(content), media_type="application/json")


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the body has more than {most:,} bytes; shorten the request", code="body_too_large",
        headers={"Connection": "close"},
    )  # fmt: skip


async def _show_error(request: Request, error: Any) -> Response:
    return error_response(error)


async def _show_http_error(request: Request, error: Any) -> Response:
    """Return starlette's own errors, of paths and methods, in OpenAI's form."""
    path, method = request.url.path[:100], request.method
    messages = {
        404: f"there is nothing at {path}; the API is under /v1",
        405: f"{path} does not take {method}",
    }
    message = messages.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return error_response(
        ApiError(error.status_code, message, code=code, headers=error.headers)
    )  # fmt: skip


async def _show_failure(request: Request, error: Exception) -> Response:
    return error_response(failed())
