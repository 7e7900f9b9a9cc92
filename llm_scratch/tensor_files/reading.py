"""A file of tensors, whatever its format: told by its first bytes."""

from __future__ import annotations

from pathlib import Path

from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.pickles import read_pickle
from llm_scratch.tensor_files.safetensors import read_safetensors
from llm_scratch.tensor_files.stored import TensorFile


def read_tensors(path: Path, mapped: bool = True) -> TensorFile:
    """The tensors of a file, by its first bytes.

    Args:
        path: the file.
        mapped: leave the numbers in the file until they are used; False reads safetensors now.

    Raises:
        FileNotFoundError: if there is no file.
        WeightsError: if it is damaged, holds code, or is not a file of tensors.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    # What a file is called must not decide whether code in it could run.
    if start[:4] == b"PK\x03\x04":
        return read_pickle(path)
    if start[8:9] == b"{":
        return read_safetensors(path, mapped)
    if start[:1] == b"\x80":  # the older form, or any other pickle
        return read_pickle(path)
    kind = "empty" if not start else "neither safetensors nor a file of torch.save"
    raise WeightsError(path, f"{kind}, or cut off; download or save it again")
