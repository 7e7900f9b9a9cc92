"""Reading of tensors from a file of any format, recognised by its first bytes."""

from __future__ import annotations

from pathlib import Path

from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.pickles import read_pickle
from llm_scratch.tensor_files.safetensors import read_safetensors
from llm_scratch.tensor_files.stored import TensorFile


def read_tensors(path: Path, mapped: bool = True) -> TensorFile:
    """Read the tensors of a file, whose first bytes tell its format.

    Args:
        path: the file.
        mapped: whether numbers stay in the file until they are used; False reads safetensors now.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it is damaged, holds code, or is not a file of tensors.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    # A file's name must not decide whether code in it could run.
    if start[:4] == b"PK\x03\x04":
        return read_pickle(path)
    if start[8:9] == b"{":
        return read_safetensors(path, mapped)
    if start[:1] == b"\x80":  # the older format, or any other pickle
        return read_pickle(path)
    kind = "empty" if not start else "neither safetensors nor a file of torch.save"
    raise WeightsError(path, f"{kind}, or cut off; download or save it again")
