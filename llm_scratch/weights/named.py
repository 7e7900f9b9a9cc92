"""What a source that somebody names is: a model with a name, one on the hub, a file or folder."""

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
    """Return the folder or file that is meant; a GPT-2, or what is on the hub, is fetched for it.

    Args:
        source: the path of a file or folder; or a text, which may be the name of a model too.
        ignore_keys: settings to pass over in the configuration of a model on the hub, which is
            looked at before its weights are fetched.

    Raises:
        FileNotFoundError: if there is neither a model nor a file of this name, or the model is not
            here; names the command that brings it.
        ValueError: if it begins like a model on the hub and does not go on like one.
        DownloadError: if a GPT-2, or a model on the hub, can't be fetched; the latter's other
            errors are those of `fetch_from_hub`.
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
