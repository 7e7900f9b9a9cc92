"""Linear layers that use the processor's fastest kernel when no gradient is needed.

A product with few rows reads every weight once and does little with it, so what counts is how much
of the memory bandwidth a kernel reaches. PyTorch's linear layer in float32 is MKL's, which comes
close to the limit on Intel's processors, but only to a third of it on AMD's. There, two others come
close: oneDNN's, which PyTorch also includes, for any number of rows; and MKL's own product of a
matrix with two to four columns.

Shape letters: B rows, C_in inputs, C_out outputs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.together import laid_together, whole_of

Product = Callable[[Tensor], Tensor]
Kernel = Callable[..., Tensor]
COLUMNS, WIDTH = 4, 1024  # for up to 4 rows of fewer than 1024 inputs, columns were faster


class Linear(nn.Linear):
    """A linear layer with the fastest kernel without gradients: (..., C_in) -> (..., C_out)."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply every row with the weights: (..., C_in) -> (..., C_out)."""
        if recorded() or torch.is_grad_enabled() or x.dtype != torch.float32 or not x.numel():
            return super().forward(x)
        rows = x.numel() // x.shape[-1]
        kernel = kernel_for(self.weight, rows)
        if kernel is None or x.shape[-1] != self.in_features:
            return super().forward(x)
        product = kernel(x.reshape(rows, -1), self.weight, self.bias)  # (B, C_out)
        return product.view(*x.shape[:-1], -1)


def product_of(layer: nn.Module, rows: int) -> Product:
    """Return a layer as a function: (C_in,) -> (C_out,) for one row, else (B, C_in) -> (B, C_out).

    Args:
        layer: an `nn.Linear`, or a layer of another kind, which is simply called.
        rows: B.
    """
    if not isinstance(layer, nn.Linear):
        return layer.forward
    return _product(layer.weight, layer.bias, rows)


def product_of_all(layers: Sequence[nn.Module], rows: int) -> Product:
    """Return several layers of one input as a function that concatenates their outputs.

    It computes one product if the layers are parts of one, or their weights are adjacent; otherwise
    one product per layer.

    Args:
        layers: layers as for `product_of`.
        rows: B.
    """
    if (whole := whole_of(layers)) is not None:
        return whole.forward
    if found := laid_together(layers):
        return _product(*found, rows)
    products = [product_of(layer, rows) for layer in layers]
    return lambda x: torch.cat([product(x) for product in products], dim=-1)


def writer_of(layers: Sequence[nn.Module], rows: int, out: Tensor) -> Product:
    """Return `product_of_all` as a function that writes to `out`, which saves allocations.

    Args:
        layers: layers as for `product_of`.
        rows: B.
        out: (sum of C_out,) for one row, else (B, sum of C_out).
    """
    found = laid_together(layers)
    if found is None and len(layers) > 1 and whole_of(layers) is None:
        sizes: list[int] = [layer.out_features for layer in layers]  # type: ignore[misc]
        parts = zip(layers, out.split(sizes, dim=-1), strict=True)
        writers = [writer_of([layer], rows, part) for layer, part in parts]
        return lambda x: [write(x) for write in writers][-1]
    if by_rows := getattr(whole_of(layers) or layers[0], "by_rows", None):
        place = out.view(rows, -1)
        return lambda x: place.copy_(by_rows(x.view(rows, -1).float()))
    if found is None or kernel_for(found[0], rows) is not None:
        product = product_of_all(layers, rows)
        return lambda x: out.copy_(product(x))
    weight, bias = found
    if rows > 1:
        if bias is None:
            return lambda x: torch.mm(x, weight.t(), out=out)
        return lambda x: torch.addmm(bias, x, weight.t(), out=out)
    if not _vector_kernel_is_fast(weight.dtype, weight.device):
        return lambda x: out.copy_(F.linear(x, weight, bias))
    if bias is None:
        return lambda x: torch.mv(weight, x, out=out)
    return lambda x: torch.addmv(bias, weight, x, out=out)


def _product(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    if kernel := kernel_for(weight, rows):
        found = partial(kernel, weight=weight, bias=bias)
        return (lambda x: found(x[None])[0]) if rows == 1 else found
    if rows > 1 or not _vector_kernel_is_fast(weight.dtype, weight.device):
        return partial(F.linear, weight=weight, bias=bias)
    return weight.mv if bias is None else partial(torch.addmv, bias, weight)


def kernel_for(weight: Tensor, rows: int) -> Kernel | None:
    """Return a `kernel(x, weight, bias)` faster than PyTorch's, None if there is none."""
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or not _is_amd_with_mkl():
        return None
    if torch.is_autocast_enabled("cpu") or type(weight) not in (Tensor, nn.Parameter):
        return None
    C_out, C_in = weight.shape
    if rows <= COLUMNS and C_in < WIDTH and C_in <= C_out and weight.is_contiguous():
        return _by_columns
    return _by_onednn if _has_onednn() else None


def _by_columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute W x^T with the rows of x as columns, a single one twice: (B, C_in) -> (B, C_out)."""
    columns = (x if len(x) > 1 else x.expand(2, -1).contiguous()).t()  # (C_in, B)
    product = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return product[:, : len(x)].t().contiguous()


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a linear layer by oneDNN, with weights in either layout: (B, C_in) -> (B, C_out)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def recorded() -> bool:
    """Return whether a model is being exported or compiled, which must work on any machine."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


@cache
def _is_amd_with_mkl() -> bool:
    if not torch.backends.mkl.is_available():
        return False
    about = platform.processor()  # on Windows it names the manufacturer
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        with listing.open(encoding="utf-8", errors="replace") as file:
            about += next((line for line in file if line.startswith("vendor_id")), "")
    return "AuthenticAMD" in about


@cache
def _has_onednn() -> bool:
    """Return whether oneDNN's product works here; compiled models use it, but it is private."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator) for size in ((3, 16), (24, 16)))
    try:
        found = _by_onednn(x, weight, None)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return torch.allclose(found, x @ weight.t(), atol=1e-5)


@cache
def _vector_kernel_is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether matrix times vector beats a linear layer of one row; in float32 it is equal.

    In bfloat16 it is faster if linear layers run on Intel's matrix unit, which a single row leaves
    idle (by a third, with GPT-2 124M); if they run on vector instructions, it is half as fast.
    """
    return dtype == torch.float32 or device.type != "cpu" or has_matrix_units()


def has_matrix_units() -> bool:
    """Return whether the CPU has units for bfloat16 matrices, which make it several times faster.

    PyTorch's kernels for them need its AVX-512 code, which `ATEN_CPU_CAPABILITY` can switch off.
    """
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return bool(wide and asked is not None and asked())
