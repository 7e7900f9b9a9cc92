"""What the comparisons with other people's packages share."""

from __future__ import annotations

import random

import pytest


def random_text(generator: random.Random) -> str:
    """Up to 40 characters from all of Unicode, most of them common ones."""
    planes = [(0x20, 0x7F), (0, 0x250), (0, 0xD800), (0xE000, 0x110000)]
    chars = []
    for _ in range(generator.randrange(40)):
        first, last = generator.choice(planes)
        chars.append(chr(generator.randrange(first, last)))
    return "".join(chars)


@pytest.fixture(scope="session")
def random_texts() -> list[str]:
    """Ten thousand random strings."""
    generator = random.Random(0)
    return [random_text(generator) for _ in range(10_000)]
