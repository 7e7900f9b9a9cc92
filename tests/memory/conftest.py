"""The series' measurements, where somebody has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_scratch.text.corpora import data_folders


@pytest.fixture(scope="session")
def series_file() -> Callable[[str], Path]:
    """A function from a file of the series, with its folder, to its path; skips without it.

    With LLM_SCRATCH_REQUIRE_DATA=1, as in CI, a missing file is a failure.
    """

    def path_of(name: str) -> Path:
        found = [folder / name for folder in data_folders() if (folder / name).is_file()]
        if not found:
            missing = f"{name} is in no folder of LLM_SCRATCH_DATA; the series' repository has it"
            if os.environ.get("LLM_SCRATCH_REQUIRE_DATA") == "1":
                pytest.fail(missing)
            pytest.skip(missing)
        return found[0]

    return path_of
