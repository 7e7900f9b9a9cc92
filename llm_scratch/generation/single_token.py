"""One token per row through a plain model without calling its modules, at memory speed.

To generate one token for one row, every weight is read once and used once: matrix times vector.
What counts is how fast memory delivers the weights, and that nothing else takes time: calling
twelve layers of modules takes about a tenth of the time of GPT-2 124M's products.

The weights stay in place, shared with the model and trainable; nothing is copied or left behind.
The particulars of each family are in `flat_gpt` and `flat_llama`.

Shape letters: B batch, C emb_dim, S tokens read before, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.generation import flat_gpt, flat_llama
from llm_scratch.generation.flat_places import Place
from llm_scratch.generation.quantized import Int8Linear, Int8Part
from llm_scratch.model.attention import check_length
from llm_scratch.model.cache import KVCache
from llm_scratch.model.decoder import added_to_scores, placed
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.linear import Linear, product_of
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.wrappers import device_of, has_hooks

LINEAR = (nn.Linear, Linear, Int8Linear, Int8Part)
FAMILIES: dict[type, Any] = {GPTModel: flat_gpt, LlamaModel: flat_llama}


class FlatModel:
    """A plain model for one token per row; use `FlatModel.of`, which checks that it is plain.

    Args:
        model: the model, in evaluation mode.
        rows: B.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self._model, self._family = model, FAMILIES[type(model)]
        self._blocks = self._family.flat_blocks(model, rows)
        self._final_norm = self._family.norm_of(model.final_norm, rows)
        self._head = product_of(model.out_head, rows)
        cfg = model.cfg
        windows = [
            cfg.window_of(n) if "sliding_window" in cfg else None for n in range(cfg.n_layers)
        ]
        self._windows = windows

    @classmethod
    def of(cls, model: Any, rows: int) -> FlatModel | None:
        """Return the flat form of a model, or None if its modules would do anything else."""
        device = device_of(model)
        if torch.is_autocast_enabled(device.type) or not is_plain(model):
            return None
        return cls(model, rows)

    def __call__(
        self, ids: Tensor, cache: KVCache | Sequence[KVCache], mask: Tensor | None = None
    ) -> Tensor:
        """Read one token of each row: (B, 1) ids -> (B, V) logits, as the model would.

        Args:
            ids: (B, 1).
            cache: the cache of the S tokens before, to which this one is added. Or one cache per
                row, which may hold different numbers of tokens.
            mask: (B, S + 1) booleans, False where a token is padding; only for a shared cache.

        Raises:
            ValueError: if a cache is full, or is made for another number of rows.
        """
        caches = [cache] if isinstance(cache, KVCache) else list(cache)
        if len(caches) == 1:
            seen, where = placed(self._model, ids, caches[0], mask, None)
        else:
            seen, where = None, self._places_of(ids, caches)
        x, rope = self._family.start(self._model, ids, where)
        if seen is not None:  # once, or every block would convert the booleans
            seen = added_to_scores(seen, self._model.tok_emb.weight.dtype)
        places = zip(*(self._layer_places(each, seen) for each in caches), strict=True)
        for block, own in zip(self._blocks, places, strict=True):
            x = block(x, own, rope)
        for each in caches:
            each.advance(1)
        return self._head(self._final_norm(x)).view(len(ids), -1)

    def _places_of(self, ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """Check that rows with their own caches fit; return their positions: (B, 1)."""
        if len(ids) != len(caches):
            raise ValueError(f"{len(ids)} rows and {len(caches)} caches; give one, or one per row")
        for each in caches:
            check_length(each.length + 1, self._model.cfg.context_length)
            each.check_room(1, 1)
        return torch.tensor([[each.length] for each in caches], device=ids.device)

    def _layer_places(self, cache: KVCache, mask: Tensor | None) -> Iterator[Place]:
        """Yield, for each block, the place of a cache's next token and what it attends to."""
        held = cache.length + 1
        for place, window in zip(cache.next_places(), self._windows, strict=True):
            if window is None or held <= window:
                yield *place, mask
            else:
                yield _last(window, place, mask)


def _last(window: int, place: tuple[Tensor, ...], mask: Tensor | None) -> Place:
    """Return a place that reads only the last keys and values, those in a window."""
    keys_place, values_place, keys, values = place
    start = keys.shape[2] - window
    keys, values = (part.narrow(2, start, window) for part in (keys, values))
    return keys_place, values_place, keys, values, None if mask is None else mask[..., start:]


def is_plain(model: Any) -> bool:
    """Return whether all layers are of plain classes, without hooks, of one type, on one device."""
    # Private: if a later version lacks it, modules are called, which is always correct.
    watched = getattr(torch.nn.modules.module, "_has_any_global_hook", lambda: True)
    if watched() or type(model) not in FAMILIES:
        return False
    if not all(type(part) in kinds and not has_hooks(part) for part, kinds in _expected(model)):
        return False
    parameters = list(model.parameters())
    embeddings = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    heads = {(block.att.num_heads, block.att.head_dim) for block in model.trf_blocks}
    return (
        all(embedding.max_norm is None for embedding in embeddings)
        and len({(p.device, p.dtype) for p in parameters}) == 1
        and all(type(p) is nn.Parameter for p in parameters)
        and len(heads) == 1
    )


def _expected(model: Any) -> Iterator[tuple[nn.Module, tuple[type, ...]]]:
    """Yield every part of a model with the classes that are computed here."""
    yield from FAMILIES[type(model)].expected_classes(model, LINEAR)
    yield model.tok_emb, (nn.Embedding,)
    yield model.trf_blocks, (nn.Sequential,)
    yield model.out_head, LINEAR
