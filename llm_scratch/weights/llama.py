"""Loading of Llama's and Qwen's parameters into an existing model, with the book's signatures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.llama_names import from_hugging_face
from llm_scratch.weights.parts import compare


def load_weights_into_llama(
    model: nn.Module, param_config: Mapping[str, Any], params: Mapping[str, Tensor]
) -> None:
    """Fill a `LlamaModel` with tensors under Hugging Face's names, in place.

    Devices, types and tied weights are preserved. If there is no head, the embedding is used.
    Nothing is changed unless everything fits.

    Args:
        model: a `LlamaModel`.
        param_config: its configuration; part of the book's signature, not used here.
        params: tensors by name, as in the files of transformers.

    Raises:
        ValueError: if a tensor is missing, not used, or of another shape; the message lists them.

    Source:
        The book's bonus material on Llama 3.2 and Qwen 3; `open_model` does this for a folder.
    """
    del param_config
    stored = {
        name: Stored(torch.as_tensor(value), Path("params")) for name, value in params.items()
    }
    parts, surplus = from_hugging_face(stored)
    if "tok_emb.weight" in parts:
        parts.setdefault("out_head.weight", parts["tok_emb.weight"])
    targets = dict(model.named_parameters(remove_duplicate=False))
    shapes = {name: tuple(parameter.shape) for name, parameter in targets.items()}
    if complaint := compare(shapes, {name: part.shape for name, part in parts.items()}, surplus):
        raise ValueError(f"params do not fit this model: {complaint}")
    with torch.no_grad():
        for name, parameter in targets.items():
            parameter.copy_(parts[name].stored.tensor)


load_weights_into_qwen = load_weights_into_llama
