from __future__ import annotations

import pytest
from planted import Mistake, must_be_caught, must_be_right, results, right_source

from llm_scratch.selfcheck import hints

DATA, COLLATE = ("ch07", "PreferenceDataset"), ("ch07", "preference_collate")
LOGPROBS, LOSS = ("ch07", "compute_logprobs"), ("ch07", "compute_dpo_loss")
BATCH, LOADER = ("ch07", "compute_dpo_loss_batch"), ("ch07", "compute_dpo_loss_loader")
EVALUATE, TRAIN = ("ch07", "evaluate_dpo_loss_loader"), ("ch07", "train_model_dpo_simple")
MINUS_LOG = "-F.logsigmoid(beta * (model_logratios - reference_logratios))"
MASKED = "(selected * mask).sum(-1) / mask.sum(-1)"
FOUR = "policy_chosen, policy_rejected, reference_chosen, reference_rejected"
BEGIN_OF_BATCH = "def compute_dpo_loss_batch(batch, policy_model, reference_model, beta):\n"
# A table with one mistake per row.
# fmt: off
MISTAKES = [
    Mistake("the same answer twice", *DATA, "entry['rejected']", "entry['chosen']",
            hints.PAIR_ALIKE),
    Mistake("answers without the prompt", *DATA, '{prompt}\\n\\n###', "###", hints.PAIR_TEXTS),
    Mistake("answers swapped in the data", *DATA, '"chosen": chosen, "rejected": rejected',
            '"chosen": rejected, "rejected": chosen', hints.PAIR_SWAPPED),
    Mistake("prompt with an answer", *DATA, '"prompt": prompt', '"prompt": chosen',
            hints.ANSWER_GIVEN_AWAY),
    Mistake("prompt empty", *DATA, '"prompt": prompt', '"prompt": ""', hints.PROMPT_MISSING),
    Mistake("one pair too many", *DATA, "len(self.data)", "len(self.data) + 1",
            hints.ROWS_COUNTED),
    Mistake("answers padded apart", *COLLATE, "        rows, masks = [], []\n",
            "        rows, masks = [], []\n        longest = max(len(item[key]) for item in batch)"
            "\n        longest += key == 'chosen'\n", hints.PADDED_LENGTH),
    Mistake("pairs padded with 0", *COLLATE, "[pad_token_id]", "[0]", hints.PADDING_IDS),
    Mistake("prompt counts", *COLLATE, "if mask_prompt_tokens", "if False",
            hints.PROMPT_COUNTED),
    Mistake("prompt never counts", *COLLATE, "if mask_prompt_tokens", "if True",
            hints.PROMPT_LEFT_OUT),
    Mistake("padding counts", *COLLATE, "mask[len(ids) :] = False", "pass",
            hints.PADDING_COUNTED),
    Mistake("answer masked", *COLLATE, "len(prompt) + 2", "len(prompt) + 4",
            hints.ANSWER_MASKED),
    Mistake("mask reversed", *COLLATE, "masks.append(mask[", "masks.append(~mask[",
            hints.PADDING_COUNTED),
    Mistake("pairs not cut", *COLLATE, "row[:allowed_max_length]", "row", hints.TRUNCATION),
    Mistake("scores at the token's own place", *LOGPROBS, "logits[:, :-1, :]", "logits[:, 1:, :]",
            hints.LOGPROB_NOT_SHIFTED),
    Mistake("labels not shifted", *LOGPROBS, "labels[:, 1:]", "labels[:, :-1]",
            hints.LOGPROB_NOT_SHIFTED),
    Mistake("a loss for a log-probability", *LOGPROBS, "return selected.mean(-1)",
            "return -selected.mean(-1)", hints.LOGPROB_SIGN),
    Mistake("sum of log-probabilities", *LOGPROBS, "selected.mean(-1)", "selected.sum(-1)",
            hints.LOGPROB_SUM),
    Mistake("sum of masked log-probabilities", *LOGPROBS, MASKED, "(selected * mask).sum(-1)",
            hints.LOGPROB_SUM),
    Mistake("mask ignored", *LOGPROBS, MASKED, "selected.mean(-1)", hints.MASK_IGNORED),
    Mistake("mask not shifted", *LOGPROBS, "selection_mask[:, 1:]", "selection_mask[:, :-1]",
            hints.MASK_NOT_SHIFTED),
    Mistake("divided by all tokens", *LOGPROBS, MASKED, "(selected * mask).mean(-1)",
            hints.MASK_DIVISOR),
    Mistake("sign of the loss", *LOSS, MINUS_LOG, MINUS_LOG[1:], hints.DPO_SIGN),
    Mistake("rejected minus chosen", *LOSS, "beta *", "-beta *", hints.DPO_SIGN),
    Mistake("beta left out", *LOSS, "beta * (", "(", hints.DPO_BETA),
    Mistake("beta fixed", *LOSS, "beta * (", "0.1 * (", hints.DPO_BETA),
    Mistake("divided by beta", *LOSS, MINUS_LOG,
            "-F.logsigmoid((model_logratios - reference_logratios) / beta)", hints.DPO_BETA),
    Mistake("beta outside", *LOSS, MINUS_LOG,
            "-beta * F.logsigmoid(model_logratios - reference_logratios)", hints.DPO_BETA),
    Mistake("reference left out", *LOSS, " - reference_logratios", "", hints.DPO_REFERENCE),
    Mistake("reference added", *LOSS, "model_logratios - ref", "model_logratios + ref",
            hints.DPO_REFERENCE),
    Mistake("no logarithm", *LOSS, "F.logsigmoid", "torch.sigmoid", hints.DPO_SIGMOID),
    Mistake("no sigmoid", *LOSS, "F.logsigmoid", "", hints.DPO_SIGMOID),
    Mistake("sum of the pairs' losses", *LOSS, "losses.mean()", "losses.sum()", hints.DPO_MEAN),
    Mistake("a loss for each pair", *LOSS, "losses.mean()", "losses", hints.DPO_MEAN),
    Mistake("rewards without the reference", *LOSS, "(model_chosen_logprobs - "
            "reference_chosen_logprobs).detach", "model_chosen_logprobs.detach", hints.REWARDS),
    Mistake("rewards swapped", *LOSS, "chosen_rewards.mean(), rejected_rewards.mean()",
            "rejected_rewards.mean(), chosen_rewards.mean()", hints.PAIR_SWAPPED),
    Mistake("models swapped", *BATCH, FOUR,
            "reference_chosen, reference_rejected, policy_chosen, policy_rejected",
            hints.MODELS_SWAPPED),
    Mistake("answers swapped", *BATCH, FOUR,
            "policy_rejected, policy_chosen, reference_rejected, reference_chosen",
            hints.PAIR_SWAPPED),
    Mistake("beta not passed on", *BATCH, "reference_rejected, beta\n", "reference_rejected\n",
            hints.DPO_BETA),
    Mistake("masks not passed on", *BATCH, BEGIN_OF_BATCH, BEGIN_OF_BATCH
            + "    batch = dict(batch, chosen_mask=None, rejected_mask=None)\n",
            hints.MASK_IGNORED),
    Mistake("policy as its own reference", *BATCH, "= compute_logprobs(\n            reference_",
            "= compute_logprobs(\n            policy_", hints.DPO_REFERENCE),
    Mistake("no graph for the policy", *BATCH, BEGIN_OF_BATCH, "@torch.no_grad()\n"
            + BEGIN_OF_BATCH, hints.GRADIENT),
    Mistake("sum of batches", *LOADER, "return total / num_batches", "return total",
            hints.LOADER_DIVISOR),
    Mistake("sums of batches", *LOADER, " / num_batches", "", hints.LOADER_DIVISOR),
    Mistake("last batch only", *LOADER, "+= values", "= values", hints.LOADER_LAST),
    Mistake("num_batches ignored", *LOADER, "        if i >= num_batches:\n            break\n",
            "        num_batches = len(data_loader)\n", hints.LOADER_NUM_BATCHES),
    Mistake("dropout in evaluation", *EVALUATE, "policy_model.eval()", "pass", hints.EVAL_MODE),
    Mistake("evaluation for ever", *EVALUATE, "policy_model.train()", "pass", hints.TRAIN_MODE),
    Mistake("validation twice", *EVALUATE, "in zip(names, train", "in zip(names, val",
            hints.SWAPPED_LOADERS),
    Mistake("loaders swapped", *EVALUATE, "reference_model, train_loader, val_loader, beta, "
            "eval_iter\n):\n", "reference_model, val_loader, train_loader, beta, eval_iter\n):\n",
            hints.SWAPPED_LOADERS),
    Mistake("other keys", *EVALUATE, 'f"val_{name}"', 'f"validation_{name}"', hints.TRACKED),
    Mistake("gradients kept", *TRAIN, "optimizer.zero_grad()", "pass", hints.NO_ZERO_GRAD),
    Mistake("no step", *TRAIN, "optimizer.step()", "pass", hints.NO_STEP),
    Mistake("two steps", *TRAIN, "optimizer.step()", "optimizer.step(), optimizer.step()",
            hints.TRAINING_STEP),
    Mistake("one epoch", *TRAIN, "range(num_epochs)", "range(1)", hints.EPOCHS),
    Mistake("evaluates for ever", *EVALUATE, "policy_model.train()", "pass", hints.TRAIN_MODE,
            checked="train_model_dpo_simple"),
    Mistake("other names", *TRAIN, '"losses"', '"loss"', hints.TRACKED),
]

