"""The checks of chapter 7's bonus material: pairs of answers, their batches, and the DPO loss.

The checks of functions that run models are in `chapter7_preference_training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter7_preference_training import MODEL_CHECKS
from llm_scratch.selfcheck.chapter7_texts import (
    SECTION,
    Characters,
    dpo_loss,
    mean_logprobs,
    must_be_numbers,
    must_hold,
    text_of_item,
)
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_equal, randint, randn
from llm_scratch.selfcheck.forms import other_than_pairs
from llm_scratch.selfcheck.outcome import Check, MistakeError

PAIRS = [
    {
        "instruction": "Thank the guest.",
        "input": "He brought a cake.",
        "output": "Thanks.",
        "chosen": "How kind of you!",
        "rejected": "You are late.",
    },
    {
        "instruction": "Greet the class.",
        "input": "",
        "output": "Hello.",
        "chosen": "Good morning, all.",
        "rejected": "Sit down.",
    },
]
KEYS = ("prompt", "chosen", "rejected")


def _must_have_keys(came: Any, keys: tuple[str, ...]) -> None:
    must(isinstance(came, Mapping), f"a dict of {', '.join(keys)}", type(came).__name__)
    missing = [key for key in keys if key not in came]
    must(not missing, f"the keys {', '.join(keys)}", f"only {', '.join(map(str, came))}")


def _gives_both_texts(cls: Any) -> None:
    data = call("PreferenceDataset", cls, (PAIRS, Characters()), "(data, tokenizer)")
    must(len(data) == len(PAIRS), f"{len(PAIRS)} items", f"{len(data)}", hints.ROWS_COUNTED)
    for index, entry in enumerate(PAIRS):
        _must_have_keys(data[index], KEYS)
        prompt, chosen, rejected = (text_of_item(data[index][key]) for key in KEYS)
        must(chosen != rejected, "two texts that differ", "the same text twice", hints.PAIR_ALIKE)
        must_hold(prompt, [entry["instruction"], entry["input"]], hints.PROMPT_MISSING)
        swapped = entry["rejected"] in chosen and entry["chosen"] in rejected
        hint = hints.PAIR_SWAPPED if swapped else hints.PAIR_TEXTS
        must_hold(chosen, [entry["instruction"], entry["input"], entry["chosen"]], hint)
        must_hold(rejected, [entry["instruction"], entry["input"], entry["rejected"]], hint)
        for answer in ("chosen", "rejected"):
            given = entry[answer] in prompt
            must(not given, "a prompt without the answers", repr(prompt), hints.ANSWER_GIVEN_AWAY)


PAD = 50256
HEADING = 2  # ids between the prompt and an answer; they may count or not
ITEMS = (
    {"prompt": [1, 2, 3], "chosen": [1, 2, 3, 9, 9, 4, 5, 6], "rejected": [1, 2, 3, 9, 9, 7]},
    {"prompt": [1, 2], "chosen": [1, 2, 9, 9, 8], "rejected": [1, 2, 9, 9, 6, 5, 4]},
)
LONGEST = 8
COLLATE = (
    "(batch, pad_token_id=50256, allowed_max_length=None, mask_prompt_tokens=True, device='cpu')"
)


def _collated(function: Any, *args: Any) -> Mapping[str, Any]:
    batch = [{key: list(ids) for key, ids in item.items()} for item in ITEMS]
    came = call("preference_collate", function, (batch, *args), COLLATE)
    _must_have_keys(came, (*KEYS, "chosen_mask", "rejected_mask"))
    result: Mapping[str, Any] = came
    return result


def _pads_pairs(function: Any) -> None:
    came = _collated(function)
    widths = {tuple(came[key].shape) for key in KEYS[1:]}
    fits = widths in ({(2, LONGEST)}, {(2, LONGEST + 1)})
    must(fits, f"chosen and rejected of shape (2, {LONGEST})", f"{widths}", hints.PADDED_LENGTH)
    for key in KEYS[1:]:
        width = came[key].shape[1]
        expected = [item[key] + [PAD] * (width - len(item[key])) for item in ITEMS]
        must_equal(came[key], torch.tensor(expected), hint=hints.PADDING_IDS)


def _must_mask(came: Mapping[str, Any], prompt_counts: bool) -> None:
    for key in KEYS[1:]:
        masks, width = came[f"{key}_mask"].bool(), came[key].shape[1]
        must(masks.shape[1] == width, "a mask as long as its text", f"{masks.shape}", hints.SHAPE)
        for mask, item in zip(masks.tolist(), ITEMS, strict=True):
            start, end = len(item["prompt"]), min(len(item[key]), width)
            parts = mask[:start], mask[start + HEADING : end], mask[end:]
            must(not any(parts[2]), "padding that does not count", f"{mask}", hints.PADDING_COUNTED)
            must(all(parts[1]), "an answer that counts", f"{mask}", hints.ANSWER_MASKED)
            if prompt_counts:
                must(all(parts[0]), "a prompt that counts", f"{mask}", hints.PROMPT_LEFT_OUT)
            else:
                must(not any(parts[0]), "a prompt that does not", f"{mask}", hints.PROMPT_COUNTED)


def _masks_the_prompt(function: Any) -> None:
    _must_mask(_collated(function), prompt_counts=False)


def _counts_the_prompt(function: Any) -> None:
    _must_mask(_collated(function, PAD, None, False), prompt_counts=True)


def _cuts_pairs(function: Any) -> None:
    came = _collated(function, PAD, 6)
    for key in KEYS[1:]:
        expected = [(item[key] + [PAD] * LONGEST)[:6] for item in ITEMS]
        must(came[key].shape[1] == 6, "6 ids per row", f"{came[key].shape[1]}", hints.TRUNCATION)
        must_equal(came[key], torch.tensor(expected), hint=hints.TRUNCATION)
    _must_mask(came, prompt_counts=False)


LOGPROBS = "(logits, labels, selection_mask=None)"
LABELS = randint(7, 2, 5)
MASK = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]).bool()


def _picked(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _averages_tokens(function: Any) -> None:
    logits = randn(2, 5, 7)
    came = call("compute_logprobs", function, (logits.clone(), LABELS.clone()), LOGPROBS)
    right = _picked(logits[:, :-1], LABELS[:, 1:])
    mistakes: Mistakes = {
        hints.LOGPROB_NOT_SHIFTED: [
            _picked(logits, LABELS).mean(-1),
            _picked(logits[:, 1:], LABELS[:, 1:]).mean(-1),
            _picked(logits[:, 1:], LABELS[:, :-1]).mean(-1),
        ],
        hints.LOGPROB_SIGN: [-right.mean(-1), -right.sum(-1)],
        hints.LOGPROB_SUM: right.sum(-1),
    }
    must_equal(came, mean_logprobs(logits, LABELS), mistakes, hints.LOGPROB_NOT_SHIFTED)


def _averages_what_counts(function: Any) -> None:
    logits = randn(2, 5, 7)
    came = function(logits.clone(), LABELS.clone(), MASK.clone())
    picked, mask = _picked(logits[:, :-1], LABELS[:, 1:]), MASK[:, 1:]
    early = MASK[:, :-1]
    mistakes: Mistakes = {
        hints.MASK_IGNORED: picked.mean(-1),
        hints.MASK_NOT_SHIFTED: (picked * early).sum(-1) / early.sum(-1),
        hints.MASK_DIVISOR: [(picked * mask).mean(-1), (picked * mask).sum(-1) / 5],
        hints.LOGPROB_SUM: (picked * mask).sum(-1),
    }
    must_equal(came, mean_logprobs(logits, LABELS, MASK), mistakes, hints.MASK_IGNORED)


DPO = (
    "(model_chosen_logprobs, model_rejected_logprobs, reference_chosen_logprobs, "
    "reference_rejected_logprobs, beta=0.1)"
)
# The log-probabilities of three pairs: the model's, then the reference's.
FOUR = tuple(
    torch.tensor(values)
    for values in ([-1.0, -2.0, -0.5], [-3.0, -1.0, -1.5], [-1.5, -2.5, -0.7], [-2.0, -1.3, -3.0])
)


def _loss_follows_the_formula(function: Any) -> None:
    for args in ((0.5,), ()):
        every = (*(values.clone() for values in FOUR), *args)
        came = must_be_numbers(call("compute_dpo_loss", function, every, DPO))
        beta = args[0] if args else 0.1
        must_equal(
            came[0], dpo_loss(FOUR[:2], FOUR[2:], beta)[0], _loss_mistakes(beta), hints.DPO_SIGMOID
        )


def _loss_mistakes(beta: float) -> Mistakes:
    chosen, rejected = FOUR[0] - FOUR[2], FOUR[1] - FOUR[3]
    gap = chosen - rejected
    losses = -F.logsigmoid(beta * gap)
    return {
        hints.DPO_SIGN: [-F.logsigmoid(-beta * gap).mean(), -losses.mean()],
        hints.DPO_BETA: [
            -F.logsigmoid(gap).mean(),
            -F.logsigmoid(0.1 * gap).mean(),
            -F.logsigmoid(gap / beta).mean(),
            -F.logsigmoid(gap).mean() * beta,
        ],
        hints.DPO_REFERENCE: [
            -F.logsigmoid(beta * (FOUR[0] - FOUR[1])).mean(),
            -F.logsigmoid(beta * (FOUR[0] - FOUR[1] + FOUR[2] - FOUR[3])).mean(),
        ],
        hints.DPO_SIGMOID: [-torch.sigmoid(beta * gap).mean(), -(beta * gap).mean()],
        hints.DPO_MEAN: losses.sum(),
    }


def _tells_the_rewards(function: Any) -> None:
    beta = 0.5
    came = must_be_numbers(function(*(values.clone() for values in FOUR), beta))[1:]
    expected = dpo_loss(FOUR[:2], FOUR[2:], beta)[1:]
    if torch.allclose(came, beta * expected, atol=1e-5):
        texts = f"{expected.tolist()}", f"{came.tolist()}"
        raise MistakeError(*texts, hints.REWARDS_SCALED, counts=False)
    must_equal(came, expected, {hints.PAIR_SWAPPED: expected.flip(0)}, hints.REWARDS)


NAME, ALSO = "preference_collate", "custom_collate_fn"
COLLATE_ROWS = (
    ("pads both answers to one length", _pads_pairs),
    ("leaves prompt and padding out of the masks", _masks_the_prompt),
    ("counts the prompt when asked to", _counts_the_prompt),
    ("cuts at allowed_max_length", _cuts_pairs),
)
PREFERENCE_CHECKS = (
    Check(SECTION, "PreferenceDataset", "gives the ids of both texts", _gives_both_texts),
    *(
        Check(SECTION, NAME, claim, run, also=ALSO, other=other_than_pairs)
        for claim, run in COLLATE_ROWS
    ),
    Check(SECTION, "compute_logprobs", "averages over the tokens", _averages_tokens),
    Check(SECTION, "compute_logprobs", "averages over counted tokens", _averages_what_counts),
    Check(SECTION, "compute_dpo_loss", "follows the formula", _loss_follows_the_formula),
    Check(SECTION, "compute_dpo_loss", "returns the rewards of both", _tells_the_rewards),
    *MODEL_CHECKS,
)
