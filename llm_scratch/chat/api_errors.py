"""The server's errors: each has a status, a message with the way out, and the same JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INVALID = "invalid_request_error"


class ApiError(Exception):
    """An error for a client, in OpenAI's form.

    Args:
        status: the HTTP status.
        message: one line: what came, what is allowed, the way out.
        param: the field at fault.
        code: the name by which programs recognise the error.
        kind: whose fault it is, in OpenAI's words.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON that the client gets."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def refused(param: str, message: str, code: str | None = None) -> ApiError:
    """Return the error for an invalid field; the message begins with the field's name."""
    return ApiError(400, f"{param} {message}", param=param, code=code)


def too_many(message: str, seconds: int) -> ApiError:
    """Return the error for a request that has no place now, but may be sent again later."""
    return ApiError(
        429,
        message,
        code="rate_limit_exceeded",
        kind="rate_limit_error",
        headers={"Retry-After": str(seconds)},
    )


def unavailable(message: str, code: str) -> ApiError:
    """Return the error for a server that can't answer."""
    return ApiError(503, message, code=code, kind="server_error")


def failed() -> ApiError:
    """Return the error for a fault of the server, whose details clients are not told."""
    return ApiError(
        500, "the server failed at this request; its log says why", code="failed",
        kind="server_error",
    )  # fmt: skip