# What is right too: no result is a mistake; the hint is that of a note, "" where there is none.
VARIANTS = [
    Mistake("rewards with beta", *LOSS, ").detach()", ").detach() * beta", hints.REWARDS_SCALED),
    Mistake("reference with a graph", *BATCH, "with torch.no_grad():", "if True:",
            hints.REFERENCE_GRAPH),
    Mistake("heading counts", *COLLATE, "len(prompt) + 2", "len(prompt)", ""),
    Mistake("no padding after the longest", *COLLATE, "len(item[key]) + 1", "len(item[key])", ""),
    Mistake("numbers for a mask", *COLLATE, "torch.ones(longest).bool()", "torch.ones(longest)",
            ""),
]
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_planted_mistake_is_caught_with_its_hint(mistake: Mistake) -> None:
    must_be_caught(mistake)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_variant_is_right(variant: Mistake) -> None:
    must_be_right(variant)


def test_collate_function_of_pairs_is_known_under_the_name_of_the_other_one() -> None:
    source = right_source("ch07").replace("def custom_collate_fn(", "def for_instructions(")
    source = source.replace("def preference_collate(", "def custom_collate_fn(")
    pairs = results(source, "ch07", "preference_collate")
    assert {result.state for result in pairs} == {"right"}
    rows = results(source, "ch07", "custom_collate_fn")
    assert {result.state for result in rows} == {"open"}
    assert all("is for pairs of answers" in result.detail for result in rows)


def test_collate_function_of_instructions_is_not_the_one_for_pairs() -> None:
    source = right_source("ch07").replace("def preference_collate(", "def for_pairs(")
    assert {result.state for result in results(source, "ch07", "custom_collate_fn")} == {"right"}
    pairs = results(source, "ch07", "preference_collate")
    assert {result.state for result in pairs} == {"open"}
    assert all("is that of 7.3" in result.detail for result in pairs)
