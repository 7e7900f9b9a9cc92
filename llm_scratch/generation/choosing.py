"""The choice of each row's next token, step after step, under one set of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_scratch.checks import check_count, is_number
from llm_scratch.generation.sampling import (
    Generators,
    ban,
    check_generators,
    check_sampling,
    penalize_frequency,
    penalize_presence,
    penalize_repetition,
    sample_next,
)


@dataclass(frozen=True)
class SamplingSettings:
    """The settings for choosing the next token, shared by all calls and checked on creation.

    They apply in this order: penalties, biases, banned ids, top_k, temperature, top_p, min_p.

    Args:
        temperature: 0 is greedy and draws no random number; higher values sample more evenly.
        top_k: only the k most likely tokens can be chosen; None and 0 mean no limit.
        top_p: only the most likely tokens that together reach this probability can be chosen; None
            and 1 mean no limit.
        min_p: only tokens with at least this share of the highest probability can be chosen; None
            and 0 mean no limit.
        repetition_penalty: above 1 makes ids of prompt and continuation less likely.
        presence_penalty: subtracted from the logits of ids that occur in the continuation.
        banned: ids that are never chosen.
        n_vocab: ids from here on are never chosen (a vocabulary padded beyond the tokenizer's).
        frequency_penalty: subtracted from an id's logits once for each occurrence in the
            continuation.
        logit_bias: the numbers to add to the logits of ids; stored as pairs sorted by id.

    Raises:
        ValueError: if a setting is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    banned: Sequence[int] = ()
    n_vocab: int | None = None
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "banned", tuple(int(token_id) for token_id in self.banned))
        check_sampling(self.temperature, self.top_k, self.top_p, self.min_p)
        if not is_number(self.repetition_penalty, 0) or self.repetition_penalty == 0:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty} must be above 0 and finite; "
                "1 changes nothing"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not is_number(value := getattr(self, name)):
                raise ValueError(f"{name}={value} must be finite")
        object.__setattr__(self, "logit_bias", _sorted_pairs(self.logit_bias))
        if self.n_vocab is not None:
            check_count("n_vocab", self.n_vocab)

    def banned_ids(self, vocab_size: int, device: torch.device) -> Tensor | None:
        """Return which ids must not be chosen: (V,) booleans, or None if all may.

        Raises:
            ValueError: if a banned id is not an id of the model, or no id is left.
        """
        _check_ids("banned id", self.banned, vocab_size)
        mask = torch.zeros(vocab_size, dtype=torch.bool)
        mask[list(self.banned)] = True
        mask[self.n_vocab or vocab_size :] = True
        if bool(mask.all()):
            raise ValueError(f"all {vocab_size} ids are banned; leave at least one")
        return mask.to(device) if bool(mask.any()) else None

    def biases(self, vocab_size: int, device: torch.device) -> Tensor | None:
        """Return the numbers to add to the logits: (V,), or None if there are none.

        Raises:
            ValueError: if an id with a bias is not an id of the model.
        """
        pairs = dict(self.logit_bias)
        if not pairs:
            return None
        _check_ids("logit_bias id", list(pairs), vocab_size)
        added = torch.zeros(vocab_size)
        added[list(pairs)] = torch.tensor(list(pairs.values()))
        return added.to(device)


def _check_ids(what: str, ids: Sequence[int], vocab_size: int) -> None:
    if wrong := [i for i in ids if not 0 <= i < vocab_size]:
        raise ValueError(
            f"{what} {wrong[0]} is not in the model's vocabulary, 0 to {vocab_size - 1}"
        )


def _sorted_pairs(
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]],
) -> tuple[tuple[int, float], ...]:
    """Return biases in a form that can be compared and hashed."""
    pairs = dict(logit_bias)
    for token_id, bias in pairs.items():
        check_count("a logit_bias id", token_id, 0)
        if not is_number(bias):
            raise ValueError(f"the logit_bias of id {token_id} is {bias}; it must be finite")
    return tuple(sorted((int(token_id), float(bias)) for token_id, bias in pairs.items()))


GREEDY = SamplingSettings()
"""The settings that always choose the most likely token."""


class TokenChooser:
    """A chooser of each row's next token, with the state that the penalties need.

    Args:
        settings: how to choose.
        prompt: (B, T) ids.
        prompt_mask: (B, T), False where an id of the prompt is padding; None means nowhere.
        generator: one, or one per row; None means PyTorch's global generator.

    Raises:
        ValueError: if the number of generators is not the number of rows.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        prompt: Tensor,
        prompt_mask: Tensor | None = None,
        generator: Generators = None,
    ) -> None:
        check_generators(generator, len(prompt))
        self._settings = settings
        self._generator = generator
        self._prompt = prompt
        self._prompt_mask = prompt_mask
        self._steps = 0
        self._banned: Tensor | None = None
        self._biases: Tensor | None = None
        self._seen: Tensor | None = None  # (B, V)
        self._counts: Tensor | None = None  # (B, V), of the continuation

    def choose(self, logits: Tensor) -> Tensor:
        """Choose the next id of each row: (B, V) logits -> (B, 1).

        Raises:
            ValueError: if a row's logits hold NaN; the message names the step and the row.
        """
        if self._steps == 0:
            self._prepare(logits)
        self._steps += 1
        self._check_numbers(logits)
        settings = self._settings
        if self._seen is not None:
            logits = penalize_repetition(logits, self._seen, settings.repetition_penalty)
        if self._counts is not None:
            logits = penalize_presence(logits, self._counts > 0, settings.presence_penalty)
            logits = penalize_frequency(logits, self._counts, settings.frequency_penalty)
        if self._biases is not None:
            logits = logits + self._biases
        if self._banned is not None:
            logits = ban(logits, self._banned)
        chosen = sample_next(
            logits,
            settings.temperature,
            settings.top_k,
            self._generator,
            top_p=settings.top_p,
            min_p=settings.min_p,
        )
        if self._seen is not None:
            self._seen.scatter_(1, chosen, True)
        if self._counts is not None:
            self._counts.scatter_add_(1, chosen, torch.ones_like(chosen))
        return chosen

    def _prepare(self, logits: Tensor) -> None:
        """Allocate the tensors that depend on V, which is known only from the logits."""
        self._banned = self._settings.banned_ids(logits.shape[-1], logits.device)
        self._biases = self._settings.biases(logits.shape[-1], logits.device)
        if self._settings.presence_penalty != 0 or self._settings.frequency_penalty != 0:
            self._counts = torch.zeros_like(logits, dtype=torch.int64)
        if self._settings.repetition_penalty != 1:
            ids = self._prompt
            if self._prompt_mask is not None:  # padding counts as the row's last id
                ids = torch.where(self._prompt_mask, ids, ids[:, -1:])
            self._seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)

    def _check_numbers(self, logits: Tensor) -> None:
        wrong = logits.sum(dim=-1).isnan()
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"the logits of step {self._steps} are NaN or infinite in row {row}; were the "
                "weights damaged in training?"
            )
