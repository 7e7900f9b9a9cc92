"""GPT-2 from any file: one call, exact, at the memory of one model (book 5.5)."""

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
    """Return a `GPTModel` with the weights of a GPT-2 file, in evaluation mode.

    Nothing is initialised or copied that need not be: the numbers stay in the file, mapped, until
    they are used, and memory is taken once. Writing to them (training) changes memory, never the
    file. Every tensor of the file is used, or the call fails and names it.

    Args:
        source: a size or hub name ("124M", "gpt2-medium", "gpt2-xl (1558M)"), which is downloaded
            unless it is here; or "hub:ORG/NAME", as in `open_model`; or a folder (OpenAI's files,
            Hugging Face's, one of `save_model`); or a file (safetensors, `.bin`, a `.pth` state
            dict saved as in the book, or what nanoGPT, Lightning and other trainers save). A folder
            that is called like a model is given as a `Path` or as "./gpt2".
        config: needed where the file has none and its width is not one of GPT-2's four; nothing
            else says how many heads there are.
        device: where the parameters go; None means the CPU.
        dtype: None keeps the file's; of several the widest, with a warning.
        tie_weights: whether head and embedding are one parameter. None follows the file: tied
            where it has no head of its own, or one equal to the embedding.
        drop_rate: dropout for further training; 0 keeps what `config`, or a file of ours, says.
        lora_alpha: for a state dict with LoRA matrices, which are added to the weights.
        ignore_keys: settings in files of other programs that are passed over although this library
            does not compute what they say: results differ then.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        WeightsError: if a file is damaged, holds code, or does not fit; names tensors.
        ValueError: if a setting is out of range.
        DownloadError: if a named model can't be fetched.

    Source:
        Book 5.5; Radford et al. 2019.
    """
    wanted = None if config is None else as_config(config)
    path = find_source(source, ignore_keys)
    if wanted is not None and wanted.tie_weights and tie_weights is None:
        tie_weights = True
    # Many objects are made that all stay: one pass of the garbage collector over everything that
    # torch has imported takes longer than the whole loading.
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
