"""The page at `/`, with a policy that lets only its own scripts run."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).parent / "page.html"
NOWHERE = ("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")


def page_headers(page: str) -> dict[str, str]:
    """Return the headers of a page.

    They allow its inline scripts and styles, by their hashes, its own server, and pictures within
    the page. Nothing else is allowed: no other address, no script that came in with a text, and no
    `style=""` of an element.
    """
    rules = [
        "default-src 'none'",
        f"script-src {_hashes(page, 'script')}",
        f"style-src {_hashes(page, 'style')}",
        "connect-src 'self'",
        "img-src data:",
        *NOWHERE,
    ]
    return {
        "content-security-policy": "; ".join(rules),
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def read_page(path: Path = PAGE) -> str:
    r"""Return the text of the page; its lines end with "\n", as browsers hash them.

    Raises:
        FileNotFoundError: if the package lacks the page.
    """
    return path.read_text(encoding="utf-8")


def _hashes(page: str, tag: str) -> str:
    """Return the hashes of all blocks of a tag, as the policy names them."""
    blocks = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.DOTALL | re.IGNORECASE)
    digests = (hashlib.sha256(block.encode("utf-8")).digest() for block in blocks)
    found = [f"'sha256-{base64.b64encode(each).decode('ascii')}'" for each in digests]
    return " ".join(found) or "'none'"
