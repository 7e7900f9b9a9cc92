"""Linear layers of one or a few rows, by the kernel that reads the weights fastest.

A product with few rows reads every weight once and does little with it, so what counts is how much
of the memory's speed a kernel reaches. Which one does hangs on the processor: MKL's product of
matrix and vector comes near the limit on Intel's, and to a third of it on AMD's, where its product
of a matrix with two to four columns comes near.

Shape letters: B rows, C_in inputs, C_out outputs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Product = Callable[[Tensor], Tensor]
COLUMNS = 4  # as many at a time; more are slower together than one after the other
ROWS, WIDTH = 8, 1024  # up to so many rows of so many inputs the columns were faster


def product_of(layer: nn.Module, rows: int) -> Product:
    """A linear layer as a function: (C_in,) -> (C_out,) for one row, else (B, C_in) -> (B, C_out).

    Args:
        layer: an `nn.Linear`, or a layer of another kind, which is called.
        rows: B.
    """
    if not isinstance(layer, nn.Linear):
        return layer.forward
    weight, bias = layer.weight, layer.bias
    if _columns_are_fast(weight, rows):
        return _by_columns(weight, bias, rows)
    if rows > 1 or not _vector_kernel_is_fast(weight.dtype, weight.device):
        return partial(F.linear, weight=weight, bias=bias)
    return weight.mv if bias is None else partial(torch.addmv, bias, weight)


def _by_columns(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    """A linear layer as W x, with each row as a column of x; a single one is there twice."""
    columns = None if bias is None else bias[:, None]  # (C_out, 1)

    def times(x: Tensor) -> Tensor:  # (C_in, n) -> (C_out, n)
        return weight @ x if columns is None else torch.addmm(columns, weight, x)

    if rows == 1:
        twice = weight.new_empty(2, weight.shape[1])
        return lambda x: times(twice.copy_(x).t())[:, 0].contiguous()
    if rows <= COLUMNS:
        return lambda x: times(x.t()).t().contiguous()
    pieces = -(-rows // COLUMNS)
    return lambda x: torch.cat([times(part.t()).t() for part in x.tensor_split(pieces)])


def _columns_are_fast(weight: Tensor, rows: int) -> bool:
    """Whether `_by_columns` beats what PyTorch does: measured for float32, with 2 threads."""
    C_out, C_in = weight.shape
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or C_in > 2 * C_out:
        return False
    return rows <= (ROWS if C_in < WIDTH else COLUMNS) and _is_amd_with_mkl()


@cache
def _is_amd_with_mkl() -> bool:
    if not torch.backends.mkl.is_available():
        return False
    about = platform.processor()  # on Windows it names the maker
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        with listing.open(encoding="utf-8", errors="replace") as file:
            about += next((line for line in file if line.startswith("vendor_id")), "")
    return "AuthenticAMD" in about


@cache
def _vector_kernel_is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether matrix times vector beats a linear layer of one row; in float32 they are equal.

    In bfloat16 it does where linear layers run on Intel's matrix unit, which a single row leaves
    idle (by a third, with GPT-2 124M); where they run on vector instructions it is half as fast.
    """
    if dtype == torch.float32 or device.type != "cpu":
        return True
    has_matrix_unit = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(has_matrix_unit())
