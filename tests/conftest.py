"""What all tests share: options, the book's texts, and a closed door to the network."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
import torch

from llm_scratch.files import read_text
from llm_scratch.text.corpora import find_data

if TYPE_CHECKING:
    from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

# The table of the book's figures (in tests/book), --impl (in tests/selfcheck), and the runs of the
# chapters' scripts (in tests/fixtures).
pytest_plugins = ["book_report", "impl_option", "script_runs"]

# For transformers and its hub client, in this process and in those that tests start.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

# A shell ignores Ctrl-C for what it starts in the background, and programs that tests start inherit
# that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One core is the tests', the others are for the scripts that run beside them.
torch.set_num_threads(1)

# A busy machine is not a fault of the code under test.
hypothesis.settings.register_profile("tests", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = pytest.mark.skip(reason="slow; --slow runs it")
    skip_long = pytest.mark.skip(reason="needs minutes; -m long runs it")
    skip_network = pytest.mark.skip(reason="needs the network; -m network runs it")
    chosen = config.getoption("-m")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(skip_slow)
        if "long" in item.keywords and "long" not in chosen:
            item.add_marker(skip_long)
        if "network" in item.keywords and "network" not in chosen:
            item.add_marker(skip_network)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""
    if "network" in request.keywords:
        return
    lookup = socket.getaddrinfo

    def refuse_outside(host: object) -> None:
        if not is_local(host):
            raise OSError(f"a test tried to reach {host}; only tests marked `network` may")

    def checked(original: Callable) -> Callable:
        def call(sock: socket.socket, address: tuple) -> object:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                refuse_outside(address[0])
            return original(sock, address)

        return call

    def checked_lookup(host: object, *args: object, **kwargs: object) -> object:
        refuse_outside(host)
        return lookup(host, *args, **kwargs)

    for method in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, method, checked(getattr(socket.socket, method)))
    monkeypatch.setattr(socket, "getaddrinfo", checked_lookup)


def is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    return name in (None, "", "localhost", "::1", "0.0.0.0") or str(name).startswith("127.")


@pytest.fixture(autouse=True)
def _restored_random_state() -> Iterator[None]:
    """Give the next test the generators as this one found them."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


@pytest.fixture(scope="session")
def book_file() -> Callable[[str], Path]:
    """A function from a data file's name to its path; skips the test where the file is missing.

    With LLM_SCRATCH_REQUIRE_DATA=1, as in CI, a missing file is a failure.
    """

    def path_of(name: str) -> Path:
        try:
            return find_data(name)
        except FileNotFoundError as error:
            if os.environ.get("LLM_SCRATCH_REQUIRE_DATA") == "1":
                pytest.fail(str(error))
            pytest.skip(str(error))

    return path_of


def here_or_skipped(find: Callable[[str], Path], name: str) -> Path:
    """The path of what no machine must have."""
    try:
        return find(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sms() -> Path:
    """The path of the SMS Spam Collection; skips the test where it is missing."""
    return here_or_skipped(find_data, "sms-spam")


@pytest.fixture(scope="session")
def released() -> Callable[[str], Path]:
    """A function from a size to the folder of that GPT-2; skips the test where it is missing."""
    from llm_scratch.weights.gpt2_files import find_gpt2

    return partial(here_or_skipped, find_gpt2)


@pytest.fixture(scope="session")
def verdict(book_file: Callable[[str], Path]) -> str:
    """The text of the book's story."""
    return read_text(book_file("the-verdict"))


@pytest.fixture(scope="session")
def tokenizer() -> GPT2Tokenizer:
    """GPT-2's tokenizer, loaded once."""
    from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

    return GPT2Tokenizer()
