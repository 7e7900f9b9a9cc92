"""A model with 8-bit integer matrices, for generation: a quarter of the bytes per token.

The weights of each output share one scale. The inputs are rounded too, each token by its own range:
to 8 bits, or to 16 if a layer's inputs have outliers. PyTorch's own integer kernels compute the
products. Training needs the float model, which stays unchanged.

Shape letters: C_in inputs, C_out outputs, N tokens.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.families import language_model
from llm_scratch.model.linear import Product
from llm_scratch.model.together import one_input_of

# PyTorch's kernel rounds numbers below 1/64 coarsely; a power of two changes nothing else.
BLOW_UP = 1024.0


@torch.no_grad()
def quantize_int8(model: Any) -> Any:
    """Make a copy of `model` for generation, with 8-bit weights in its linear layers.

    Embeddings and norms are shared with `model`. The result cannot be trained or saved, and stays
    on its device.

    Raises:
        TypeError: if `model` is not a language model of this library.
    """
    inner = language_model(model)
    quantized = _quantized(inner)
    quantized.cfg = replace(inner.cfg, tie_weights=False)
    return quantized.eval()


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights: (..., C_in) -> (..., C_out), in the type of its input.

    Args:
        linears: the float layer, which is unchanged; or several that read the same input, whose
            outputs are concatenated.
        precise: whether inputs are rounded to 16 bits, for inputs with outliers.

    Attributes:
        by_rows: just the product of rows in float32, (N, C_in) -> (N, C_out).
    """

    def __init__(self, *linears: nn.Linear, precise: bool = False) -> None:
        super().__init__()
        self.in_features = linears[0].in_features
        self.out_features = sum(linear.out_features for linear in linears)
        weight = torch.cat([linear.weight.detach() for linear in linears]).float()  # (C_out, C_in)
        scales = weight.abs().amax(dim=1).clamp(min=1e-20) / 127  # (C_out,)
        integers = (weight / scales[:, None]).round_().to(torch.int8)
        biases = [_bias_of(linear) for linear in linears]
        make = _precise_product if precise else _dynamic_product
        make = make if _has_dynamic_kernel(weight.device) else _weight_only_product
        self.by_rows: Product = make(integers, scales, torch.cat(biases))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each vector by the weights: (..., C_in) -> (..., C_out)."""
        rows = x.reshape(-1, self.in_features).float()  # (N, C_in)
        return self.by_rows(rows).to(x.dtype).view(*x.shape[:-1], self.out_features)


class Int8Part(nn.Module):
    """One of the layers that an `Int8Linear` computes at once: (..., C_in) -> (..., C_out).

    Args:
        whole: the layer that computes all of them.
        start: this layer's first output in it.
        out_features: C_out.
    """

    def __init__(self, whole: Int8Linear, start: int, out_features: int) -> None:
        super().__init__()
        self.whole, self.start = whole, start
        self.in_features, self.out_features = whole.in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """Compute all of the layers and return this one's: (..., C_in) -> (..., C_out)."""
        return self.whole(x).narrow(-1, self.start, self.out_features)


