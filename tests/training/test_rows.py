"""Runs on rows of different lengths, and with a loss of one's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llm_scratch.finetuning.preference_rows import PreferenceRows
from llm_scratch.text.mixture import Mixture
from llm_scratch.text.packed_rows import PackedRows
from llm_scratch.text.step_rows import rows_of_step
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.training.objective import Objective
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.training.steps import Engine, compute_gradients, evaluate

CONFIG = TrainConfig(
    steps=6, micro_batch=3, learning_rate=3e-3, save_every=2, eval_every=3, log_every=0
)
VOCAB = 50
OPTIONS = {"pad_id": 0, "vocab_size": VOCAB}


def some_rows(count=11, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = rng.integers(0, VOCAB, rng.integers(2, longest + 1)).tolist()
        rows.append((ids[:-1], [IGNORE_INDEX] * (len(ids) // 2 - 1) + ids[len(ids) // 2 :]))
    return rows


def token_rows(rows=None, **options):
    return TokenRows(rows or some_rows(), **OPTIONS | options)


def real(batch):
    """The rows of a batch without their padding, which is told by the targets behind the last."""
    found = []
    for inputs, targets in zip(*batch, strict=True):
        end = int((targets != IGNORE_INDEX).nonzero().max()) + 1
        found.append((tuple(inputs[:end].tolist()), tuple(targets[:end].tolist())))
    return found


def kinds_of_rows():
    """Every kind of rows that a run can learn from, four rows or more each."""
    pairs = PreferenceRows(list(zip(some_rows(), some_rows(seed=1), strict=True)), **OPTIONS)
    pairs.reference = torch.zeros(len(pairs), 2)
    part = TokenPart.from_tokens(range(49), VOCAB)
    mixture = Mixture({"a": part, "b": part}, {"a": 0.5, "b": 0.5})
    return {"windows": part, "rows": token_rows(), "packs": PackedRows(token_rows(), 12),
            "pairs": pairs, "mixture": mixture}  # fmt: skip


def as_tuples(rows):
    return [(tuple(inputs), tuple(targets)) for inputs, targets in rows]


def test_rows_of_step_go_through_the_epochs_one_after_the_other():
    assert rows_of_step(10, 0, 4) == [(0, 0, 4)]
    assert rows_of_step(10, 2, 4) == [(0, 8, 10), (1, 0, 2)]
    assert rows_of_step(3, 1, 7) == [(2, 1, 3), (3, 0, 3), (4, 0, 2)]
    assert rows_of_step(10, 2, 2, first_row=3, step_rows=8) == [(1, 9, 10), (2, 0, 1)]


@pytest.mark.parametrize("kind", ["windows", "rows", "packs", "pairs", "mixture"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"step": -1}, "step=-1 must be 0 or more"),
        ({"rows": 0}, "rows=0 must be 1 or more"),
        ({"first_row": -2}, "first_row=-2 must be 0 or more"),
        ({"first_row": 3, "step_rows": 4}, "rows 3 to 4 are not all among the 4 of a step"),
    ],
)
def test_batch_refuses_a_place_that_is_none(kind, change, message):
    data = kinds_of_rows()[kind]
    with pytest.raises(ValueError, match=message):
        data.batch(**{"seed": 0, "step": 0, "rows": 2, "length": 12} | change)
    with pytest.raises(ValueError, match="rows=0 must be 1 or more"):
        data.rows_in_order(12, 0)


@pytest.mark.parametrize("buckets", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 25])
def test_batch_gives_every_row_once_an_epoch(size, buckets):
    rows = some_rows()
    data = token_rows(rows, buckets=buckets)
    steps = 3 * 11  # as many batches as end together with an epoch, for any size
    seen = [row for step in range(steps) for row in real(data.batch(5, step, size, 12))]
    for epoch in range(size * 3):
        assert sorted(seen[epoch * 11 : epoch * 11 + 11]) == sorted(as_tuples(rows))
    assert seen[:11] != seen[11:22]


def test_batch_in_pieces_is_the_whole_step():
    data = token_rows(buckets=False)
    whole = real(data.batch(1, 4, 6, 12))
    pieces = [real(data.batch(1, 4, 2, 12, first_row=i, step_rows=6)) for i in (0, 2, 4)]
    assert whole == sum(pieces, [])


def test_batch_depends_on_its_arguments_alone():
    one, two = token_rows(), token_rows()
    late = [two.batch(3, step, 4, 12) for step in (9, 2, 5)]
    for step, batch in zip((9, 2, 5), late, strict=True):
        assert all(map(torch.equal, one.batch(3, step, 4, 12), batch))
    assert not torch.equal(one.batch(3, 0, 4, 12)[1], one.batch(4, 0, 4, 12)[1])


def test_buckets_leave_little_to_pad():
    rows = some_rows(count=400, longest=60)
    padded = {}
    for buckets in (True, False):
        data = token_rows(rows, buckets=buckets)
        padded[buckets] = sum(data.batch(0, i, 8, 60)[0].numel() for i in range(50))
    tokens = sum(len(inputs) for inputs, _ in rows)
    assert padded[True] < 1.05 * tokens
    assert padded[False] > 1.4 * tokens


def test_rows_in_order_gives_every_row_once():
    rows = some_rows()
    seen = [row for batch in token_rows(rows).rows_in_order(12, 4) for row in real(batch)]
    assert sorted(seen) == sorted(as_tuples(rows))


@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("pad_id", [0, 49])
def test_gradients_of_a_batch_are_those_of_its_rows(build, size, pad_id):
    rows = some_rows(count=size)
    alone, together = build(), build()
    pieces = [token_rows([row]).padded([0]) for row in rows]
    loss = compute_gradients(engine_of(alone), pieces)
    whole = token_rows(rows, pad_id=pad_id).padded(range(size))
    assert compute_gradients(engine_of(together), [whole]) == pytest.approx(loss, abs=1e-6)
    for a, b in zip(alone.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_evaluate_does_not_depend_on_the_batch(build, size):
    model, data = build(), token_rows()
    one = evaluate(engine_of(model), data.rows_in_order(12, 1))
    assert evaluate(engine_of(model), data.rows_in_order(12, size)) == pytest.approx(one, abs=1e-6)


def engine_of(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Engine(model, [optimizer], torch.device("cpu"), **options)


def test_train_counts_targets_not_padding(build, tmp_path):
    data = token_rows()
    train(build(), data, CONFIG, folder=tmp_path, log=lambda line: None)
    counts = [int((data.batch(CONFIG.seed, i, 3, 12)[1] != IGNORE_INDEX).sum()) for i in range(6)]
    steps = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [line["tokens"] for line in steps] == np.cumsum(counts).tolist()


def test_train_learns_classes_at_the_last_token(build):
    """Which third of the vocabulary the first id is in, said at the last place."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(60):
        ids = rng.integers(0, 48, rng.integers(1, 7)).tolist()
        rows.append((ids, [IGNORE_INDEX] * (len(ids) - 1) + [ids[0] // 16]))
    model = build()
    model.out_head = nn.Linear(16, 3)
    config = dataclasses.replace(CONFIG, steps=120, micro_batch=12, learning_rate=1e-2)
    state = train(model, token_rows(rows, num_targets=3), config, log=lambda line: None)
    assert state.loss < 0.3 < np.log(3)


def test_train_minimises_an_objective(build, tmp_path):
    def loss(model, inputs, targets):
        losses = F.mse_loss(
            model(inputs).mean(dim=(1, 2)), torch.ones(len(inputs)), reduction="sum"
        )
        return losses, len(inputs)

    saved = []
    state = train(
        build(),
        token_rows(),
        dataclasses.replace(CONFIG, steps=60, micro_batch=11, learning_rate=1e-2),
        folder=tmp_path,
        objective=Objective(loss, lambda batch: len(batch[0])),
        save_best=lambda model, folder, tokenizer: saved.append((folder, tokenizer)),
        log=lambda line: None,
    )
    assert state.loss < 0.05
    assert state.tokens == 60 * 11
    assert saved
    assert saved[0] == (tmp_path, None)
    assert not (tmp_path / "model.safetensors").exists()


def test_train_refuses_to_compile_another_loss(build):
    objective = Objective(lambda *_: None, lambda batch: 1)
    with pytest.raises(ValueError, match="loss of the next token only"):
        train(build(), token_rows(), dataclasses.replace(CONFIG, compile=True), objective=objective)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "no rows"),
        ([([1, 2], [2, 3]), ([], [])], {}, "row 1 has 0 inputs"),
        ([([1, 2], [2])], {}, "2 inputs and 1 targets"),
        ([([1, 50], [2, 3])], {}, "ids from 1 to 50"),
        ([([-1, 2], [2, 3])], {}, "ids from -1 to 2"),
        ([([1, 2], [-100, -100])], {}, "row 0 has no target"),
        ([([1, 2], [-100, 50])], {}, "targets from 50 to 50"),
        ([([1, 2], [-100, 3])], {"num_targets": 3}, "they go from 0 to 2"),
        ([([1, 2], [-1, 3])], {}, "targets from -1 to 3"),
        ([([1], [2])], {"pad_id": 50}, "pad_id=50 is outside"),
    ],
)
def test_token_rows_refuses(rows, options, message):
    with pytest.raises(ValueError, match=message):
        TokenRows(rows, **{"pad_id": 0, "vocab_size": VOCAB, **options})


def test_train_refuses_rows_that_are_too_long(build):
    with pytest.raises(ValueError, match="training part does not fit: row 1 has 17 tokens"):
        train(build(), token_rows([([1], [2]), ([1] * 17, [2] * 17)]), CONFIG)
