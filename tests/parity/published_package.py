"""Run the published package's own tests with this library in the package's place.

    python published_package.py FOLDER STORY test_ch02.py test_ch03.py ...

FOLDER holds the tests, STORY is the text that they would fetch; the book's instructions are looked
for like any text of this library. Nothing of the package itself is
imported: its modules are names in `sys.modules` that lead here. The last line printed is JSON, the
outcome of each test.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

import published_llama
import pytest
import tiktoken

from llm_scratch.appendix_a import NeuralNetwork, ToyDataset
from llm_scratch.finetuning import instructions
from llm_scratch.finetuning.instructions import (
    InstructionDataset,
    custom_collate_fn,
    download_and_load_file,
)
from llm_scratch.finetuning.prompts import format_input
from llm_scratch.generation.decoding import generate, generate_text_simple
from llm_scratch.model.attention import (
    CausalAttention,
    MultiHeadAttention,
    MultiHeadAttentionWrapper,
    SelfAttention_v1,
    SelfAttention_v2,
)
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.layers import GELU, FeedForward, LayerNorm
from llm_scratch.text.corpora import find_data
from llm_scratch.text.windows import GPTDatasetV1, create_dataloader_v1
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids, token_ids_to_text
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.training.appendix_d import find_highest_gradient, train_model
from llm_scratch.training.evaluation import evaluate_model, generate_and_print_sample
from llm_scratch.training.losses import calc_loss_batch, calc_loss_loader
from llm_scratch.training.simple import train_model_simple

PACKAGE = "llms_from_scratch"
CONTEXT = 1024


def attention_without_context(
    d_in: int, d_out: int, num_heads: int, dropout: float = 0.0, qkv_bias: bool = False
) -> MultiHeadAttention:
    """The package's variant on PyTorch's kernel, whose arguments come without a context length."""
    return MultiHeadAttention(d_in, d_out, CONTEXT, dropout, num_heads, qkv_bias)


MODULES: dict[str, tuple[Any, ...]] = {
    "ch02": (GPTDatasetV1, create_dataloader_v1),
    "ch03": (
        SelfAttention_v1,
        SelfAttention_v2,
        CausalAttention,
        MultiHeadAttentionWrapper,
        MultiHeadAttention,
    ),
    "ch04": (LayerNorm, GELU, FeedForward, TransformerBlock, GPTModel, generate_text_simple),
    "ch05": (
        generate,
        calc_loss_batch,
        calc_loss_loader,
        evaluate_model,
        generate_and_print_sample,
        train_model_simple,
        text_to_token_ids,
        token_ids_to_text,
    ),
    "ch07": (download_and_load_file, InstructionDataset, format_input, custom_collate_fn),
    "appendix_a": (NeuralNetwork, ToyDataset),
    "appendix_d": (find_highest_gradient, train_model),
    "kv_cache.gpt2": (GPTModel,),
    "kv_cache.generate": (generate_text_simple,),
    "kv_cache_batched.generate": (generate_text_simple,),
}
OTHER_NAMES: dict[str, dict[str, Any]] = {
    **published_llama.NAMES,
    "ch03": {"PyTorchMultiHeadAttention": attention_without_context},
    "ch04": {"GPTModelFast": GPTModel},
}


def take_the_place_of_the_package() -> None:
    """Make every import of the package lead to this library."""
    for name in ("", "kv_cache", "kv_cache_batched", *{**MODULES, **OTHER_NAMES}):
        dotted = f"{PACKAGE}.{name}".rstrip(".")
        module = types.ModuleType(dotted)
        module.__path__ = []  # type: ignore[attr-defined]
        for thing in MODULES.get(name, ()):
            setattr(module, thing.__name__, thing)
        for other, thing in OTHER_NAMES.get(name, {}).items():
            setattr(module, other, thing)
        sys.modules[dotted] = module


def answer_from_here(story: Path) -> None:
    """Give the tests what they would fetch: story, instructions, and GPT-2's vocabulary."""
    urllib.request.urlopen = lambda url: io.BytesIO(story.read_bytes())  # type: ignore
    tiktoken.get_encoding = lambda name: GPT2Tokenizer()  # type: ignore
    instructions.download_file = lambda url, path: shutil.copy(  # type: ignore
        find_data("instruction-data"), path
    )
    shutil.copy(story, "the-verdict.txt")  # some look for it in the working directory first


class Outcomes:
    """A pytest plugin that remembers how each test ended."""

    def __init__(self) -> None:
        self.by_test: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the call's outcome, or that of a phase that went wrong before or after it."""
        if report.when == "call" or not report.passed:
            self.by_test[report.nodeid] = report.outcome


def main(folder: str, story: str, *files: str) -> int:
    """Run test files, or tests in them (file::test); print the outcomes, return pytest's status."""
    take_the_place_of_the_package()
    answer_from_here(Path(story))
    outcomes = Outcomes()
    options = ["-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider", "-q"]
    options += ["--import-mode=importlib"]
    status = pytest.main([*options, *(str(Path(folder) / file) for file in files)], [outcomes])
    print(json.dumps(outcomes.by_test))
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
