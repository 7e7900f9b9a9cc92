"""Parameters that are still in their files, by this library's names, and whether all are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from llm_scratch.tensor_files.stored import Stored, owned, thirds_of


@dataclass(frozen=True)
class Part:
    """One parameter, still in its file: the stored tensor, and which way round it is to be read.

    Args:
        stored: the tensor in the file.
        transpose: whether it is stored (in, out).
        third: which third of the last axis is meant, None for the whole.
    """

    stored: Stored
    transpose: bool = False
    third: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the parameter will have."""
        *rest, last = self.stored.shape
        shape = (*rest, last // 3 if self.third is not None and last % 3 == 0 else last)
        return shape[::-1] if self.transpose else shape

    def tensor(self) -> Tensor:
        """The parameter's numbers: dense, alone in their storage, mapped where that is possible."""
        if self.third is None:
            whole = self.stored.tensor
        else:
            whole = thirds_of(self.stored)[self.third]
        return owned(whole.t() if self.transpose else whole)


def compare(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    surplus: Iterable[str] = (),
) -> str:
    """What does not fit, in one line that names tensors; empty when all of it does."""
    missing = [name for name in expected if name not in found]
    extra = [*(name for name in found if name not in expected), *surplus]
    wrong = [
        f"{name} {found[name]} where {shape} is needed"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    kinds = (("missing", missing), ("not used", extra), ("of another shape", wrong))
    return "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(name[:100] for name in names[:6]) + more
