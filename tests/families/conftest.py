"""What the tests of models on the hub share: a hub of ours, and models to publish there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants

import llm_scratch as ls
from llm_scratch.model.config import GPTConfig


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub without repositories, an empty cache, and nobody logged in."""
    server = HubServer()
    # huggingface_hub reads the environment when it is imported, which may have been long ago; the
    # names of its settings are documented. `test_that_librarys_own_settings_hold`
    # gives it an environment.
    home = tmp_path / "huggingface"
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "AGENT_HARNESSES_PATH": str(home / "harnesses.json"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    huggingface_hub.close_session()
    yield server
    server.stop()
    huggingface_hub.close_session()


@pytest.fixture(scope="session")
def bpe() -> ls.BytePairTokenizer:
    return ls.BytePairTokenizer.train(ls.load_text("the-tide-clock"), 256 + 44, progress=False)


@pytest.fixture(scope="session")
def small_gpt() -> ls.GPTModel:
    torch.manual_seed(7)
    return ls.GPTModel(GPTConfig(300, 16, 12, 2, 1, qkv_bias=True, tie_weights=True)).eval()


@pytest.fixture(scope="session")
def exported(small_gpt, bpe, tmp_path_factory) -> Path:
    """The small GPT as a folder of Hugging Face's."""
    return ls.export_huggingface(small_gpt, tmp_path_factory.mktemp("exported"), bpe)
