"""A whole copy of a model divided among processes, for functions that save a whole model.

One process holds the copy. Its numbers are in memory-mapped files, gathered one tensor at a time,
so that no process ever needs memory for a whole model.
"""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_scratch.training.distributed import Ranks
from llm_scratch.training.sharding import gathered


class WholeCopy:
    """A whole copy of a model, to be made before the model is divided.

    Args:
        model: the model, not yet divided; its numbers are not copied.
        ranks: the processes.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._filled: set[str] = set()
        empty: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
            for p in model.parameters()
        }
        self.model: Any = copy.deepcopy(model, empty) if ranks.first else None

    def fill(self, divided: nn.Module) -> Any:
        """Gather the numbers of the divided model; return the whole model in the first process.

        All processes must call this. Frozen parameters are gathered only once.
        """
        places = dict(self.model.named_parameters()) if self.model is not None else {}
        for name, parameter in divided.named_parameters():
            if name in self._filled and not parameter.requires_grad:
                continue
            whole = gathered(parameter.detach())
            if self.model is not None:
                self._put(name, places[name], whole)
            self._filled.add(name)
        return self.model

    def _put(self, name: str, place: nn.Parameter, whole: Tensor) -> None:
        """Write a tensor to its file; on the first call, map the copy's parameter to that file."""
        if place.is_meta:
            mapped = self._mapped(name, whole)
            replace_parameter(self.model, place, nn.Parameter(mapped, place.requires_grad))
            place = dict(self.model.named_parameters())[name]
        place.detach().copy_(whole)

    def _mapped(self, name: str, like: Tensor) -> Tensor:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="llm-scratch-")
        path = Path(self._folder.name) / f"{name}.bin"
        size = max(1, math.prod(like.shape) * like.element_size())
        data = np.memmap(path, dtype=np.uint8, mode="w+", shape=(size,))
        return torch.from_numpy(data).view(like.dtype).view(like.shape)

    def close(self) -> None:
        """Remove the files."""
        self.model = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def replace_parameter(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Replace a parameter wherever it is used; a shared one stays shared."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is old:
                module._parameters[name] = new
