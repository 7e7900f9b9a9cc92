"""interim"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm_scratch.model import llama_sizes
from llm_scratch.model.config import GPT_CONFIG_124M
from llm_scratch.model.families import any_config


def model_config(source: str) -> Any:
    """Return a model's configuration."""
    if source == "gpt2":
        return any_config(
            {**GPT_CONFIG_124M, "qkv_bias": True, "tie_weights": True, "drop_rate": 0.0}
        )
    if source == "smollm2":
        return any_config(llama_sizes.SMOLLM2_CONFIG_135M)
    if Path(source).is_file():
        return any_config(json.loads(Path(source).read_text(encoding="utf-8")))
    raise ValueError(f"{source!r} is not known")
