"""The checks of chapter 7's bonus material: DPO losses of batches and loaders, and training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model.gpt import GPTModel
from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter2 import Letters
from llm_scratch.selfcheck.chapter5 import tiny_model
from llm_scratch.selfcheck.chapter7_texts import SECTION, dpo_loss, mean_logprobs, must_be_numbers
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_equal, number, randint
from llm_scratch.selfcheck.loops import Descent, must_train_in_training_mode
from llm_scratch.selfcheck.outcome import Check, MistakeError

B, T, BETA = 2, 8, 0.7
Pairs = dict[str, Tensor]


def batches(count: int, seed: int = 1) -> list[Pairs]:
    """Return batches of pairs: ids (B, T) and masks (B, T) of both answers."""
    ids = randint(Letters.n_vocab, count, 2, B, T, seed=seed)
    places = torch.arange(T)
    masks = [((places >= 3) & (places < end)).expand(B, T) for end in (T, T - 2)]
    return [
        {
            "chosen": chosen,
            "rejected": rejected,
            "chosen_mask": masks[0].clone(),
            "rejected_mask": masks[1].clone(),
        }
        for chosen, rejected in ids
    ]


def models(drop_rate: float = 0.0) -> tuple[GPTModel, GPTModel]:
    """Return a model that learns, and the reference that it is compared with."""
    policy, reference = tiny_model(drop_rate), tiny_model()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(0.8)
    return policy, reference.eval()


def _values(policy: nn.Module, reference: nn.Module, batch: Pairs, beta: float = BETA) -> Tensor:
    """Return loss and rewards of a batch: (3,)."""

    def logprobs(model: nn.Module) -> list[Tensor]:
        return [
            mean_logprobs(model(batch[name]), batch[name], batch.get(f"{name}_mask"))
            for name in ("chosen", "rejected")
        ]

    with torch.no_grad():
        before = logprobs(reference)
    return dpo_loss(logprobs(policy), before, beta)


BATCH = "(batch, policy_model, reference_model, beta)"


def _puts_the_loss_together(function: Any) -> None:
    policy, reference = models()
    batch = batches(1)[0]
    came = call("compute_dpo_loss_batch", function, (batch, policy, reference, BETA), BATCH)
    unmasked = {name: batch[name] for name in ("chosen", "rejected")}
    with torch.no_grad():
        right = _values(policy, reference, batch)
        mistakes: Mistakes = {
            hints.MASK_IGNORED: _values(policy, reference, unmasked),
            hints.DPO_BETA: _values(policy, reference, batch, 0.1),
            hints.MODELS_SWAPPED: _values(reference, policy, batch),
            hints.PAIR_SWAPPED: _values(policy, reference, _swapped(batch)),
        }
    must_equal(must_be_numbers(came), right, mistakes, hints.DPO_REFERENCE)


def _swapped(batch: Pairs) -> Pairs:
    other = {"chosen": "rejected", "rejected": "chosen"}
    return {f"{other[name]}{end}": batch[f"{name}{end}"] for name in other for end in ("", "_mask")}


def _reaches_the_policy(function: Any) -> None:
    policy, reference = models()
    loss = function(batches(1)[0], policy, reference, BETA)[0]
    must(
        isinstance(loss, Tensor) and loss.requires_grad,
        "a loss to call backward on",
        "a number without a graph",
        hints.GRADIENT,
    )
    loss.backward()
    missed = [name for name, parameter in policy.named_parameters() if parameter.grad is None]
    must(not missed, "gradients for the policy", f"none for {missed[:2]}", hints.GRADIENT)
    if any(parameter.grad is not None for parameter in reference.parameters()):
        texts = "no gradients for the reference", "some"
        raise MistakeError(*texts, hints.REFERENCE_GRAPH, counts=False)


LOADER = "(data_loader, policy_model, reference_model, beta, num_batches=None)"


def _averages_a_loader(function: Any) -> None:
    policy, reference = models()
    loader = batches(4)
    with torch.no_grad():
        values = torch.stack([_values(policy, reference, batch) for batch in loader])
    args = (loader, policy, reference, BETA)
    came = must_be_numbers(call("compute_dpo_loss_loader", function, args, LOADER))
    mistakes: Mistakes = {
        hints.LOADER_DIVISOR: values.sum(0),
        hints.LOADER_LAST: [values[-1], values[-1] / 4],
    }
    must_equal(came, values.mean(0), mistakes, hints.LOADER_DIVISOR)
    came = must_be_numbers(function(*args, 2))
    mistakes = {
        hints.LOADER_NUM_BATCHES: [values.mean(0), values[:3].mean(0)],
        hints.LOADER_DIVISOR: [values[:2].sum(0) / 4, values.sum(0) / 2],
    }
    must_equal(came, values[:2].mean(0), mistakes, hints.LOADER_NUM_BATCHES)


EVALUATE = "(policy_model, reference_model, train_loader, val_loader, beta, eval_iter)"
MEASURED = ("loss", "chosen_reward", "rejected_reward")


def _measures_both_parts(function: Any) -> None:
    policy, reference = models(drop_rate=0.5)
    loaders = batches(2), batches(2, seed=8)
    policy.eval()
    with torch.no_grad():
        values = [
            torch.stack([_values(policy, reference, batch) for batch in loader]).mean(0)
            for loader in loaders
        ]
    policy.train()
    args = (policy, reference, *loaders, BETA, 2)
    came = call("evaluate_dpo_loss_loader", function, args, EVALUATE)
    keys = [f"{part}_{name}" for part in ("train", "val") for name in MEASURED]
    got = torch.stack([number(value) for value in _of_keys(came, keys)])
    train, val = values
    mistakes: Mistakes = {
        hints.SWAPPED_LOADERS: [torch.cat(pair) for pair in ((val, train), (val, val))]
    }
    must_equal(got, torch.cat(values), mistakes, hints.EVAL_MODE)
    must(policy.training, "a policy in training mode, as it was", "eval mode", hints.TRAIN_MODE)


def _of_keys(came: Any, keys: list[str]) -> list[Any]:
    must(isinstance(came, Mapping), "a dict", type(came).__name__, hints.NOT_TENSOR)
    missing = [key for key in keys if key not in came]
    must(not missing, f"the keys {', '.join(keys)}", f"no {', '.join(missing)}", hints.TRACKED)
    return [came[key] for key in keys]


TRAIN = (
    "(policy_model, reference_model, train_loader, val_loader, optimizer, num_epochs, beta, "
    "eval_freq, eval_iter, start_context, tokenizer)"
)
EPOCHS, STEPS = 2, 6


def _train(function: Any) -> tuple[GPTModel, Any]:
    policy, reference = models()
    loaders = batches(3), batches(1, seed=8)
    optimizer = Descent(policy, lr=0.5)
    args = (policy, reference, *loaders, optimizer, EPOCHS, BETA, 1, 1, "abcd", Letters())
    return policy, call("train_model_dpo_simple", function, args, TRAIN)


@cache
def _by_hand(epochs: int, clear: bool = True) -> Tensor:
    policy, reference = models()
    optimizer = Descent(policy, lr=0.5)
    for _ in range(epochs):
        for batch in batches(3):
            if clear:
                optimizer.zero_grad()
            _values(policy, reference, batch)[0].backward()
            optimizer.step()
    return torch.as_tensor(policy.out_head.weight).detach()


def _updates_the_policy(function: Any) -> None:
    policy, _ = _train(function)
    mistakes: Mistakes = {
        hints.NO_STEP: _by_hand(0),
        hints.NO_ZERO_GRAD: _by_hand(EPOCHS, clear=False),
        hints.EPOCHS: [_by_hand(1), _by_hand(EPOCHS + 1)],
    }
    must_equal(policy.out_head.weight, _by_hand(EPOCHS), mistakes, hints.TRAINING_STEP, atol=1e-4)


def _keeps_what_it_measured(function: Any) -> None:
    _, came = _train(function)
    names = ("losses", "chosen_rewards", "rejected_rewards")
    keys = [f"{part}_{name}" for part in ("train", "val") for name in names]
    lengths = [len(values) for values in _of_keys(came, [*keys, "tokens_seen"])]
    must(
        lengths == [STEPS] * len(lengths),
        f"{STEPS} values in each list with eval_freq=1",
        f"{lengths}",
        "See when the loop evaluates, and what it appends.",
    )
    losses = [float(value) for value in came["train_losses"]]
    must(losses[-1] < losses[0], "a training loss that falls", f"{losses}", hints.NO_STEP)


def _trains_with_dropout(function: Any) -> None:
    policy, reference = models(drop_rate=0.5)
    loaders = batches(2), batches(1, seed=8)
    settings = (Descent(policy, lr=0.1), EPOCHS, BETA, 1, 1, "abcd", Letters())
    must_train_in_training_mode(policy, lambda: function(policy, reference, *loaders, *settings))


BATCHES, LOADERS, TRAINS = (
    "compute_dpo_loss_batch",
    "compute_dpo_loss_loader",
    "train_model_dpo_simple",
)
MODEL_CHECKS = (
    Check(SECTION, BATCHES, "puts loss and rewards together", _puts_the_loss_together),
    Check(SECTION, BATCHES, "can be trained on", _reaches_the_policy),
    Check(SECTION, LOADERS, "averages over num_batches batches", _averages_a_loader),
    Check(SECTION, "evaluate_dpo_loss_loader", "measures both parts", _measures_both_parts),
    Check(SECTION, TRAINS, "updates the policy batch by batch", _updates_the_policy),
    Check(SECTION, TRAINS, "keeps what it measured", _keeps_what_it_measured),
    Check(SECTION, TRAINS, "trains in training mode", _trains_with_dropout),
)
