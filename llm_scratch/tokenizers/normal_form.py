"""Unicode's normal form NFC as Hugging Face's tokenizers computes it."""

from __future__ import annotations

import re
from unicodedata import normalize

# That library has the tables of Unicode 9. It treats the combining marks added later as ordinary
# letters, which stay in place and are not reordered.
_LATER_MARKS = re.compile(
    "([\u07fd\u0898-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b-\u0d3c\u0eba\u1715\u1abf-\u1ace"
    "\u1df6-\u1dfa\ua82c\U00010d24-\U00010d27\U00010eab-\U00010eac\U00010f46-\U00010f50"
    "\U00010f82-\U00010f85\U00011070\U0001133b\U0001145e\U00011839-\U0001183a\U00011930"
    "\U0001193d-\U0001193e\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011d42"
    "\U00011d44-\U00011d45\U00011d97\U00016ff0-\U00016ff1\U0001e130-\U0001e136\U0001e2ae"
    "\U0001e2ec-\U0001e2ef])"
)


def nfc(text: str) -> str:
    """Normalise a text to NFC: a letter and its accent become one character, and so on."""
    if text.isascii():
        return text
    return "".join([normalize("NFC", part) for part in _LATER_MARKS.split(text)])
