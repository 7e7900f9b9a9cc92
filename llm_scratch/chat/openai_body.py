"""The body of a request: strict JSON, or an error in one line."""

from __future__ import annotations

import json
import re
from typing import Any

from llm_scratch.chat.api_errors import ApiError
from llm_scratch.files import first_line

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the object in the body of a request.

    Raises:
        ApiError: 400, if it is not UTF-8, not JSON (NaN and Infinity are not), nested too deeply,
            names a key twice, holds half a character, or is not an object.
    """
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_number
        )
        if _SURROGATE.search(body):  # most pairs are whole characters
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as err:
        raise _broken(f"byte {err.start} is not UTF-8") from err
    except UnicodeEncodeError as err:
        raise _broken("it holds half of a surrogate pair, which is not a character") from err
    except RecursionError as err:
        raise _broken("it is nested too deeply") from err
    except ValueError as err:
        raise _broken(first_line(err)) from err
    if not isinstance(value, dict):
        raise _broken("it is not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is in it twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _broken(why: str) -> ApiError:
    return ApiError(400, f"the body is not the JSON of a request: {why}", code="invalid_json")
