"""Rows of any lengths, each with its own cache, read one token at a time; they may come and go.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llm_scratch.generation.reading import decode_one_token
from llm_scratch.generation.single_token import FlatModel
from llm_scratch.model.cache import KVCache
from llm_scratch.model.wrappers import device_of, unwrapped


class RaggedReader:
    """A reader of one token per row, for rows with caches of their own.

    The products of all rows are computed together, which reads the weights once, and each row
    attends to its own cache. The rows may change with every step. The flat form of a plain model is
    made once for each number of rows and kept, so the model must not be changed meanwhile. A model
    that is not plain (LoRA, hooks, experts) is called row by row, with the same logits but without
    the gain in speed.

    Args:
        model: a language model that accepts a cache, in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self._model = unwrapped(model)
        self._forms: dict[int, FlatModel | None] = {}

    @torch.no_grad()
    def next_logits(self, ids: Sequence[int], caches: Sequence[KVCache]) -> Tensor:
        """Read the newest id of each row: B ids -> (B, V), the logits of the token after each.

        Args:
            ids: one id per row.
            caches: one cache per row, of all its earlier tokens; these ids are added.

        Raises:
            ValueError: if a cache is full, or the number of caches is not the number of ids.
        """
        newest = torch.tensor(ids, device=device_of(self._model))[:, None]  # (B, 1)
        if (flat := self._form(len(newest))) is not None:
            return flat(newest, caches)
        rows = zip(newest.split(1), caches, strict=True)
        return torch.cat([decode_one_token(self._model, row, cache) for row, cache in rows])

    def _form(self, rows: int) -> FlatModel | None:
        if rows not in self._forms:
            self._forms[rows] = FlatModel.of(self._model, rows)
        return self._forms[rows]
