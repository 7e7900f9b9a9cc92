"""Linear layers that read the same input: queries, keys and values, or a gate and its values.

One product computes the outputs of all of them if their weights are adjacent in memory, (sum of
C_out, C_in), or if a layer of another kind stands for all of them. With a single vector, a product
takes as long as reading its weights, plus some ten microseconds to start the threads, which matters
for small matrices.

Shape letters: C_in inputs, C_out outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.wrappers import has_hooks

MOST_BYTES = 16 << 20  # compared with reading this much, starting threads takes no time


def one_input_of(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's layers that read the same input; may be empty."""
    return getattr(type(module), "one_input", ())


def outputs_of(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """Compute each layer's output for one input: (..., C_in) -> (..., C_out) each."""
    whole = whole_of(layers)
    if whole is None or any(map(has_hooks, layers)):
        return tuple(layer(x) for layer in layers)
    sizes: list[int] = [layer.out_features for layer in layers]  # type: ignore[misc]
    return whole(x).split(sizes, dim=-1)


def whole_of(layers: Sequence[nn.Module]) -> Any:
    """Return the layer whose parts these are, all and in order; None if there is none."""
    parts: Any = layers
    whole, end = getattr(parts[0], "whole", None), 0
    for part in parts:
        if whole is None or getattr(part, "whole", None) is not whole or part.start != end:
            return None
        end += part.out_features
    return whole if whole is not None and end == whole.out_features else None


@torch.no_grad()
def lay_together(model: nn.Module) -> None:
    """Make small weights of one input, and their biases, adjacent in memory; values stay."""
    for module in model.modules():
        layers: list[Any] = [getattr(module, name) for name in one_input_of(module)]
        if layers and all(type(getattr(each, "weight", None)) is nn.Parameter for each in layers):
            _lay(layers)


def _lay(layers: Sequence[nn.Linear]) -> None:
    weights = [layer.weight for layer in layers]
    if sum(weight.nbytes for weight in weights) > MOST_BYTES or not _alike(weights):
        return
    biases = [layer.bias for layer in layers if layer.bias is not None]
    for parameters in (weights, biases):
        if parameters and _as_one(parameters) is None:
            rows = [len(parameter) for parameter in parameters]
            block = torch.cat([parameter.detach() for parameter in parameters])
            for parameter, part in zip(parameters, block.split(rows), strict=True):
                parameter.data = part


def laid_together(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None] | None:
    """Return weights and biases of linear layers as one matrix and one vector, without a copy.

    Return None if they are not adjacent, or a layer is of another kind.
    """
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        return None
    weights: list[Tensor] = [layer.weight for layer in layers]  # type: ignore[misc]
    biases: list[Any] = [layer.bias for layer in layers]
    weight = _as_one(weights)
    if weight is None or biases.count(None) not in (0, len(biases)):
        return None
    if biases[0] is None:
        return weight, None
    bias = _as_one(biases)
    return None if bias is None else (weight, bias)


def _alike(parameters: Sequence[Tensor]) -> bool:
    first = parameters[0]
    return all(
        type(p) is nn.Parameter
        and (p.dtype, p.device, p.shape[1:]) == (first.dtype, first.device, first.shape[1:])
        and p.device.type == "cpu"
        and not p.is_shared()
        for p in parameters
    )


def _as_one(parameters: Sequence[Tensor]) -> Tensor | None:
    """Return adjacent tensors of one storage as one tensor; None if they are not adjacent."""
    first, rows = parameters[0], 0
    storage = first.untyped_storage().data_ptr()
    for part in parameters:
        follows = part.storage_offset() == first.storage_offset() + rows * first.stride(0)
        alike = part.dtype == first.dtype and part.shape[1:] == first.shape[1:]
        if not (alike and follows and part.is_contiguous()):
            return None
        if part.untyped_storage().data_ptr() != storage or type(part) is not nn.Parameter:
            return None
        rows += len(part)
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())
