"""What the server refuses: each error is a status, one JSON for all of them, and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INVALID = "invalid_request_error"


class ApiError(Exception):
    """An error that a client is told, in the form of OpenAI's.

    Args:
        status: of HTTP.
        message: one line: what came, what is allowed, the way out.
        param: the field at fault.
        code: what programs tell the error by.
        kind: whose fault it is, in OpenAI's words.
        headers: for the answer.
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
    """Return the error for a field that is not as it must be; its message begins with its name."""
    return ApiError(400, f"{param} {message}", param=param, code=code)


def too_many(message: str, seconds: int) -> ApiError:
    """Return the error for a request that has no place now, and may come again later."""
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
    """Return the error for a fault of the server's own, of which clients are told nothing."""
    return ApiError(
        500, "the server failed at this request; its log says why", code="failed",
        kind="server_error",
    )  # fmt: skip
