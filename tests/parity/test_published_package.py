"""The published package's own tests pass with this library in its place."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

VERSION = "1.0.19"
INSTALL = f"pip install --no-deps llms-from-scratch=={VERSION}"
SCRIPT = Path(__file__).with_name("published_package.py")

# Six combinations of three models and two functions, those that don't fit passed over.
GPT_VARIANTS = [
    f"test_gpt_model_variants[{function}-{model}]"
    for function in ("generate_text_simple0", "generate_text_simple1")
    for model in ("GPTModel0", "GPTModel1", "GPTModel2")
]
QUICK = {
    "test_appendix_a.py": ["test_dataset"],
    "test_ch02.py": ["test_dataloader[the-verdict.txt]"],
    "test_ch03.py": ["test_mha"],
    "test_ch04.py": GPT_VARIANTS,
    "test_generate.py": ["test_dataloader[the-verdict.txt]"],
}
TRAINING = {
    "test_ch05.py": ["test_train_simple[GPTModel0]", "test_train_simple[GPTModel1]"],
    "test_appendix_d.py": ["test_train"],
    "test_ch07.py": ["test_instruction_finetune"],
}


def folder_of_tests() -> Path:
    """Where the package's tests are installed, found without importing it."""
    try:
        package = importlib.metadata.distribution("llms-from-scratch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the published package is not here; {INSTALL} brings it")
    if package.version != VERSION:
        pytest.skip(f"the published package is here as {package.version}; {INSTALL} brings it")
    return Path(str(package.locate_file("llms_from_scratch/tests")))


def outcomes_of(files: dict, story: Path, working_folder: Path) -> dict[str, dict[str, str]]:
    """Run test files of the package: file -> test -> outcome."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder_of_tests()), str(story), *files],
        cwd=working_folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    by_file: dict[str, dict[str, str]] = {}
    for node, outcome in json.loads(done.stdout.splitlines()[-1]).items():
        file, _, test = node.partition("::")
        by_file.setdefault(file, {})[test] = outcome
    return by_file


@pytest.fixture(scope="module")
def quick(book_file, tmp_path_factory) -> dict[str, dict[str, str]]:
    return outcomes_of(QUICK, book_file("the-verdict"), tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("file", QUICK)
def test_published_tests_pass_with_this_library(quick, file):
    assert quick[file] == dict.fromkeys(QUICK[file], "passed")


@pytest.mark.slow
@pytest.mark.parametrize("file", TRAINING)
def test_published_tests_that_train_pass_with_this_library(book_file, tmp_path, file):
    if file == "test_ch07.py":
        book_file("instruction-data")  # skips where it is missing
    outcomes = outcomes_of({file: TRAINING[file]}, book_file("the-verdict"), tmp_path)
    assert outcomes[file] == dict.fromkeys(TRAINING[file], "passed")
