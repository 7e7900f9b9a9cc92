"""The one error that a file with weights can raise."""

from __future__ import annotations

from llm_scratch.files import FileError


class WeightsError(FileError):
    """An error in a file with weights, which is damaged, unsafe, or does not fit the request.

    Args:
        path: the file or folder at fault.
        hint: what is wrong with it, and the way out.
    """
