"""The `config.json` of all families: the family of each, its reader and its writer.

Nothing here imports PyTorch, so that memory can be estimated without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_scratch.weights.gpt2_config_json import read_gpt2_config, write_gpt2_config
from llm_scratch.weights.llama_config_json import (
    ARCHITECTURES,
    read_llama_config,
    write_llama_config,
)

MODEL_TYPES: dict[str, str] = {"gpt2": "gpt2", **dict.fromkeys(ARCHITECTURES, "llama")}
"""The family, as in `model.families`, of each `model_type` of transformers."""

READERS: dict[str, Callable[..., dict[str, Any]]] = {
    "gpt2": read_gpt2_config,
    "llama": read_llama_config,
}
"""The function that returns the options that a `config.json` states, by family."""

WRITERS: dict[str, Callable[..., dict[str, Any]]] = {
    "gpt2": write_gpt2_config,
    "llama": write_llama_config,
}
"""The function that returns the content of a `config.json`, by family."""
