"""The published package's own tests pass with this library in its place."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path

import pytest

from llm_scratch.text.corpora import find_data

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
# Their other cases build 1.5 billion parameters, fetch files, or fail on the transformers at hand.
FAMILIES = {
    "test_llama3.py": [
        "test_grouped_query_attention_equivalence",
        "test_rmsnorm_equivalence",
        "test_llama3_base_equivalence_with_transformers",
    ],
    "test_qwen3.py": [
        "test_dummy_qwen3_forward",
        "test_dummy_qwen3_moe_forward",
        "test_qwen3_kvcache_equivalence[dummy_cfg_base]",
        "test_rmsnorm_equivalence",
        "test_qwen3_base_equivalence_with_transformers",
    ],
}
FAMILY_TESTS = [f"{file}::{test}" for file, tests in FAMILIES.items() for test in tests]
TRAINING = {
    "test_ch05.py": ["test_train_simple[GPTModel0]", "test_train_simple[GPTModel1]"],
    "test_appendix_d.py": ["test_train"],
    "test_ch07.py": ["test_instruction_finetune"],
}


def folder_of_tests() -> Path | None:
    """Where the package's tests are installed, found without importing it."""
    try:
        package = importlib.metadata.distribution("llms-from-scratch")
    except importlib.metadata.PackageNotFoundError:
        return None
    right = package.version == VERSION
    return Path(str(package.locate_file("llms_from_scratch/tests"))) if right else None


def path_of_story() -> Path | None:
    try:
        return find_data("the-verdict")
    except FileNotFoundError:
        return None


def run_of(*files: str) -> pytest.MarkDecorator:
    """The run of these test files of the package, which takes the book's data."""
    data = os.environ.get("LLM_SCRATCH_DATA", "")
    arguments = (SCRIPT, folder_of_tests(), path_of_story(), *files)
    return pytest.mark.script(*arguments, PYTHONDONTWRITEBYTECODE="1", LLM_SCRATCH_DATA=data)


@pytest.fixture
def published(book_file) -> None:
    """Skip a test where the package or the story is missing, before its run is looked at."""
    book_file("the-verdict")
    if folder_of_tests() is None:
        pytest.skip(f"the published package {VERSION} is not here; {INSTALL} brings it")


def assert_all_passed(output: str, expected: dict[str, list[str]]) -> None:
    outcomes = json.loads(output.splitlines()[-1])
    names = [f"{file}::{test}" for file, tests in expected.items() for test in tests]
    assert outcomes == dict.fromkeys(names, "passed")


@run_of(*QUICK)
def test_published_tests_pass_with_this_library(published, run):
    assert_all_passed(run.output, QUICK)


@run_of(*FAMILY_TESTS)
def test_published_tests_of_llama_and_qwen_pass_with_this_library(published, run):
    assert_all_passed(run.output, FAMILIES)


@pytest.mark.slow
@run_of(*TRAINING)
def test_published_tests_that_train_pass_with_this_library(published, book_file, run):
    book_file("instruction-data")  # skips where it is missing
    assert_all_passed(run.output, TRAINING)
