"""GPT-2 from any file: one call, exact, at the memory of one model (book 5.5)."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.config import GPTConfig, as_config, gpt2_size
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.initialization import SkipInitialization
from llm_scratch.model.linear import Linear
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import reading_thirds
from llm_scratch.weights.gpt2_names import QKV, Part, compare, expected_shapes
from llm_scratch.weights.hub import fetch_gpt2
from llm_scratch.weights.source import Source, config_of, open_source


def load_gpt2(
    source: str | os.PathLike[str],
    *,
    config: GPTConfig | Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tie_weights: bool | None = None,
    drop_rate: float = 0.0,
    lora_alpha: float | None = None,
) -> GPTModel:
    """A `GPTModel` with the weights of a GPT-2 file, in evaluation mode.

    Nothing is initialised or copied that need not be: the numbers stay in the file, mapped, until
    they are used, and memory is taken once. Writing to them (training) changes memory, never the
    file. Every tensor of the file is used, or the call fails and names it.

    Args:
        source: a size or hub name ("124M", "gpt2-medium", "gpt2-xl (1558M)"), which is downloaded
            unless it is here; or a folder (OpenAI's files, Hugging Face's, one of `save_model`);
            or a file (safetensors, `.bin`, a `.pth` state dict saved as in the book). A folder
            that is called like a model is given as a `Path` or as "./gpt2".
        config: needed where the file has none and its width is not one of GPT-2's four; nothing
            else says how many heads there are.
        device: where the parameters go; None means the CPU.
        dtype: None keeps the file's.
        tie_weights: whether head and embedding are one parameter. None follows the file: tied
            where it has no head of its own, or one equal to the embedding.
        drop_rate: dropout for further training; 0 keeps what `config`, or a file of ours, says.
        lora_alpha: for a state dict with LoRA matrices, which are added to the weights.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        WeightsError: if a file is damaged, holds code, or does not fit; names tensors.
        ValueError: if a setting is out of range.
        DownloadError: if a named model can't be fetched.

    Source:
        Book 5.5; Radford et al. 2019.
    """
    wanted = None if config is None else as_config(config)
    path = find_source(source)
    if wanted is not None and wanted.tie_weights and tie_weights is None:
        tie_weights = True
    with _without_collection():
        return build_model(
            open_source(path, lora_alpha),
            wanted,
            device=device,
            dtype=dtype,
            tie_weights=tie_weights,
            drop_rate=drop_rate,
        )


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the garbage collector out while many objects are made that all stay.

    One pass over everything that torch has imported takes longer than the whole loading.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def find_source(source: str | os.PathLike[str]) -> Path:
    """The folder or file that is meant; a model's name is looked for, then downloaded."""
    if not isinstance(source, str):
        return Path(source)
    try:
        size = gpt2_size(source)
    except ValueError as err:
        path = Path(source)
        if path.exists() or path.with_name(f"{path.name}.index").is_file():
            return path
        raise FileNotFoundError(f"no file or folder {source}, and {err}") from err
    return fetch_gpt2(size)


def build_model(
    source: Source,
    config: GPTConfig | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tie_weights: bool | None = None,
    drop_rate: float = 0.0,
) -> GPTModel:
    """The model that an opened source holds; checked in full before anything is allocated.

    Raises:
        WeightsError: if a tensor is missing, not used, or of another shape.
    """
    cfg = config_of(source, config)
    head = source.parts.get("out_head.bias")
    n_out = head.shape[0] if head is not None and head.shape else None
    if drop_rate or not (config or source.metadata):
        cfg = replace(cfg, drop_rate=drop_rate)
    parts = dict(source.parts)
    if not cfg.qkv_bias:
        _drop_zero_biases(parts, cfg.n_layers)
    tied = n_out is None and _is_tied(source, tie_weights)
    if n_out is not None and tie_weights:
        hint = f"its head gives {n_out} classes and can't be the embedding; leave tie_weights out"
        raise WeightsError(source.path, hint)
    copied_head = not tied and "out_head.weight" not in parts and tie_weights is False
    expected = expected_shapes(cfg, n_out)
    if tied or copied_head:
        expected.pop("out_head.weight")
    if tied:
        parts.pop("out_head.weight", None)
    shapes = {name: part.shape for name, part in parts.items()}
    if complaint := compare(expected, shapes, source.surplus):
        raise WeightsError(source.path, f"does not fit a GPT-2 of these sizes: {complaint}")
    if dtype is None and not source.metadata:  # our own files keep each parameter's
        dtype = parts["tok_emb.weight"].stored.tensor.dtype
    _check_floats(source.path, parts, dtype)
    joined = {id(part.stored): part.stored for part in parts.values() if part.third is not None}
    with reading_thirds(joined.values()):
        model = _empty(replace(cfg, tie_weights=tied), n_out)
    for name in expected:
        _set(model, name, _moved(parts[name].tensor(), device, dtype))
    if copied_head:
        _set(model, "out_head.weight", model.tok_emb.weight.detach().clone())
    if tied:
        model.tie_weights()
    return model.eval()


def _empty(cfg: GPTConfig, n_out: int | None) -> GPTModel:
    model = GPTModel.empty(cfg)
    if n_out is not None:
        with SkipInitialization():
            model.out_head = Linear(cfg.emb_dim, n_out)
    return model


def _set(model: GPTModel, name: str, tensor: Tensor) -> None:
    layer, _, parameter = name.rpartition(".")
    setattr(model.get_submodule(layer), parameter, nn.Parameter(tensor))


def _moved(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(device=device or "cpu", dtype=dtype or tensor.dtype)


def _check_floats(path: Path, parts: Mapping[str, Part], dtype: torch.dtype | None) -> None:
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"{dtype=} must be a floating type such as torch.bfloat16")
    wrong = [n for n, part in parts.items() if not part.stored.tensor.dtype.is_floating_point]
    if wrong:
        raise WeightsError(path, f"these hold no floating numbers: {', '.join(wrong[:4])}")


def _drop_zero_biases(parts: dict[str, Part], n_layers: int) -> None:
    """Take out the biases of queries, keys and values where all are zero: nothing is lost."""
    names = [f"trf_blocks.{n}.att.{layer}.bias" for n in range(n_layers) for layer in QKV]
    found = [name for name in names if name in parts]
    if not any(torch.count_nonzero(parts[name].stored.tensor) for name in found):
        for name in found:
            del parts[name]


def _is_tied(source: Source, wanted: bool | None) -> bool:
    """Whether head and embedding become one parameter.

    Raises:
        WeightsError: if they should, but the file's head differs from its embedding.
    """
    head, embedding = source.parts.get("out_head.weight"), source.parts["tok_emb.weight"]
    stated = source.known.get("tie_weights")
    if wanted is False:
        return False
    if head is None:
        return bool(wanted or stated is not False)
    if wanted is None and stated is False:
        return False
    same = head.shape == embedding.shape and _equal(head.stored.tensor, embedding.stored.tensor)
    if (wanted or stated) and not same:
        raise WeightsError(
            source.path,
            "its head differs from its embedding, so they can't be tied; tie_weights=False uses "
            "the head of the file",
        )
    return same


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or torch.equal(a, b)
