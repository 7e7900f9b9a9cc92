"""The division of a model among the processes of a run, by PyTorch's DDP, ZeRO-1 and FSDP2.

    --shard none        every process holds everything; gradients are averaged (DDP)
    --shard optimizer   the same, but each process updates a part of the parameters (ZeRO-1)
    --shard full        each holds a part of everything; a block is gathered to compute (FSDP2)

Source:
    Li et al. 2020, arXiv:2006.15704 (DDP); Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO);
    Zhao et al. 2023, arXiv:2304.11277 (FSDP).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.training.distributed import Ranks
from llm_scratch.training.division import Division


def divided(module: nn.Module, division: Division, ranks: Ranks, device: torch.device) -> nn.Module:
    """Divide a model among processes; return the module that computes the loss of the steps.

    Make the optimizers after this. A model on the meta device gets memory only for its part.

    Args:
        module: a `StepLoss`, or another module with the model as `.model`; with "full" it is
            changed in place.
        division: the part of the model that each process holds.
        ranks: the processes.
        device: the device to compute on.

    Raises:
        ValueError: if the division is not possible with this number of processes.
    """
    division.check(ranks.count)
    if ranks.count == 1:
        return module
    if division.shard == "full":
        _shard_fully(module, division, ranks, device)
        return module
    from torch.nn.parallel import DistributedDataParallel

    model: Any = module.model
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=bool(getattr(model.cfg, "num_experts", 0)),
    )


def _shard_fully(module: Any, division: Division, ranks: Ranks, device: torch.device) -> None:
    """Divide each block, then the rest: embeddings, the final norm and the head."""
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    options: dict[str, Any] = {"mesh": _mesh_of(division, ranks, device)}
    if division.offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=device.type != "cpu")
    gathered: dict[str, Any] = {}
    if module.dtype != torch.float32:
        # Gathering in the type of the products halves the traffic. With weights gathered in
        # float32, autocast would copy each, and unlike the gathered weights, the copies would all
        # live until the backward pass.
        gathered["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=module.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for block in module.model.trf_blocks:
        fully_shard(block, reshard_after_forward=division.reshard, **options, **gathered)
    # The loss needs the head's weights again at once, so they are not divided in between.
    fully_shard(module, reshard_after_forward=False, **options)
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device="cpu" if division.offload else device)


def _mesh_of(division: Division, ranks: Ranks, device: torch.device) -> Any:
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torch.distributed.device_mesh import init_device_mesh

    shape = division.mesh or (ranks.count,)
    names = ("copies", "parts")[-len(shape) :]
    with unset_fake_temporarily():  # ranks must be real numbers even where tensors are fake
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    for name in names if len(names) > 1 else ():  # these groups have timeouts of their own
        _set_timeout(mesh.get_group(name), ranks.timeout)
    return mesh


def _set_timeout(group: Any, seconds: float) -> None:
    from torch.distributed.distributed_c10d import _set_pg_timeout

    _set_pg_timeout(timedelta(seconds=seconds), group)


def is_sharded(tensor: Any) -> bool:
    """Return whether this process holds only a part of a tensor."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Any) -> Tensor:
    """Return this process's part of a divided tensor, or the whole of any other."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def gathered(tensor: Any) -> Tensor:
    """Return the whole tensor; if it is divided, all processes must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def divided_like(whole: Tensor, like: Any) -> Tensor:
    """Return this process's part of a tensor that all hold, divided in the same way as `like`."""
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    # No source rank: every process has the same numbers, so nothing is sent.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def sharded_norm(gradients: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of all gradients together, including the parts elsewhere."""
    if not gradients:
        return 0.0
    norms = torch.stack([torch.linalg.vector_norm(local(g)) for g in gradients])
    if not is_sharded(gradients[0]):
        return norms.norm().item()
    import torch.distributed as dist

    mesh: Any = gradients[0].device_mesh  # type: ignore[attr-defined]
    square = norms.double().square().sum()
    dist.all_reduce(square, group=mesh.get_group("parts"))
    return math.sqrt(square.item())


def synchronised(module: Any, is_last: bool) -> AbstractContextManager[Any]:
    """Return a context for a micro batch; gradients are averaged only with the step's last one."""
    if hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(is_last)
        return nullcontext()
    return module.no_sync() if hasattr(module, "no_sync") and not is_last else nullcontext()


@contextmanager
def writable(module: Any) -> Iterator[None]:
    """Return a context in which all processes can call the model itself, for example to sample."""
    if not hasattr(module, "unshard"):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()
