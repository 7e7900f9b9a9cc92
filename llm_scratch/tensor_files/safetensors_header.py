"""The header of a safetensors file, which says what the file holds; read without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_scratch.files import parse_json
from llm_scratch.tensor_files.errors import WeightsError

LONGEST_HEADER = 16 << 20  # about 150,000 tensors


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Return the entries of a file's tensors, its header's strings, and where tensors begin.

    Raises:
        WeightsError: if the header is damaged; the entries are not checked.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LONGEST_HEADER):
            raise WeightsError(
                path, f"claims a header of {length} bytes in a file of {size}: cut off or damaged"
            )
        header = parse_json(path, file.read(length), error=WeightsError)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightsError(path, "damaged: its metadata are not texts; download it again")
    return header, metadata, 8 + length
