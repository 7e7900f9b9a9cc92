"""Sources by name: a named model, a model on the hub, a file or a folder."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from llm_scratch.model.config import gpt2_size
from llm_scratch.weights.gpt2_files import fetch_gpt2
from llm_scratch.weights.hub import fetch_from_hub
from llm_scratch.weights.hub_names import FORMS, is_hub_name
from llm_scratch.weights.wheels import MODELS, find_model


def find_source(source: str | os.PathLike[str], ignore_keys: Collection[str] = ()) -> Path:
    """Return the folder or file of a source; fetch a GPT-2, or a model on the hub.

    Args:
        source: the path of a file or folder; or a string, which may also be a model's name.
        ignore_keys: settings to ignore in the configuration of a model on the hub, which is checked
            before its weights are fetched.

    Raises:
        FileNotFoundError: if there is neither a model nor a file with this name, or the model is
            missing; the message names the command that fetches it.
        ValueError: if it begins like the name of a model on the hub but is not one.
        DownloadError: if a GPT-2, or a model on the hub, cannot be fetched; for the latter's other
            errors, see `fetch_from_hub`.
    """
    if not isinstance(source, str):
        return Path(source)
    if is_hub_name(source):
        return fetch_from_hub(source, ignore_keys)
    if source in MODELS:
        return find_model(source)
    try:
        size = gpt2_size(source)
    except ValueError as err:
        path = Path(source)
        if path.exists() or path.with_name(f"{path.name}.index").is_file():
            return path
        known = ", ".join(MODELS)
        raise FileNotFoundError(
            f"no file or folder {source}, no model {known}, and {err}; one on the hub is {FORMS}"
        ) from err
    return fetch_gpt2(size)
