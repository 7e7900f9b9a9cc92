"""A client of OpenAI's chat protocol that asks a language model over HTTP, with retries."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llm_scratch.checks import check_count

TIMEOUT_SECONDS = 300.0  # the first question waits until the model is loaded
LONGEST_PAUSE = 60.0
MOST_BYTES = 1 << 24
PASSING = (408, 425, 429, 500, 502, 503, 504)

Messages = Sequence[Mapping[str, str]]
Pause = Callable[[float], object]


class JudgeError(OSError):
    """The error for no usable reply; the message names the address, the cause and the way out."""


class PassingError(Exception):
    """The failure of one try; the next may succeed. `wait` is the server's request, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def chat(
    messages: Messages,
    *,
    url: str,
    model: str,
    options: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    retries: int = 3,
    pause: Pause = time.sleep,
) -> str:
    """Return the reply of a model behind a chat endpoint that speaks OpenAI's protocol.

    Args:
        messages: what was said so far, `{"role": ..., "content": ...}` each.
        url: the server, such as "http://localhost:11434"; "/v1/chat/completions" is added.
        model: the model's name on the server.
        options: further fields of the request, such as `{"temperature": 0}`.
        api_key: sent as a bearer token.
        timeout: seconds that the server may stay silent.
        retries: how often a question is sent again after a failure that may pass: a broken
            connection, silence, 429, 5xx. A closed port is not one.
        pause: called with the seconds to wait between tries.

    Raises:
        JudgeError: if nothing answers there, the model is not there, or the reply is not a chat.
        ValueError: if `url` is not a web address.
    """
    address = chat_address(url)
    payload = {**(options or {}), "model": model, "messages": list(messages), "stream": False}

    def ask() -> str:
        return _message_text(b"".join(post(address, payload, timeout, api_key)))

    return patiently(ask, address, retries, pause)


def chat_address(url: str) -> str:
    """Return the address of the chat endpoint of a server.

    Raises:
        ValueError: if `url` is not a web address.
    """
    parts = _web_address(url)
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = path.removesuffix("/v1") + "/v1/chat/completions"
    return parts._replace(path=path).geturl()


def _web_address(url: str) -> urllib.parse.SplitResult:
    parts = urllib.parse.urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url=} is not a web address; http://localhost:11434 is Ollama's")
    return parts


def patiently(ask: Callable[[], str], url: str, retries: int, pause: Pause) -> str:
    """Return the result of the first call of `ask` that does not fail.

    Raises:
        JudgeError: if a failure does not pass, or every try failed.
    """
    check_count("retries", retries, 0)
    for number in range(retries + 1):
        try:
            return ask()
        except PassingError as error:
            reason = error
        if number < retries:
            pause(min(max(2.0**number, reason.wait), LONGEST_PAUSE))
    raise JudgeError(f"{url} gave no usable reply in {retries + 1} tries: {reason}")


def post(
    url: str, payload: Mapping[str, Any], timeout: float, api_key: str | None = None
) -> Iterator[bytes]:
    """Yield the lines of the answer to a POST of JSON, as they come; at most 16 MB.

    Raises:
        PassingError: if the next try may succeed.
        JudgeError: if it will not.
    """
    _web_address(url)
    headers = {"Content-Type": "application/json", "User-Agent": "llm-scratch"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    body = json.dumps(payload).encode()
    request = urllib.request.Request(url, body, headers, method="POST")
    size, direct = 0, [urllib.request.ProxyHandler({})] if is_this_machine(url) else []
    opener = urllib.request.build_opener(_NoRedirect(), *direct)  # else the platform's proxies
    try:
        with opener.open(request, timeout=timeout) as response:
            while line := response.readline(MOST_BYTES):
                size += len(line)
                if size > MOST_BYTES:
                    raise JudgeError(f"{url} sends more than {MOST_BYTES:,} bytes; is it a chat?")
                yield line
    except urllib.error.HTTPError as error:
        with error:
            raise _http_failure(error, url, str(payload["model"])) from error
    except JudgeError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _connection_failure(error, url, timeout) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refusal of redirects, which turn a POST into a GET and take the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing; the reply comes back as an error that names the new address."""


def is_this_machine(url: str) -> bool:
    """Return whether an address names this machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _http_failure(error: urllib.error.HTTPError, url: str, model: str) -> Exception:
    """Return the error to raise for an HTTP error: passing or not, with what to do about it."""
    said = _error_text(error)
    reason = f"HTTP {error.code} {error.reason}" + (f": {said}" if said else "")
    if error.code in PASSING:
        wait = error.headers.get("Retry-After", "")
        return PassingError(reason, float(wait) if wait.isdigit() else 0.0)
    if 300 <= error.code < 400:
        hint = f"; give {error.headers.get('Location', 'the address it names')} as url"
    elif error.code == 404 and model in said:
        return JudgeError(
            f"{url} has no model {model!r} ({said}); with Ollama, `ollama pull {model}` downloads "
            "it and `ollama list` shows what is there"
        )
    elif error.code == 404:
        hint = "; is this the address of a chat endpoint?"
    elif error.code in (401, 403):
        hint = "; api_key_variable= names the environment variable that holds the key"
    else:
        hint = ""
    return JudgeError(f"{url} refuses the question: {reason}{hint}")


def _error_text(error: urllib.error.HTTPError) -> str:
    """Return what the server itself says about an error, shortened."""
    try:
        found = json.loads(error.read(1 << 16))["error"]
        return str(found["message"] if isinstance(found, dict) else found)[:300]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""


def _connection_failure(error: Exception, url: str, timeout: float) -> Exception:
    """Return the error to raise for a failed connection: passing or not."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ConnectionRefusedError):
        start = "`ollama serve` starts Ollama" if is_this_machine(url) else "is its server running?"
        return JudgeError(f"nothing answers at {url}: connection refused; {start}")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return JudgeError(
            f"{url}: certificate not trusted: {cause.verify_message}; SSL_CERT_FILE names others"
        )
    if isinstance(cause, http.client.InvalidURL):
        return JudgeError(f"{url} is not an address that can be asked: {cause}")
    if isinstance(cause, TimeoutError):
        return PassingError(f"no answer in {timeout:g} seconds")
    return PassingError(str(cause) or type(cause).__name__)


def _message_text(body: bytes) -> str:
    """Return the text in a chat completion; "" if the model said nothing."""
    try:
        content = json_object(body)["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise PassingError(f"not a chat completion, but {body[:80]!r}") from error
    return content if isinstance(content, str) else ""


def json_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a server sent.

    Raises:
        PassingError: if it sent something else.
    """
    try:
        found = json.loads(text)
    except ValueError as error:  # UnicodeDecodeError is one
        raise PassingError(f"not JSON, but {text[:80]!r}") from error
    if not isinstance(found, dict):
        raise PassingError(f"not a JSON object, but {text[:80]!r}")
    return found
