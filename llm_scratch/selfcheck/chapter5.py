"""The checks of chapter 5: losses, evaluation, training, and sampling.

The reader's functions get small models of this library.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.gpt import GPTModel
from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter2 import Letters
from llm_scratch.selfcheck.chapter5_sampling import SAMPLING_CHECKS
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_be_tensor, must_equal, randint
from llm_scratch.selfcheck.foreign import attempt, describe
from llm_scratch.selfcheck.forms import other_than, with_its_loss
from llm_scratch.selfcheck.loops import (
    Batch,
    Descent,
    Task,
    builds_no_graph,
    evaluates_both,
    evaluates_without_dropout,
    loss_of_loader,
    must_train_in_training_mode,
    takes_num_batches,
    trained_by_hand,
    trains_on_afterwards,
)
from llm_scratch.selfcheck.outcome import Check, MistakeError

CPU = torch.device("cpu")
V, T, B = Letters.n_vocab, 8, 2


def tiny_model(drop_rate: float = 0.0) -> GPTModel:
    """Return a GPT of the book's layout that trains in milliseconds."""
    torch.manual_seed(3)
    sizes = {"vocab_size": V, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 1}
    return GPTModel({**sizes, "drop_rate": drop_rate, "qkv_bias": False})


def batches(count: int, seed: int = 1) -> list[Batch]:
    """Return batches of inputs and of targets, which are the next tokens."""
    ids = randint(V, count, B, T + 1, seed=seed)
    return [(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()) for batch in ids]


def _encodes(function: Any) -> None:
    came = call("text_to_token_ids", function, ("abcd", Letters()), "(text, tokenizer)")
    if isinstance(came, (list, Tensor)) and len(came) == 4:
        raise MistakeError("the shape (1, 4) for four tokens", "no batch", hints.BATCH_DIM)
    must_equal(must_be_tensor(came, (1, 4), hints.BATCH_DIM), torch.tensor([[0, 1, 2, 3]]))


def _decodes(function: Any) -> None:
    _must_decode(function, torch.tensor([[0, 1, 2, 3]]), "abcd")


def _decodes_one(function: Any) -> None:
    _must_decode(function, torch.tensor([[2]]), "c")


def _must_decode(function: Any, ids: Tensor, text: str) -> None:
    expected = f"the text {text!r} for ids of shape {tuple(ids.shape)}"
    results: list[Any] = []

    def work() -> None:
        results.append(
            call("token_ids_to_text", function, (ids, Letters()), "(token_ids, tokenizer)")
        )

    error = attempt(work)
    if isinstance(error, (TypeError, ValueError)):
        raise MistakeError(expected, describe(error), hints.BATCH_DIM)
    if error is not None:
        raise error
    must(results[0] == text, expected, repr(results[0]), hints.BATCH_DIM)


def _loss_of_batch(function: Any) -> None:
    model = tiny_model().eval()
    inputs, targets = batches(1)[0]
    signature = "(input_batch, target_batch, model, device)"
    results: list[Any] = []
    args = (inputs, targets, model, CPU)
    error = attempt(lambda: results.append(call("calc_loss_batch", function, args, signature)))
    if isinstance(error, (RuntimeError, ValueError)):
        raise MistakeError("a loss", f"{type(error).__name__}: {error}", hints.LOSS_DIM)
    if error is not None:
        raise error
    with torch.no_grad():
        logits = model(inputs)
        mistakes = _loss_mistakes(model, logits, inputs, targets)
    must_equal(results[0], mean_loss(logits, targets).detach(), mistakes, hints.LOSS_DIM)


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of all positions."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


TASK = Task(tiny_model, batches, mean_loss)


def _loss_mistakes(model: nn.Module, logits: Tensor, inputs: Tensor, targets: Tensor) -> Mistakes:
    picked = targets.unsqueeze(-1)
    return {
        hints.LOSS_SUM: [
            mean_loss(logits, targets) * targets.numel(),
            mean_loss(logits, targets) * T,
            mean_loss(logits, targets) * B,
        ],
        hints.LOSS_SOFTMAX: mean_loss(logits.softmax(-1), targets),
        hints.LOSS_LAST_ONLY: F.cross_entropy(logits[:, -1], targets[:, -1]),
        hints.LOSS_SHIFTED_TWICE: mean_loss(logits[:, :-1], targets[:, 1:]),
        hints.LOSS_SWAPPED: mean_loss(model(targets), inputs),
        hints.TARGETS_NOT_SHIFTED: mean_loss(logits, inputs),
        hints.LOSS_DIM: [
            -logits.log_softmax(0).gather(-1, picked).mean(),
            -logits.log_softmax(1).gather(-1, picked).mean(),
            mean_loss(logits.transpose(0, 1), targets),
        ],
    }


def _loss_can_train(function: Any) -> None:
    model = tiny_model()
    loss = function(*batches(1)[0], model, CPU)
    must(
        isinstance(loss, Tensor) and loss.requires_grad,
        "a loss to call backward on",
        "a number without a graph",
        hints.GRADIENT,
    )


