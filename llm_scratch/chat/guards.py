"""The checks that every request passes first: its host, the page it comes from, and its key."""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_scratch.chat.api_errors import ApiError
from llm_scratch.chat.served import ServerSettings

OPEN_PATHS = ("/", "/health")
"""Paths that need no key: the page, which asks for it, and the server's state."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = "*"


def error_response(error: ApiError) -> Response:
    """Return an error as a response to the client."""
    body = json.dumps(error.body(), ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, error.status, error.headers, "application/json")


def host_of(header: str) -> str:
    """Return the name in a Host header, without port and brackets; "" if it is invalid."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which no name server can point elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guards:
    """The outermost layer of the application: it refuses, marks and counts.

    Args:
        app: the application that answers requests that pass.
        settings: who may ask.
        bound: the host that the server listens at.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, bound: str) -> None:
        self._app, self._settings = app, settings
        self.statuses: Counter[int] = Counter()
        self._hosts = {host.lower() for host in (*LOOPBACK, bound, *settings.hosts)}
        # Bound to all addresses, the server answers to any of them; names still need permission.
        self._any_address = bound in ("", "0.0.0.0", "::")
        self._key = None if settings.api_key is None else settings.api_key.encode("utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = f"req-{secrets.token_hex(8)}"
        allowed = self._allowed_origin(headers)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] += 1
                self._mark(MutableHeaders(scope=message), request_id, allowed)
            await send(message)

        try:
            self._check(scope, headers, allowed)
        except ApiError as error:
            await error_response(error)(scope, receive, send_marked)
            return
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await Response(status_code=204)(scope, receive, send_marked)
            return
        await self._app(scope, receive, send_marked)

    def _check(self, scope: Scope, headers: Headers, allowed: str | None) -> None:
        """Refuse a request for the wrong host, from a foreign page, or without the key."""
        host = host_of(headers.get("host", ""))
        known = host in self._hosts or ANY in self._hosts
        if not known and not (self._any_address and is_address(host)):
            raise ApiError(
                403, "the Host header names a host that this server does not answer for; "
                "--allow-host adds one", code="host_not_allowed", kind="permission_error",
            )  # fmt: skip
        if "origin" in headers and allowed is None:
            raise ApiError(
                403, "requests from other servers' pages are not answered; --allow-origin adds one",
                code="origin_not_allowed", kind="permission_error",
            )  # fmt: skip
        if scope["method"] != "OPTIONS" and scope["path"] not in OPEN_PATHS:
            self._check_key(headers.get("authorization", ""))

    def _check_key(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        right = self._key is None or hmac.compare_digest(
            given.strip().encode("latin-1", "replace"), self._key
        )
        if not right or self._key is not None and scheme.lower() != "bearer":
            raise ApiError(
                401, "the key is missing or wrong; send Authorization: Bearer KEY",
                code="invalid_api_key", kind="authentication_error",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    def _allowed_origin(self, headers: Headers) -> str | None:
        """Return the origin of a request if it may ask; None if not, or if there is none."""
        origin = headers.get("origin")
        if origin is None:
            return None
        own = place_of(origin) == headers.get("host", "").lower()
        return origin if own or {ANY, origin} & set(self._settings.origins) else None

    def _mark(self, headers: Any, request_id: str, allowed: str | None) -> None:
        headers["x-request-id"] = request_id
        headers["x-content-type-options"] = "nosniff"
        if self._settings.origins:
            headers.append("vary", "Origin")
        if allowed is not None:
            headers["access-control-allow-origin"] = allowed
            headers["access-control-allow-methods"] = "GET, POST"
            headers["access-control-allow-headers"] = "*, Authorization"
            headers["access-control-expose-headers"] = "x-request-id, retry-after"


def place_of(origin: str) -> str:
    """Return host and port of an origin, "" if it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
