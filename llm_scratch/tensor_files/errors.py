"""The error for files with weights."""

from __future__ import annotations

from llm_scratch.files import FileError


class WeightsError(FileError):
    """An error for a file with weights that is damaged, unsafe, or does not fit the request.

    Args:
        path: the file or folder at fault.
        hint: what is wrong with it, and the way out.
    """
