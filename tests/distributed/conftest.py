"""What the tests of several processes share: one server that forks them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ranks_server import RankServer
from run_cases import model_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not hasattr(os, "fork"):
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs a system that forks processes"))


@pytest.fixture(scope="session")
def server() -> Iterator[RankServer]:
    """The process that starts others as ranks."""
    with RankServer() as server:
        yield server


@pytest.fixture
def build():
    """A function that makes a small model."""
    return lambda: model_of(["gpt"])
