"""Writing of GGUF files: the header by llama.cpp's own package, the numbers a few rows at a time.

Source:
    The format's description in the repository ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_scratch.files import written_whole
from llm_scratch.tensor_files.gguf import CHUNK_NUMBERS, check_package
from llm_scratch.tensor_files.gguf_header import DEFAULT_ALIGNMENT

Q8_BLOCK = 32  # numbers per scale
_LARGEST_F16 = float(np.finfo(np.float16).max)

# The types that can be written, each with the largest number that it can hold.
LARGEST = {
    "F32": float(np.finfo(np.float32).max),
    "F16": _LARGEST_F16,
    "Q8_0": 127 * _LARGEST_F16,  # the largest integer of a block times the largest scale
}


class Outgoing(NamedTuple):
    """A tensor to be written to a file.

    Args:
        name: its name in the file.
        shape: its shape in PyTorch's order.
        kind: the type to write, one of those in `LARGEST`.
        tensor: the function that returns the numbers when it is their turn.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    tensor: Callable[[], Tensor]


def write_gguf(
    path: Path, architecture: str, keys: Mapping[str, Any], tensors: Sequence[Outgoing]
) -> None:
    """Write a GGUF file atomically, with no more than one tensor's numbers in memory.

    Args:
        path: the file.
        architecture: llama.cpp's name for the kind of model.
        keys: booleans, strings, integers (of 32 bits), floats (of 32 bits; numpy's float64 of
            64), and lists of strings or integers.
        tensors: the tensors in the order of the file.

    Raises:
        WeightsError: if the `gguf` package is missing.
        ValueError: if a tensor has a number that its type cannot hold.
    """
    check_package(path, "is written by")
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.gguf_writer import WriterState

    with written_whole(path) as file:
        writer = GGUFWriter(None, architecture)
        writer.add_custom_alignment(DEFAULT_ALIGNMENT)
        for key, value in keys.items():
            writer.add_key_value(key, value, _value_type(value))
        for name, shape, kind, _ in tensors:
            size = _packed_bytes(shape, kind)
            number = GGMLQuantizationType[kind]
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=number)
        writer.fout, writer.state = [cast(BufferedWriter, file)], WriterState.EMPTY
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.write_padding(file, file.tell())
        for outgoing in tensors:
            for rows in _packed_rows(outgoing):
                file.write(rows.data)
            writer.write_padding(file, file.tell())


def _value_type(value: Any) -> Any:
    from gguf import GGUFValueType

    kinds = {bool: "BOOL", str: "STRING", int: "UINT32", np.float64: "FLOAT64", float: "FLOAT32"}
    return GGUFValueType[kinds.get(type(value), "ARRAY")]


def _packed_bytes(shape: tuple[int, ...], kind: str) -> int:
    count = int(np.prod(shape))
    return count // Q8_BLOCK * (Q8_BLOCK + 2) if kind == "Q8_0" else count * int(kind[1:]) // 8


def _packed_rows(outgoing: Outgoing) -> Iterator[NDArray[Any]]:
    """Yield a tensor's numbers in the form of the file, a few rows at a time."""
    tensor = outgoing.tensor().detach()
    if tuple(tensor.shape) != outgoing.shape:
        raise ValueError(
            f"{outgoing.name} has the shape {tuple(tensor.shape)}, not {outgoing.shape}"
        )
    rows = tensor.reshape(-1, tensor.shape[-1])
    step = max(1, CHUNK_NUMBERS // rows.shape[1])
    for start in range(0, len(rows), step):
        numbers = rows[start : start + step].to("cpu", torch.float32).contiguous()
        if not bool(numbers.abs().max() <= LARGEST[outgoing.kind]):  # also refuses NaN
            raise ValueError(
                f"{outgoing.name} holds numbers that are not finite, or above "
                f"{LARGEST[outgoing.kind]:,.0f}, which {outgoing.kind} can't hold; F32 holds all "
                "that are finite"
            )
        yield _packed(numbers.numpy(), outgoing.kind)


def _packed(numbers: NDArray[np.float32], kind: str) -> NDArray[Any]:
    """Convert numbers to a type's bytes: (rows, C) of float32 -> (rows, bytes or numbers)."""
    from gguf import GGMLQuantizationType, quantize

    with np.errstate(all="ignore"):  # the scale of tiny numbers is 0
        packed: NDArray[Any] = quantize(numbers, GGMLQuantizationType[kind])
    return packed
