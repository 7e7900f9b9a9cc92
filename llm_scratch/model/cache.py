"""A cache of the keys and values of tokens already read, so that none is read twice (book 4.7).

Shape letters: B batch, H heads, S tokens in the cache, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llm_scratch.checks import check_count


class KVCache:
    """Memory for every layer's keys and values, allocated once: 2 x (B, H, capacity, D) each.

    It is an explicit object, made by `model.new_cache`: `model(ids, cache=cache)` reads the tokens
    in it and adds those of `ids`. The model keeps no state, so two generations never interfere.

    Args:
        n_layers: number of the model's blocks.
        batch: B.
        n_heads: H.
        capacity: maximum number of tokens.
        head_dim: D.
        dtype: type of the keys and values.
        device: device of the keys and values.

    Attributes:
        length: S, the number of tokens held so far.

    Source:
        Pope et al. 2022, arXiv:2211.05102, section 2.1.
    """

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if min(n_layers, batch, n_heads, capacity, head_dim) < 1:
            raise ValueError(f"a cache of {batch=} and {capacity=} has no room for anything")
        shape = (n_layers, 2, batch, n_heads, capacity, head_dim)
        self._store = torch.empty(shape, dtype=dtype, device=device)
        self._layers = [(keys, values) for keys, values in self._store]  # (B, H, capacity, D) each
        self.length = 0

    @property
    def batch(self) -> int:
        """B, the number of rows."""
        return self._store.shape[2]

    @property
    def capacity(self) -> int:
        """The maximum number of tokens."""
        return self._store.shape[4]

    @property
    def num_bytes(self) -> int:
        """The memory of all keys and values, in bytes."""
        return self._store.numel() * self._store.element_size()

    def check_room(self, batch: int, tokens: int) -> None:
        """Refuse rows or tokens that do not fit.

        Raises:
            ValueError: naming both numbers.
        """
        if batch != self.batch:
            raise ValueError(f"{batch} rows do not fit a cache made for {self.batch}")
        if self.length + tokens > self.capacity:
            raise ValueError(
                f"{self.length} + {tokens} tokens do not fit a cache made for {self.capacity}"
            )

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's keys and values, (B, H, T, D) each; return all held: (B, H, S + T, D).

        `length` does not change until `advance`, since every layer adds the same tokens. The stored
        tensors carry no gradient; in the returned ones, the new keys and values keep theirs.
        """
        past, T = self.length, keys.shape[2]
        held_keys, held_values = self._layers[layer]
        if keys.requires_grad or values.requires_grad:
            held_keys.narrow(2, past, T).copy_(keys.detach())
            held_values.narrow(2, past, T).copy_(values.detach())
            return (
                torch.cat([held_keys.narrow(2, 0, past), keys], dim=2),
                torch.cat([held_values.narrow(2, 0, past), values], dim=2),
            )
        held_keys.narrow(2, past, T).copy_(keys)
        held_values.narrow(2, past, T).copy_(values)
        return held_keys.narrow(2, 0, past + T), held_values.narrow(2, 0, past + T)

    def next_places(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return for each layer the next token's places, and the views that include them.

        Two tensors (B, H, 1, D) are to be written, two (B, H, S + 1, D) to be read; none has
        gradients. This does what `update` does, for all layers at once, with a tenth of the calls.
        """
        new = self._store.narrow(4, self.length, 1).flatten(0, 1).unbind(0)
        held = self._store.narrow(4, 0, self.length + 1).flatten(0, 1).unbind(0)
        return list(zip(new[::2], new[1::2], held[::2], held[1::2], strict=True))

    def advance(self, tokens: int) -> None:
        """Count tokens that every layer has added."""
        self.length += tokens

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens; 0 empties the cache.

        Raises:
            ValueError: if fewer tokens are held, or `length` is negative.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} tokens to {length}")
        self.length = length

    def repeat(self, times: int) -> KVCache:
        """Return a new cache with each row repeated `times` times: one prompt, N samples."""
        check_count("times", times)
        n_layers, _, batch, n_heads, capacity, head_dim = self._store.shape
        sizes = n_layers, batch * times, n_heads, capacity, head_dim
        other = KVCache(*sizes, self._store.dtype, self._store.device)
        held = self._store[..., : self.length, :]
        other._store[..., : self.length, :] = held.repeat_interleave(times, dim=2)
        other.length = self.length
        return other

    def with_room(self, capacity: int, length: int | None = None) -> KVCache:
        """Return a new cache with the same tokens, or the first of them, and room for `capacity`.

        Args:
            capacity: maximum number of tokens.
            length: number of tokens to keep; None keeps all.

        Raises:
            ValueError: if fewer tokens are held, or they do not fit.
        """
        length = self.length if length is None else length
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot take {length} of {self.length} tokens")
        if capacity < length:
            raise ValueError(f"{length} tokens do not fit a cache made for {capacity}")
        n_layers, _, batch, n_heads, _, head_dim = self._store.shape
        sizes = n_layers, batch, n_heads, capacity, head_dim
        other = KVCache(*sizes, self._store.dtype, self._store.device)
        other._store[..., :length, :] = self._store[..., :length, :]
        other.length = length
        return other

    def copy(self) -> KVCache:
        """Return a new cache with the same tokens and memory of its own."""
        return self.repeat(1)
