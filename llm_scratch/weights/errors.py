"""The one error that a file with weights can raise."""

from __future__ import annotations

import os


class WeightsError(ValueError):
    """A file with weights that is damaged, unsafe, or does not fit what was asked for.

    Args:
        path: the file or folder at fault.
        hint: what is wrong with it, and the way out.
    """

    def __init__(self, path: str | os.PathLike[str], hint: str) -> None:
        super().__init__(f"{os.fspath(path)}: {hint}")
        self.path = os.fspath(path)
        self.hint = hint

    def __reduce__(self) -> tuple[type[WeightsError], tuple[str, str]]:
        return type(self), (self.path, self.hint)
