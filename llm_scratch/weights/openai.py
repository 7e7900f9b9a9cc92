"""The book's own way to load GPT-2: OpenAI's files as nested arrays, then each parameter (5.5).

`load_gpt2` does all of it in one call; these functions are for code that follows the book.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_scratch.files import read_json
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.tensor_files.tensor_bundle import TensorBundle
from llm_scratch.weights.gpt2_files import fetch_openai
from llm_scratch.weights.gpt2_names import (
    from_hugging_face,
    openai_as_hugging_face,
    strip_prefixes,
)
from llm_scratch.weights.parts import compare


def download_and_load_gpt2(
    model_size: str, models_dir: str | os.PathLike[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load a GPT-2's settings and parameters, downloaded to `models_dir/model_size` if missing.

    Args:
        model_size: "124M", "355M", "774M" or "1558M".
        models_dir: the folder that holds one folder per size.

    Returns:
        `settings`, with n_vocab, n_ctx, n_embd, n_head and n_layer, and `params` as
        `load_gpt2_params_from_tf_ckpt` returns them.

    Raises:
        ValueError: if there is no such size.
        DownloadError: if a file cannot be fetched.
        WeightsError: if one is damaged.

    Source:
        Book 5.5; here without TensorFlow.
    """
    folder = fetch_openai(model_size, Path(models_dir) / model_size)
    settings = read_json(folder / "hparams.json", error=WeightsError)
    return settings, load_gpt2_params_from_tf_ckpt(folder, settings)


def load_gpt2_params_from_tf_ckpt(
    ckpt_path: str | os.PathLike[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Load the parameters in a TensorFlow checkpoint of GPT-2, nested as in the book.

    `params["wte"]`, `["wpe"]`, `["g"]`, `["b"]`, and for each block `params["blocks"][i]` with
    `["attn"]["c_attn"]["w"]` and so on; matrices are (in, out). The arrays are mapped from the
    file.

    Args:
        ckpt_path: the checkpoint's folder, or its path without a suffix.
        settings: its `hparams.json`; `n_layer` is used.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        WeightsError: if it is damaged, or not a GPT-2 of `n_layer` blocks.

    Source:
        Book 5.5; here without TensorFlow.
    """
    n_layer = settings.get("n_layer")
    if not isinstance(n_layer, int):
        raise ValueError(f"settings['n_layer'] must be a number of blocks, got {n_layer!r}")
    bundle = TensorBundle(ckpt_path)
    params: dict[str, Any] = {"blocks": []}
    blocks: dict[str, Any] = {}
    for name in bundle.names():
        first, *keys = name.removeprefix("model/").split("/")
        target = params
        if first.startswith("h") and first[1:].isdecimal():
            target = blocks.setdefault(first, {})
        elif first != "ln_f":  # the last norm's two arrays are at the top, as in the book
            keys = [first, *keys]
        for key in keys[:-1]:
            target = target.setdefault(key, {})
        target[keys[-1]] = np.squeeze(bundle.read(name))
    if sorted(blocks) != sorted(f"h{number}" for number in range(len(blocks))) or (
        len(blocks) != n_layer
    ):
        raise WeightsError(bundle.path, f"holds {len(blocks)} blocks, the settings say {n_layer}")
    params["blocks"] = [blocks[f"h{number}"] for number in range(n_layer)]
    return params


def assign(left: Tensor | None, right: Any) -> nn.Parameter:
    """Fill the parameter `left` with the numbers of `right`, and return it.

    The book makes a new parameter. Here a parameter is filled in place, so that it keeps its device
    and type, its sharing, and the optimizer that refers to it.

    Args:
        left: the parameter to fill.
        right: a tensor, or data for one, of the same shape.

    Raises:
        ValueError: if the shapes differ, or there is no parameter.
    """
    if left is None:
        raise ValueError("there is no such parameter; GPT-2 needs a model with qkv_bias=True")
    values = torch.as_tensor(right)
    if left.shape != values.shape:
        raise ValueError(f"Shape mismatch. Left: {tuple(left.shape)}, Right: {tuple(values.shape)}")
    if not isinstance(left, nn.Parameter):
        return nn.Parameter(values.detach().clone())
    with torch.no_grad():
        left.copy_(values)
    return left


def load_weights_into_gpt(gpt: nn.Module, params: Mapping[str, Any]) -> None:
    """Fill a GPT with GPT-2's parameters, in place.

    Devices, types, tied weights and the optimizer's references are preserved. Nothing is changed
    unless everything fits.

    Args:
        gpt: a model with the book's parameter names, this library's or the reader's own.
        params: the result of `load_gpt2_params_from_tf_ckpt`, or Hugging Face's tensors by name.

    Raises:
        ValueError: if a tensor is missing, not used, or of another shape; the message lists them.

    Source:
        Book 5.5.
    """
    flat = dict(params) if "blocks" not in params else _as_hugging_face(params)
    stored = {
        strip_prefixes(name): Stored(_as_tensor(value), Path("params"))
        for name, value in flat.items()
    }
    parts, surplus = from_hugging_face(stored)
    if "tok_emb.weight" in parts:  # GPT-2's head is its embedding
        parts.setdefault("out_head.weight", parts["tok_emb.weight"])
    targets = dict(gpt.named_parameters(remove_duplicate=False))
    shapes = {name: tuple(parameter.shape) for name, parameter in targets.items()}
    found = {name: part.shape for name, part in parts.items()}
    if complaint := compare(shapes, found, surplus):
        needs_bias = any("W_query.bias" in name for name in found.keys() - shapes.keys())
        hint = "; GPT-2 needs a model with qkv_bias=True" if needs_bias else ""
        raise ValueError(f"the parameters do not fit this model: {complaint}{hint}")
    _check_tie(targets, parts)
    for name, part in parts.items():
        whole = part.stored.tensor
        if part.third is not None:
            whole = whole.chunk(3, dim=-1)[part.third]
        assign(targets[name], whole.t() if part.transpose else whole)


def _check_tie(targets: Mapping[str, nn.Parameter], parts: Mapping[str, Any]) -> None:
    head, embedding = (parts[name].stored.tensor for name in ("out_head.weight", "tok_emb.weight"))
    tied = targets["out_head.weight"] is targets["tok_emb.weight"]
    if tied and head is not embedding and not torch.equal(head, embedding):
        raise ValueError(
            "params hold a head that differs from the embedding, and this model ties the two; "
            "build it with tie_weights=False"
        )


def _as_hugging_face(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the book's nested parameters, under Hugging Face's names."""
    tree = {key: value for key, value in params.items() if key not in ("blocks", "g", "b")}
    tree["ln_f"] = {key: params[key] for key in ("g", "b") if key in params}
    tree |= {f"h{number}": block for number, block in enumerate(params["blocks"])}
    return {openai_as_hugging_face(name): value for name, value in _leaves(tree, "model")}


def _leaves(tree: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{name}/{key}"
        yield from _leaves(value, path) if isinstance(value, Mapping) else [(path, value)]


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and not (value.flags.writeable and value.flags.aligned):
        value = value.copy()  # torch would warn about read-only memory
    return torch.as_tensor(value)
