"""The model's own log-probabilities of the tokens of a prompt and of an answer.

Shape letters: N positions, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm_scratch.chat.requests import TokenScore


def scores_of(logits: Tensor, ids: Sequence[int], top_logprobs: int | None) -> list[TokenScore]:
    """Return the scores of the ids that follow N positions, before any sampling setting.

    Args:
        logits: (N, V).
        ids: N ids.
        top_logprobs: how many of the likeliest tokens are listed at each place; None is 0.
    """
    logprobs = logits.float().log_softmax(dim=-1)  # (N, V)
    chosen = logprobs.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]  # (N,)
    best, places = logprobs.topk(min(top_logprobs or 0, logprobs.shape[1]), dim=-1)
    tops = zip(places.tolist(), best.tolist(), strict=True)
    pairs = [tuple(zip(*each, strict=True)) for each in tops]
    return [
        TokenScore(token_id, logprob, top)
        for token_id, logprob, top in zip(ids, chosen.tolist(), pairs, strict=True)
    ]
