"""The one error that a file with weights can raise."""

from __future__ import annotations

from llm_scratch.files import FileError


class WeightsError(FileError):
    """A file with weights that is damaged, unsafe, or does not fit what was asked for.

    Args:
        path: the file or folder at fault.
        hint: what is wrong with it, and the way out.
    """