def _bias_of(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        return torch.zeros(linear.out_features, device=linear.weight.device)
    return linear.bias.detach().float()


def _quantized(part: Any, path: str = "") -> Any:
    """Copy a part with 8-bit linear layers; all other parameters are shared."""
    if isinstance(part, nn.Linear):
        return Int8Linear(part, precise=_has_outliers(path))
    twin = copy.copy(part)
    # Separate dictionaries, so that the two do not share modes, hooks and parts.
    state = {name: copy.copy(x) for name, x in vars(part).items() if isinstance(x, dict)}
    twin.__dict__.update(state)
    for name, inner in part.named_children():
        twin.add_module(name, _quantized(inner, f"{path}.{name}"))
    together = one_input_of(part)
    layers = [getattr(part, name) for name in together]
    if layers and all(isinstance(layer, nn.Linear) for layer in layers):
        whole, start = Int8Linear(*layers, precise=_has_outliers(f"{path}.{together[0]}")), 0
        for name, layer in zip(together, layers, strict=True):
            twin.add_module(name, Int8Part(whole, start, layer.out_features))
            start += layer.out_features
    return twin


def _has_outliers(path: str) -> bool:
    """Return whether a layer's inputs spread too widely for the processor's bits.

    With 8 bits everywhere, SmolLM2's perplexity grows by 0.5 % from each of the layers named here,
    by 0.1 % from the others; with the 7 that older processors have, by four times as much.
    """
    return _saturates() or path.endswith((".ff.fc3", ".ff.layers.2", "out_head"))


def _dynamic_product(integers: Tensor, scales: Tensor, bias: Tensor) -> Product:
    """Return the product of 8 by 8 bits, in which each token is rounded by its own range.

    A row x is rounded to q = round(x / step) + zero, integers from 0 to `most`, with
    step = (high - low) / most over a range that contains 0. Then W x = step * (W q - zero * W 1).
    The kernel treats its whole input as one row, so several rows are rounded here and passed as
    q / most, which the kernel keeps exactly.
    """
    packed = _pack(integers, scales / BLOW_UP, bias)
    without_bias = _pack(integers, scales, None)
    row_sums = integers.sum(dim=1) * scales  # (C_out,)
    reduce_range = _saturates()
    most = 127 if reduce_range else 255
    multiply = torch.ops.quantized.linear_dynamic.default

    def product(x: Tensor) -> Tensor:
        if len(x) == 1:
            return multiply(x * BLOW_UP, packed, reduce_range)
        low, high = torch.aminmax(x, dim=1, keepdim=True)  # (N, 1)
        low = low.clamp_(max=0)
        step = high.clamp_(min=0).sub_(low).div_(most).clamp_(min=1e-20)
        zero = (low / -step).round_()
        whole = (x / step).round_().add_(zero).clamp_(0, most).div_(most)
        made = multiply(whole, without_bias, reduce_range)  # W q / most
        return torch.addcmul(bias, made, step * most).addcmul_(zero * step, row_sums, value=-1)

    return product


def _precise_product(integers: Tensor, scales: Tensor, bias: Tensor) -> Product:
    """Return the product of 8 by 16 bits: each token as integers and remainders, in one product.

    With m the x furthest from 0, v = most / 2 * (1 + x / m) is between 0 and `most`. Its integer
    part, and the remainder times `most`, go through the kernel as two rows, so that it reads the
    weights once. v of m itself is `most`, so the kernel rescales neither.
    """
    reduce_range = _saturates()
    most = 127 if reduce_range else 255
    # Both rows get it, the second divided by `most`: together they subtract W times most / 2.
    packed = _pack(integers, scales, integers.sum(dim=1) * scales * (-most / 2 / (1 + 1 / most)))
    half = torch.full((1, integers.shape[1]), most / 2)
    multiply = torch.ops.quantized.linear_dynamic.default
    has_bias = bool(bias.any())

    def product(x: Tensor) -> Tensor:
        low, high = torch.aminmax(x, dim=1, keepdim=True)  # (N, 1)
        if len(x) == 1:  # plain numbers are cheaper to compute with
            furthest: Any = max(low.item(), high.item(), key=abs) or 1.0
            value = torch.add(half, x, alpha=most / 2 / furthest)  # (1, C_in)
        else:
            furthest = torch.where(high >= -low, high, low)
            furthest = torch.where(furthest == 0, 1.0, furthest)
            value = torch.addcdiv(half, x, furthest, value=most / 2)  # (N, C_in)
        rest = value.frac()
        both = torch.cat([value - rest, rest * most])  # (2N, C_in)
        whole, parts = multiply(both, packed, reduce_range).chunk(2)
        made = torch.add(whole, parts, alpha=1 / most).mul_(furthest * (2 / most))  # (N, C_out)
        return made.add_(bias) if has_bias else made

    return product


def _weight_only_product(integers: Tensor, scales: Tensor, bias: Tensor) -> Product:
    """Return the product of float by 8 bits, on any device: weights become bfloat16 inside it."""
    scales16 = scales.bfloat16()
    if _has_weight_only_kernel(integers.device):
        return lambda x: torch._weight_int8pack_mm(x.bfloat16(), integers, scales16).float() + bias
    return lambda x: torch.addmm(bias, x, (integers * scales[:, None]).t())


def _pack(integers: Tensor, scales: Tensor, bias: Tensor | None = None) -> torch.ScriptObject:
    zero_points = torch.zeros(len(scales), dtype=torch.int64)
    with warnings.catch_warnings():  # deprecated; `_has_dynamic_kernel` checks that they work
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
        weight = torch._make_per_channel_quantized_tensor(integers, scales.double(), zero_points, 0)
        return torch.ops.quantized.linear_prepack(weight, bias)


@cache
def _has_dynamic_kernel(device: torch.device) -> bool:
    """Return whether this PyTorch multiplies 8-bit numbers on this device, and correctly."""
    if device.type != "cpu":
        return False
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(-127, 128, (24, 64), generator=generator).to(torch.int8)
    scales, bias = torch.rand(24, generator=generator) / 100, torch.rand(24, generator=generator)
    x = torch.randn(3, 64, generator=generator)
    expected = x @ (integers * scales[:, None]).t() + bias
    try:
        found = _dynamic_product(integers, scales, bias)(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((found - expected).norm() < 0.03 * expected.norm())


@cache
def _has_weight_only_kernel(device: torch.device) -> bool:
    integers, scales = torch.ones(32, 32, dtype=torch.int8), torch.ones(32, dtype=torch.bfloat16)
    x = torch.ones(1, 32, dtype=torch.bfloat16, device=device)
    try:
        found = torch._weight_int8pack_mm(x, integers.to(device), scales.to(device))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((found == 32).all())


@cache
def _saturates() -> bool:
    """Return whether two 8-bit products overflow the 16 bits in which older processors add."""
    packed = _pack(torch.full((16, 64), 127, dtype=torch.int8), torch.ones(16))
    found = torch.ops.quantized.linear_dynamic(torch.ones(1, 64), packed, False)
    return bool((found - 127 * 64).abs().max() > 64)
