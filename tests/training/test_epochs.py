"""The one loop under the book's four training functions: what all of them refuse and restore."""

from __future__ import annotations

import copy

import pytest
import torch

from llm_scratch.finetuning.dpo_simple import preference_collate, train_model_dpo_simple
from llm_scratch.finetuning.spam_classifier import train_classifier_simple
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.appendix_d import train_model
from llm_scratch.training.epochs import with_targets
from llm_scratch.training.simple import train_model_simple

V, T = 257, 16
CONFIG = {
    "vocab_size": V, "context_length": T, "emb_dim": 8, "n_heads": 2, "n_layers": 2,
    "drop_rate": 0.1, "qkv_bias": False,
}  # fmt: skip
TOKENIZER = BytePairTokenizer([])
LOOPS = ["simple", "appendix_d", "classifier", "dpo"]


def batches_for(loop):
    """Two batches of the kind that a loop learns from."""
    if loop == "dpo":
        item = {"prompt": [1], "chosen": [1, 2, 3, 4, 5], "rejected": [1, 2, 3, 6]}
        return [preference_collate([item, item], 0)] * 2
    ids = torch.arange(2 * (T + 1)).view(2, T + 1)
    targets = torch.tensor([0, 1]) if loop == "classifier" else ids[:, 1:]
    return [(ids[:, :-1], targets)] * 2


def new_model():
    torch.manual_seed(1)
    return GPTModel(CONFIG)


def run(loop, model, train=None, val=None, epochs=1, freq=1, evaluated=1, start="a", log=print):
    """Call one of the four loops: all of their arguments but the model have a default here."""
    train = batches_for(loop) if train is None else train
    val = batches_for(loop) if val is None else val
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers, texts = (epochs, freq, evaluated), (start, TOKENIZER)
    if loop == "simple":
        train_model_simple(model, train, val, optimizer, "cpu", *numbers, *texts, log=log)
    elif loop == "appendix_d":
        train_model(model, train, val, optimizer, "cpu", *numbers, *texts, 1, log=log)
    elif loop == "classifier":
        train_classifier_simple(model, train, val, optimizer, "cpu", *numbers, log=log)
    else:
        reference = copy.deepcopy(model).eval()
        train_model_dpo_simple(
            model, reference, train, val, optimizer, epochs, 0.1, *numbers[1:], *texts, log=log
        )


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "n(um)?_epochs=0 must be 1 or more"),
        ({"freq": 0}, ValueError, "eval_freq=0 must be 1 or more"),
        ({"evaluated": 0}, ValueError, "eval_iter=0 must be 1 or more; None is all batches"),
        ({"train": []}, ValueError, "the training loader gives no batch; use more"),
        ({"val": []}, ValueError, "the validation loader gives no batch; use more"),
        ({"train": iter([])}, TypeError, "the training loader is an iterator, used up after"),
        ({"val": iter([])}, TypeError, "the validation loader is an iterator, used up after"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_loop_refuses_before_the_first_step(loop, wrong, error, message):
    model = new_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        run(loop, model, **wrong)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("loop", ["simple", "appendix_d", "dpo"])
def test_loop_refuses_a_start_without_a_token(loop):
    with pytest.raises(ValueError, match="start_context='' gives no token"):
        run(loop, new_model(), start="")


@pytest.mark.parametrize("loop", LOOPS)
def test_loop_leaves_modes_as_found_also_after_an_error(loop):
    model = new_model().train()
    model.trf_blocks[1].eval()
    before = [part.training for part in model.modules()]
    run(loop, model, log=lambda line: None)
    assert [part.training for part in model.modules()] == before

    def fail(line):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        run(loop, model, log=fail)
    assert [part.training for part in model.modules()] == before


def test_classifier_passes_over_a_batch_without_a_label():
    ids = torch.arange(2 * T).view(2, T)
    marked = torch.full((2, T), -100)
    marked[:, 3] = torch.tensor([0, 1])
    loader = [(ids, torch.full((2, T), -100)), (ids, marked)]
    with pytest.warns(UserWarning, match="1 of 2 training batches had no target"):
        run("classifier", new_model(), train=loader, val=loader[1:], evaluated=None)


def test_with_targets_says_that_there_is_nothing_to_learn():
    masked = [(torch.zeros(1, 2), torch.full((1, 2), -100))]
    with pytest.raises(ValueError, match="all targets of the 1 training batches are masked"):
        list(with_targets(masked))
