"""Loading of GPT-2 from any file: in one call, exactly, in the memory of one model (book 5.5)."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Mapping
from typing import Any

import torch

from llm_scratch.model.config import GPTConfig, as_config
from llm_scratch.weights.building import build_model
from llm_scratch.weights.named import find_source
from llm_scratch.weights.source import open_source


def load_gpt2(
    source: str | os.PathLike[str],
    *,
    config: GPTConfig | Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tie_weights: bool | None = None,
    drop_rate: float = 0.0,
    lora_alpha: float | None = None,
    ignore_keys: Collection[str] = (),
) -> Any:
    """Load a `GPTModel` with the weights of a GPT-2 file, in evaluation mode.

    Nothing is initialised or copied unnecessarily: the numbers stay mapped in the file until they
    are used, and memory is allocated once. Writing to them (training) changes memory, never the
    file. Every tensor of the file is used, or the call fails and names it.

    Args:
        source: a size or hub name ("124M", "gpt2-medium", "gpt2-xl (1558M)"), which is downloaded
            if missing; or "hub:ORG/NAME", as in `open_model`; or a folder (OpenAI's files,
            Hugging Face's, or `save_model`'s); or a file (safetensors, `.bin`, a `.pth` state
            dict saved as in the book, or a checkpoint of nanoGPT, Lightning or other trainers). To
            open a folder with the name of a model, pass a `Path` or "./gpt2".
        config: needed if the file has none and its width is not one of GPT-2's four, since nothing
            else tells the number of heads.
        device: the device of the parameters; None means the CPU.
        dtype: the type of the parameters; None keeps the file's, or the widest of several, with a
            warning.
        tie_weights: whether head and embedding are one parameter. None follows the file: tied if it
            has no head, or one equal to the embedding.
        drop_rate: dropout for further training; 0 keeps that of `config`, or of a saved model.
        lora_alpha: the alpha for a state dict with LoRA matrices, which are merged into the
            weights.
        ignore_keys: settings in files of other programs to ignore although this library does not
            implement them; results then differ.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        WeightsError: if a file is damaged, holds code, or does not fit; the message names tensors.
        ValueError: if a setting is out of range.
        DownloadError: if a named model cannot be fetched.

    Source:
        Book 5.5; Radford et al. 2019.
    """
    wanted = None if config is None else as_config(config)
    path = find_source(source, ignore_keys)
    if wanted is not None and wanted.tie_weights and tie_weights is None:
        tie_weights = True
    # Many long-lived objects are made: one pass of the garbage collector over everything that torch
    # has imported takes longer than loading.
    was_on = gc.isenabled()
    gc.disable()
    try:
        return build_model(
            open_source(path, lora_alpha, ignore_keys=ignore_keys),
            wanted,
            device=device,
            dtype=dtype,
            tie_weights=tie_weights,
            drop_rate=drop_rate,
        )
    finally:
        if was_on:
            gc.enable()
