"""What `import llm_scratch` brings, and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import llm_scratch

PUBLIC = getattr(llm_scratch, "__all__", [])
LATE = {
    *("matplotlib", "tiktoken", "pandas", "transformers", "safetensors", "tqdm", "tokenizers"),
    *("IPython", "torch._dynamo", "torch._inductor", "gguf", "huggingface_hub"),
}
# Measured against torch alone, which loads tqdm itself where it is installed.
IN_A_FRESH_PROCESS = """
import contextlib, io, json, sys
import llm_scratch.cli, llm_scratch.files
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    llm_scratch.cli.main(["--version"])
    llm_scratch.cli.main(["pretrain", "--print-config"])
    llm_scratch.cli.main(["finetune", "classify", "--help"])
command = sorted(sys.modules)
import torch
before, state = set(sys.modules), torch.get_rng_state()
import llm_scratch
llm_scratch.GPTModel
library = sorted(set(sys.modules) - before)
untouched = torch.equal(state, torch.get_rng_state()) and not torch.cuda.is_initialized()
print(json.dumps([library, command, untouched, shown.getvalue()]))
"""


@pytest.fixture(scope="module")
def fresh() -> tuple[list[str], list[str], bool, str]:
    """Modules that the library loads, those of its command; if torch is untouched; what it said."""
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    return tuple(json.loads(done.stdout))


def test_import_loads_nothing_that_is_used_later(fresh) -> None:
    assert not LATE & set(fresh[0])


def test_help_and_settings_are_shown_without_torch(fresh) -> None:
    assert not (LATE | {"torch", "numpy"}) & set(fresh[1])
    assert all(word in fresh[3] for word in ("llm-scratch ", '"tie_weights": true', "--lora RANK"))


def test_import_asks_no_device_and_draws_no_random_number(fresh) -> None:
    assert fresh[2] is True


def test_all_names_exist_once() -> None:
    assert len(PUBLIC) == len(set(PUBLIC))
    assert [name for name in PUBLIC if not hasattr(llm_scratch, name)] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_explained(name: str) -> None:
    thing = getattr(llm_scratch, name)
    if callable(thing):
        assert (thing.__doc__ or "").strip()
