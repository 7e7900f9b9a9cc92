"""Names that two parts of the book share, and how to tell which of the two a reader wrote.

`calc_loss_batch`, `calc_loss_loader` and `evaluate_model` take one target per token in chapter 5,
and one label per row in chapter 6. A function belongs to the other chapter if it runs on that
chapter's batch and fails on this one's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck.compare import randn
from llm_scratch.selfcheck.foreign import attempt
from llm_scratch.selfcheck.outcome import WaitsError

Other = Callable[[str, Any], str]
Batch = tuple[Tensor, Tensor]
CPU = torch.device("cpu")
IDS = torch.tensor([[0, 1, 2], [3, 4, 0]])
BATCHES: dict[int, Batch] = {
    5: (IDS, torch.tensor([[1, 2, 3], [4, 0, 1]])),
    6: (IDS, torch.tensor([1, 0])),
}


class Table(nn.Module):
    """A model whose scores depend only on the token: (B, T) -> (B, T, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(randn(5, 5))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the scores."""
        return self.scores[ids]


CALLS: dict[str, Callable[[Any, Batch], Any]] = {
    "calc_loss_batch": lambda function, batch: function(*batch, Table(), CPU),
    "calc_loss_loader": lambda function, batch: function([batch], Table(), CPU),
    "evaluate_model": lambda function, batch: function(Table(), [batch], [batch], CPU, 1),
}


def other_than(chapter: int) -> dict[str, Other]:
    """Return, for each shared name, a function that says why an object is not this chapter's."""
    return dict.fromkeys(CALLS, partial(_other_form, chapter))


def _other_form(chapter: int, name: str, function: Any) -> str:
    there = 11 - chapter
    if not _takes(name, function, BATCHES[there]) or _takes(name, function, BATCHES[chapter]):
        return ""
    return f"not written yet (this {name} belongs to chapter {there})"


def _takes(name: str, function: Any, batch: Batch) -> bool:
    return attempt(lambda: CALLS[name](function, batch)) is None


def with_its_loss(chapter: int, run: Callable[[Any], object], function: Any) -> None:
    """Run a check of a training function, which may find the other chapter's `calc_loss_batch`.

    In a notebook with both chapters, it finds the one defined last.

    Raises:
        WaitsError: if the check fails for this reason.
    """
    error = attempt(partial(run, function))
    if error is None:
        return
    loss = getattr(function, "__globals__", {}).get("calc_loss_batch")
    if loss is not None and _other_form(chapter, "calc_loss_batch", loss):
        there = f"that of chapter {11 - chapter}"
        raise WaitsError(f"waits for calc_loss_batch; the one that it finds is {there}")
    raise error


PAIRS = [{"prompt": [1, 2], "chosen": [1, 2, 3, 4, 5, 6], "rejected": [1, 2, 3, 4, 7]}]


def collates_pairs(function: Any) -> bool:
    """Return whether a collate function is the one for pairs of answers, not that of 7.3."""
    try:
        if "mask_prompt_tokens" in inspect.signature(function).parameters:
            return True
    except (TypeError, ValueError):
        pass
    results: list[Any] = []
    error = attempt(lambda: results.append(function([dict(pair) for pair in PAIRS])))
    return error is None and isinstance(results[0], Mapping)


def other_than_rows(name: str, function: Any) -> str:
    """Return why a collate function is not that of 7.3, "" if it is."""
    return f"not written yet (this {name} is for pairs of answers)" * collates_pairs(function)


def other_than_pairs(name: str, function: Any) -> str:
    """Return why a collate function is not the one for pairs, "" if it is."""
    if name != "custom_collate_fn" or collates_pairs(function):
        return ""
    return f"not written yet (this {name} is that of 7.3)"
