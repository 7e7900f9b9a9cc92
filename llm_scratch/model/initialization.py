"""Initialisation of parameters: GPT-2's scheme, or none if a file fills them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from llm_scratch.model.layers import LayerNorm
from llm_scratch.model.llama_layers import RMSNorm

_RANDOM_FILLS = (
    nn.init.kaiming_uniform_,
    nn.init.uniform_,
    nn.init.normal_,
    Tensor.uniform_,
    Tensor.normal_,
)

RESIDUAL = (".att.out_proj", ".ff.layers.2", ".ff.fc3")  # these write to the residual stream


class SkipInitialization(TorchFunctionMode):
    """A context in which new layers keep uninitialised memory: no random numbers are drawn.

    It is for models whose parameters are all overwritten right afterwards. The meta device would do
    the same, at the cost of 0.8 seconds of imports when it is first entered.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer random fills with the unchanged tensor, and pass on everything else."""
        if func in _RANDOM_FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def init_normal(
    model: nn.Module,
    n_layers: int,
    std: float = 0.02,
    position_std: float | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Initialise a model's parameters as GPT-2's were, in place; see `GPTModel.init_weights`."""
    position_std = std if position_std is None else position_std
    residual_std = std / math.sqrt(2 * n_layers)
    for name, module in model.named_modules():
        if isinstance(module, LayerNorm):
            module.scale.fill_(1.0)
            module.shift.zero_()
        elif isinstance(module, RMSNorm):
            module.scale.fill_(1.0)
        elif isinstance(module, nn.Embedding):
            spread = position_std if name.endswith("pos_emb") else std
            _fill_normal(module.weight, spread, generator)
        elif isinstance(module, nn.Linear):
            is_residual = any(part in name for part in RESIDUAL)
            _fill_normal(module.weight, residual_std if is_residual else std, generator)
            if module.bias is not None:
                module.bias.zero_()


def _fill_normal(parameter: Tensor, std: float, generator: torch.Generator | None) -> None:
    """Fill a parameter; fill a shard with the numbers that the whole parameter would have."""
    if type(parameter.data) is Tensor:
        parameter.normal_(0.0, std, generator=generator)
        return
    from torch.distributed.tensor import distribute_tensor

    whole = torch.empty(parameter.shape, dtype=parameter.dtype)
    whole.normal_(0.0, std, generator=generator)
    part: Any = parameter
    whole = whole.to(part.device_mesh.device_type)
    mine = distribute_tensor(whole, part.device_mesh, part.placements, src_data_rank=None)
    parameter.copy_(mine)
