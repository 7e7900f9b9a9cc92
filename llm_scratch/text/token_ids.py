"""Token ids as one flat array: packing, checks, and splits into parts or inputs and targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_token_array(token_ids: Any) -> np.ndarray:
    """Return ids as an array (n,): an array or a tensor unchanged, a list in a small type.

    Raises:
        ValueError: if they are not one flat row.
        TypeError: if they are not integers.
    """
    if isinstance(token_ids, Tensor):
        array = token_ids.detach().cpu().numpy()  # shares the tensor's memory
    elif isinstance(token_ids, np.ndarray):
        array = token_ids
    else:
        array = np.array(token_ids) if len(token_ids) else np.empty(0, np.uint16)
        if array.size and array.dtype.kind in "iu" and array.min() >= 0:
            highest = int(array.max())
            fitting = np.uint16 if highest < 1 << 16 else np.min_scalar_type(-1 - highest)  # signed
            array = array.astype(fitting, copy=False)
    if array.ndim != 1:
        raise ValueError(f"token ids must be one flat row, got shape {array.shape}; flatten them")
    if array.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {array.dtype}")
    return array


def check_ids(array: np.ndarray, vocab_size: int | None) -> None:
    """Refuse ids that no embedding has; a mapped file is read only if `vocab_size` is given.

    Raises:
        ValueError: naming the id.
    """
    if array.dtype.kind == "i" and not (vocab_size is None and isinstance(array, np.memmap)):
        if (lowest := int(array.min())) < 0:
            hint = f"token ids must be 0 or more, got {lowest}"
            raise ValueError(hint if vocab_size is None else outside(lowest, vocab_size))
    if vocab_size is not None and (highest := int(array.max())) >= vocab_size:
        raise ValueError(outside(highest, vocab_size))


def outside(found: int, vocab_size: int) -> str:
    """Return the message for an id outside the vocabulary."""
    return (
        f"token id {found} is outside a vocabulary of {vocab_size} (0 to {vocab_size - 1}); "
        "were the ids made with another tokenizer?"
    )


def inputs_and_targets(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Split rows of ids into inputs and next tokens: (..., T + 1) -> twice (..., T) int64.

    Both are copies, so masking an input in place changes neither the target nor the corpus.
    """
    return (
        torch.from_numpy(rows[..., :-1].astype(np.int64)),
        torch.from_numpy(rows[..., 1:].astype(np.int64)),
    )


def cut_at(length: int, train_frac: float) -> int:
    """Return the end of the training part of `length` items.

    Raises:
        ValueError: if the share is not between 0 and 1.
    """
    if not 0 < train_frac < 1:
        raise ValueError(f"{train_frac=} must be between 0 and 1, without the ends")
    return int(train_frac * length)


def check_parts(
    cut: int, n_tokens: int, train_frac: float, least: int, needs: str, way_out: str
) -> None:
    """Make sure that both parts are long enough.

    Raises:
        ValueError: naming the part, what it `needs`, and the `way_out` besides another share.
    """
    parts = (("training", cut, "raise"), ("validation", n_tokens - cut, "lower"))
    for part, found, change in parts:
        if found < least:
            raise ValueError(
                f"the {part} part has {found} of {n_tokens} tokens, needs {needs}; "
                f"{change} {train_frac=}{way_out}"
            )
