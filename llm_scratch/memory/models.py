"""Configurations of models, from a name or from files, without weights and without PyTorch.

A name is one of `NAMES`, any name of a GPT-2, or "preset:NAME" for a preset of `pretrain`. A path
leads to a run, to a folder that `save_model` or Hugging Face's tools wrote, or to a `config.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_scratch.files import read_json
from llm_scratch.model import llama_sizes
from llm_scratch.model.config import ConfigError, gpt2_config
from llm_scratch.model.families import FAMILIES, any_config
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.safetensors_header import read_header
from llm_scratch.training.presets import PRESETS
from llm_scratch.weights.config_json import MODEL_TYPES, READERS
from llm_scratch.weights.folder_metadata import METADATA_KEY, saved_config

PRESET = "preset:"
WEIGHTS, CONFIG = "model.safetensors", "config.json"

QWEN15_CONFIG_05_B: dict[str, Any] = {
    **{"vocab_size": 151_936, "context_length": 32_768, "emb_dim": 1024, "n_heads": 16},
    **{"n_layers": 24, "hidden_dim": 2816, "rope_base": 1_000_000.0, "norm_eps": 1e-6},
    **{"qkv_bias": True, "tie_weights": True, "dtype": "bfloat16"},
}
"""Qwen1.5-0.5B, which the fine-tuning series measured."""

NAMES: dict[str, Mapping[str, Any]] = {
    "llama2-7b": llama_sizes.LLAMA2_CONFIG_7B,
    "llama3-8b": llama_sizes.LLAMA3_CONFIG_8B,
    "llama3.1-8b": llama_sizes.LLAMA31_CONFIG_8B,
    "llama3.2-1b": llama_sizes.LLAMA32_CONFIG_1B,
    "llama3.2-3b": llama_sizes.LLAMA32_CONFIG_3B,
    "smollm2": llama_sizes.SMOLLM2_CONFIG_135M,
    "smollm2-135m": llama_sizes.SMOLLM2_CONFIG_135M,
    "qwen1.5-0.5b": QWEN15_CONFIG_05_B,
    "qwen3-0.6b": llama_sizes.QWEN_CONFIG_06_B,
    "qwen3-1.7b": llama_sizes.QWEN3_CONFIG_1_7B,
    "qwen3-4b": llama_sizes.QWEN3_CONFIG_4B,
    "qwen3-8b": llama_sizes.QWEN3_CONFIG_8B,
    "qwen3-14b": llama_sizes.QWEN3_CONFIG_14B,
    "qwen3-32b": llama_sizes.QWEN3_CONFIG_32B,
    "qwen3-30b-a3b": llama_sizes.QWEN3_CONFIG_30B_A3B,
}
"""The published sizes of Llama's family, by name."""


def model_config(source: Any) -> Any:
    """Return a model's configuration; no weights are read, and nothing is downloaded.

    Args:
        source: a configuration or a dict of its arguments; a name; or the path of a run, a folder
            of a model, a `config.json`, or a safetensors file that this library wrote.

    Raises:
        FileNotFoundError: if nothing has this name; the message lists the known names.
        ValueError: if it is not a configuration, or is one of a model that this library lacks.
    """
    if not isinstance(source, str | os.PathLike):
        return any_config(source)
    path = Path(source)
    if isinstance(source, str):
        known = _named(source)
        if known is not None:
            return known
    if not path.exists():
        raise FileNotFoundError(
            f"no model {source}, and no file or folder; there are {', '.join(NAMES)}, gpt2 to "
            f"gpt2-xl, {', '.join(PRESET + name for name in PRESETS)}, and paths of a run, a "
            "model's folder or a config.json"
        )
    return _of_path(path)


def _named(name: str) -> Any | None:
    """Return the configuration that a name stands for; None if it stands for none."""
    if name.startswith(PRESET):
        preset = PRESETS.get(name.removeprefix(PRESET))
        if preset is None:
            raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
        return preset.model
    if name.lower() in NAMES:
        return LlamaConfig(**NAMES[name.lower()])
    try:
        return gpt2_config(name)
    except ValueError:
        return None


def _of_path(path: Path) -> Any:
    """Return the configuration that a file or folder holds."""
    if path.is_file() and path.suffix == ".json":
        return _of_json(path)
    if path.is_file():
        return _of_safetensors(path)
    for folder in (path, path / "best"):
        if (folder / WEIGHTS).is_file() and _is_ours(folder / WEIGHTS):
            return _of_safetensors(folder / WEIGHTS)
    if (path / CONFIG).is_file():
        return _of_json(path / CONFIG)
    if (path / "hparams.json").is_file():
        return _of_json(path / "hparams.json")
    raise FileNotFoundError(f"{path} holds no {CONFIG}, and no {WEIGHTS} of this library's")


def _is_ours(path: Path) -> bool:
    return METADATA_KEY in read_header(path)[1]


def _of_safetensors(path: Path) -> Any:
    """Return the configuration in the header of one of this library's files."""
    if path.suffix != ".safetensors":
        raise WeightsError(path, f"states no configuration here; give the {CONFIG} beside it")
    texts = read_header(path)[1]
    if METADATA_KEY not in texts:
        raise WeightsError(path, f"states no configuration; give its folder, with a {CONFIG}")
    try:
        return saved_config(json.loads(texts[METADATA_KEY]))
    except (ValueError, TypeError, KeyError, RecursionError) as err:
        raise WeightsError(path, f"its description of the model is damaged: {err}") from err


def _of_json(path: Path) -> Any:
    """Return the configuration in a run's settings, or in another program's `config.json`."""
    values = read_json(path, error=WeightsError)
    kind = values.get("model_type")
    try:
        if isinstance(values.get("model"), dict):  # a run's: model, settings, data
            return any_config(values["model"])
        family = MODEL_TYPES.get(str(kind), "gpt2" if "n_embd" in values else None)
        if family is None:
            return any_config(values)
        options = _without_classes(READERS[family](path, values))
        released = {"qkv_bias": True, "tie_weights": True} if family == "gpt2" else {}
        return FAMILIES[family].config(**{**released, **options})
    except (ConfigError, TypeError) as err:
        known = ", ".join(MODEL_TYPES)
        named = f" (model_type {str(kind)[:40]!r}; known are {known})" if kind is not None else ""
        raise WeightsError(path, f"states no model of this library{named}: {err}") from err


def _without_classes(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "class_names"}
