"""PEFT's `adapter_config.json`: the treatment of each key, and the scale of each layer."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import regex

from llm_scratch.files import first_line, read_json
from llm_scratch.foreign import NOTHING, OFF, USED, Rule, check_settings
from llm_scratch.lora.saving import CONFIG_FILE
from llm_scratch.tensor_files.errors import WeightsError

LONGEST_MATCH = 0.5  # seconds: a regular expression from a file may never finish

# The keys of PEFT 0.21's LoraConfig.
RULES: dict[str, Rule] = {
    "peft_type": ("LORA",),
    **dict.fromkeys(("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"), USED),
    **dict.fromkeys(("base_model_name_or_path", "revision", "auto_mapping"), USED),
    # Initialisations that leave the base unchanged. The others ("pissa", "olora", "corda", "loftq",
    # "lora_ga") move a part of each weight from the base to the matrices.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva", "mica"),
    # Only what the names of the tensors already say.
    **dict.fromkeys(
        (
            *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
            "modules_to_save",
        ),
        NOTHING,
    ),
    "bias": ("none", "all", "lora_only"),  # trained biases are in the file
    # Notes, and how it was trained; `fan_in_fan_out` concerns the base, not the layout of A and B.
    **dict.fromkeys(
        (
            *("task_type", "peft_version", "inference_mode", "lora_dropout"),
            *("fan_in_fan_out", "megatron_core", "runtime_config", "qalora_group_size"),
            *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        ),
        NOTHING,
    ),
    **dict.fromkeys(
        (
            *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "layer_replication"),
            *("target_parameters", "trainable_token_indices", "alora_invocation_tokens"),
            *("megatron_config", "velora_config", "monteclora_config", "arrow_config"),
            *("kasa_config", "ensure_weight_tying"),
        ),
        OFF,
    ),
}


def read_peft_config(folder: Path, ignore_keys: Collection[str] = ()) -> dict[str, Any]:
    """Read the settings of an adapter, and check that all of them are supported.

    Raises:
        FileNotFoundError: if there is no adapter in the folder.
        WeightsError: if the file is damaged, or belongs to an adapter of another kind.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: no adapter was saved in {folder}")
    config = {"peft_type": None, **read_json(path, error=WeightsError)}
    if config["peft_type"] != "LORA":
        kind = str(config["peft_type"])[:40]
        raise WeightsError(path, f"is an adapter of type {kind!r}; only LORA is supported")
    return check_settings(path, config, RULES, ignore_keys=ignore_keys, error=WeightsError)


def rank_of(name: str, config: Mapping[str, Any], path: Path) -> int:
    """Return a layer's rank from the settings, by its name in PEFT."""
    rank: int = _value_for(name, config, "rank_pattern", "r", path)
    return rank


def alpha_of(name: str, config: Mapping[str, Any], path: Path, rank: int) -> float:
    """Return a layer's alpha, which divided by the rank is the scale that PEFT uses."""
    alpha: float = _value_for(name, config, "alpha_pattern", "lora_alpha", path)
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _value_for(name: str, config: Mapping[str, Any], pattern: str, key: str, path: Path) -> Any:
    """Return a layer's rank or alpha: from the first pattern that matches, else the default."""
    patterns = config.get(pattern) or {}
    value = config.get(key)
    if not isinstance(patterns, dict):
        raise WeightsError(path, f"damaged: {pattern} is not an object")
    value = next((v for ending, v in patterns.items() if _fits(ending, name, pattern, path)), value)
    kinds = (int, float) if key == "lora_alpha" else (int,)
    if value is None or type(value) not in kinds or not 0 < value < 1e9:
        raise WeightsError(path, f"damaged: {key}={str(value)[:40]} of {name}")
    return value


def _fits(ending: str, name: str, pattern: str, path: Path) -> bool:
    """Return whether a pattern matches a layer's name, or its end after a dot, as in PEFT."""
    try:
        found = regex.match(rf"(.*\.)?({ending})$", name, timeout=LONGEST_MATCH)
    except (regex.error, TimeoutError, RecursionError) as err:
        hint = f"{pattern} has {ending[:60]!r}, which can't be matched: {first_line(err)}"
        raise WeightsError(path, hint) from err
    return found is not None
