"""The division of a model among the processes of a run, in one frozen object.

No torch is imported here, so that a program can offer these settings without loading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Shard = Literal["none", "optimizer", "full"]
SHARDS: tuple[str, ...] = get_args(Shard)


@dataclass(frozen=True)
class Division:
    """The part of a run that each process holds.

    Args:
        shard: "none": every process holds everything (DDP). "optimizer": the optimizer state is
            divided (ZeRO-1). "full": parameters, gradients and optimizer state are divided
            (FSDP2, ZeRO-3), and a block is gathered when it computes.
        reshard: with "full": whether a block is divided again after its forward pass. False keeps
            it for the backward pass (as ZeRO-2): more memory, less to send.
        offload: with "full": whether the divided tensors are kept in the host's memory.
        mesh: with "full": (copies, parts): the model is divided into `parts`, and there are
            `copies` of it.

    Raises:
        ValueError: if a setting is unknown or would have no effect.
    """

    shard: Shard = "none"
    reshard: bool = True
    offload: bool = False
    mesh: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.shard not in SHARDS:
            raise ValueError(f"shard={self.shard!r} is not known; there are {', '.join(SHARDS)}")
        full_only = {
            "--reshard no (reshard=False)": not self.reshard,
            "--offload (offload=True)": self.offload,
            "--mesh (mesh=)": self.mesh is not None,
        }
        if self.shard != "full" and any(full_only.values()):
            name = next(name for name, given in full_only.items() if given)
            raise ValueError(f"{name} goes with --shard full (shard='full') only")
        if self.mesh is not None and (len(self.mesh) != 2 or min(self.mesh) < 1):
            raise ValueError(f"mesh={self.mesh} must be two numbers from 1 on: copies, parts")

    def check(self, processes: int) -> None:
        """Check that this division is possible with a given number of processes.

        Raises:
            ValueError: naming both numbers.
        """
        if processes == 1 and self.shard != "none":
            raise ValueError(
                f"--shard {self.shard} divides a model among several processes, and there is one; "
                "start with torchrun --standalone --nproc-per-node N -m llm_scratch ..."
            )
        if self.mesh is not None and self.mesh[0] * self.mesh[1] != processes:
            copies, parts = self.mesh
            raise ValueError(
                f"a mesh of {copies} x {parts} needs {copies * parts} processes, not {processes}"
            )


WHOLE = Division()
"""Every process holds everything."""