def _prints_a_sample(function: Any) -> None:
    model = tiny_model().train()
    signature = "(model, tokenizer, device, start_context)"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        args = (model, Letters(), CPU, "abcd")
        call("generate_and_print_sample", function, args, signature)
    text = printed.getvalue()
    must(
        text.lstrip().startswith("abcd") and len(text) > 20,
        "a printed line that continues 'abcd'",
        repr(text[:40]),
        "See what is passed to the generating function, and what is printed.",
    )
    must(model.training, "a model in training mode, as it was", "evaluation mode", hints.TRAIN_MODE)


TRAIN = (
    "(model, train_loader, val_loader, optimizer, device, num_epochs, eval_freq, eval_iter, "
    "start_context, tokenizer)"
)
EPOCHS = 2


def _train(function: Any) -> tuple[GPTModel, Any]:
    model, train = tiny_model(), batches(3)
    optimizer = Descent(model, lr=0.5)
    args = (model, train, batches(1, seed=8), optimizer, CPU, EPOCHS, 1, 1, "abcd", Letters())
    return model, call("train_model_simple", function, args, TRAIN)


@cache
def _by_hand(epochs: int, clear: bool = True, update: bool = True) -> Tensor:
    return trained_by_hand(TASK, epochs, clear=clear, update=update)["out_head.weight"]


def _updates_the_parameters(function: Any) -> None:
    model, _ = _train(function)
    mistakes: Mistakes = {
        hints.NO_STEP: _by_hand(EPOCHS, update=False),
        hints.NO_ZERO_GRAD: _by_hand(EPOCHS, clear=False),
        hints.EPOCHS: [_by_hand(1), _by_hand(EPOCHS + 1)],
    }
    must_equal(model.out_head.weight, _by_hand(EPOCHS), mistakes, hints.TRAINING_STEP, atol=1e-4)


def _tells_losses_and_tokens(function: Any) -> None:
    _, came = _train(function)
    must(
        isinstance(came, (tuple, list)) and len(came) == 3,
        "train_losses, val_losses, track_tokens_seen",
        f"{type(came).__name__}",
        hints.NOT_TENSOR,
    )
    must_tell_progress(came, EPOCHS * 3)


def must_tell_progress(came: Any, steps: int) -> None:
    """Check losses and tokens seen in a run on `batches` with an evaluation after every step."""
    lengths = [len(part) for part in came]
    must(
        lengths == [steps] * 3,
        f"{steps} evaluations with eval_freq=1",
        f"{lengths}",
        "See when the loop evaluates, and what it appends.",
    )
    must(came[0][-1] < came[0][0], "a training loss that falls", f"{came[0]}", hints.NO_STEP)
    expected = [B * T * step for step in range(1, steps + 1)]
    seen = [int(count) for count in came[2]]
    must(seen == expected, f"tokens seen {expected}", f"{seen}", hints.TOKENS_SEEN)


def _trains_with_dropout(function: Any) -> None:
    model = tiny_model(drop_rate=0.5)
    data = (batches(2), batches(1), Descent(model, lr=0.1), CPU)
    must_train_in_training_mode(model, lambda: function(model, *data, 2, 1, 1, "abcd", Letters()))


Rows = tuple[tuple[str, str, str, Callable[[Any], None]], ...]
ROWS: Rows = (
    ("5.1.1", "text_to_token_ids", "gives ids (1, T) for a text", _encodes),
    ("5.1.1", "token_ids_to_text", "gives the text of ids (1, T)", _decodes),
    ("5.1.1", "token_ids_to_text", "works for a single token", _decodes_one),
    ("5.1.3", "calc_loss_batch", "is the mean cross entropy of all positions", _loss_of_batch),
    ("5.1.3", "calc_loss_batch", "can be trained on", _loss_can_train),
    ("5.1.3", "calc_loss_loader", "averages over the batches", partial(loss_of_loader, TASK)),
    ("5.1.3", "calc_loss_loader", "stops after num_batches", partial(takes_num_batches, TASK)),
    ("5.2", "evaluate_model", "gives training and validation loss", partial(evaluates_both, TASK)),
    ("5.2", "evaluate_model", "switches dropout off", partial(evaluates_without_dropout, TASK)),
    ("5.2", "evaluate_model", "leaves the model training", partial(trains_on_afterwards, TASK)),
    ("5.2", "evaluate_model", "builds no graph for gradients", partial(builds_no_graph, TASK)),
    ("5.2", "generate_and_print_sample", "prints a text's continuation", _prints_a_sample),
    (
        "5.2",
        "train_model_simple",
        "updates the parameters batch by batch",
        partial(with_its_loss, 5, _updates_the_parameters),
    ),
    ("5.2", "train_model_simple", "returns losses and tokens seen", _tells_losses_and_tokens),
    ("5.2", "train_model_simple", "trains in training mode", _trains_with_dropout),
)
OTHER = other_than(5)
CHECKS = (*(Check(*row, other=OTHER.get(row[1])) for row in ROWS), *SAMPLING_CHECKS)
