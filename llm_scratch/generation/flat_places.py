"""A token's places in the cache, and the keys and values it attends to, for all rows or each.

Shape letters: B rows, H heads, G heads with keys and values, D head_dim, S tokens read before.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

Place = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""A cache in one layer: two tensors (b, G, 1, D) to be written, two (b, G, S + 1, D) to be read,
and a mask (b, 1, 1, S + 1) or None. b is B for a cache that all rows share, 1 for a row's own."""

Rows = tuple[Tensor, ...]
"""Some rows of a step: new keys and values (b, G, 1, D), and queries (b, G, H / G, D)."""


def attend(rows: Sequence[Rows], places: Sequence[Place]) -> list[Tensor]:
    """Add new keys and values to their caches, and return the mixed values for the queries.

    Args:
        rows: all rows together, or one entry per row.
        places: the places in their caches, one per entry.

    Returns:
        (b, G, H / G, D) each.
    """
    found = []
    for (new_keys, new_values, queries), place in zip(rows, places, strict=True):
        keys_place, values_place, keys, values, mask = place
        keys_place.copy_(new_keys)
        values_place.copy_(new_values)
        found.append(F.scaled_dot_product_attention(queries.to(keys.dtype), keys, values, mask))
    return found


def each_row(rows: Rows) -> list[Rows]:
    """Split rows into single ones: B entries with b = 1."""
    return list(zip(*(part.split(1) for part in rows), strict=True))
