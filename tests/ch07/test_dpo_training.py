"""Preference tuning for real: rows, the reference as numbers, and runs that go on."""

from __future__ import annotations

import copy
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from llm_scratch.conversations.formats import find_format
from llm_scratch.finetuning.dpo_simple import compute_dpo_loss
from llm_scratch.finetuning.dpo_training import (
    dpo_objective,
    finetune_preferences,
    preference_score,
)
from llm_scratch.finetuning.preference_rows import (
    PreferenceRows,
    answer_logprobs,
    measure_reference,
    preference_rows,
)
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.run_folder import read_lines
from llm_scratch.training.steps import Engine, compute_gradients
from llm_scratch.weights.folder import load_model

WORDS = ("tide", "clock", "harbour", "lantern", "rope", "gull", "ferry", "bell", "storm", "pilot")
ENTRIES = [
    {
        "instruction": f"Write about the {one} and the {other}.",
        "input": "",
        "chosen": f"The {one}, if you please, and the {other}.",
        "rejected": f"{one} {other}!!",
    }
    for one in WORDS
    for other in WORDS[:4]
    if one != other
]
SETTINGS = {
    "micro_batch": 4,
    "eval_every": 4,
    "save_every": 4,
    "log_every": 0,
    "precision": "float32",
}
CONFIG = TrainConfig(steps=12, learning_rate=3e-3, eval_batches=None, **SETTINGS)


class StopHereError(Exception):
    """Instead of the signal that ends a process."""


@pytest.fixture(scope="module")
def small():
    """A tokenizer with few tokens, for models whose heads cost nothing."""
    text = " ".join(f"{e['instruction']} {e['chosen']} {e['rejected']}" for e in ENTRIES)
    return BytePairTokenizer.train(text, 300)


def build(seed=1, **options):
    sizes = {"vocab_size": 300, "context_length": 192, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
    torch.manual_seed(seed)
    return GPTModel({**sizes, "drop_rate": 0.0, "tie_weights": True, **options})


def with_lora(model):
    torch.manual_seed(5)
    replace_linear_with_lora(model, 4, 8, targets="trf_blocks", freeze_base=True)
    return model


def quiet(line):
    pass


def rows_of(tokenizer, entries=ENTRIES, length=192):
    return preference_rows(entries, tokenizer, length=length)


def test_rows_end_every_answer_once_and_learn_nothing_of_the_prompt(small):
    rows = rows_of(small, ENTRIES[:3])
    inputs, targets = rows.texts([1, 2])
    assert inputs.shape == targets.shape == (4, inputs.shape[1])
    expected = [ENTRIES[i][name] for name in ("chosen", "rejected") for i in (1, 2)]
    for row, answer in enumerate(expected):
        learned = targets[row][targets[row] != -100].tolist()
        assert small.decode(learned) == f"{answer}<|endoftext|>"
        first = int((targets[row] != -100).nonzero()[0])
        text = small.decode(inputs[row, : first + 1].tolist())
        assert text.endswith("### Response:\n")


def test_rows_cut_long_prompts_at_their_beginning_and_keep_both_answers(small):
    entry = {**ENTRIES[0], "input": "much to say " * 60}
    inputs, targets = rows_of(small, [entry], length=64).texts([0])
    assert inputs.shape == (2, 64)
    assert small.decode(targets[0][targets[0] != -100].tolist()).startswith(entry["chosen"])
    assert "much to say" in small.decode(inputs[0].tolist())


def test_rows_take_another_format(small):
    rows = preference_rows(ENTRIES[:1], small, length=64, format=find_format("transcript"))
    inputs, _ = rows.texts([0])
    text = small.decode(inputs[0].tolist())
    assert text.startswith(f"User: {ENTRIES[0]['instruction']}\nBot: The")


def test_rows_leave_out_what_teaches_nothing_or_does_not_fit(small):
    equal = {**ENTRIES[0], "rejected": ENTRIES[0]["chosen"]}
    long = {**ENTRIES[0], "chosen": "a long answer " * 90}
    with pytest.warns(UserWarning, match="of 4 pairs, 1 with equal answers and 1 with an answer"):
        rows = rows_of(small, [ENTRIES[0], equal, long, ENTRIES[1]], length=100)
    assert len(rows) == 2
    with (
        pytest.warns(UserWarning, match="1 with equal"),
        pytest.raises(ValueError, match="no pair of 1 is left"),
    ):
        rows_of(small, [equal])


def test_rows_refuse_a_tokenizer_without_an_end():
    tokenizer = BytePairTokenizer.train("a b c " * 50, 256, special_tokens=())
    with pytest.raises(ValueError, match="no end-of-text token, which ends an answer"):
        rows_of(tokenizer)


def test_rows_name_the_pair_that_is_longer_than_the_length(small):
    rows = rows_of(small)
    with pytest.raises(ValueError, match=r"pair \d+ has \d+ tokens, at most 20 fit"):
        rows.num_rows(20)


def test_rows_refuse_batches_before_the_reference_is_known(small):
    with pytest.raises(ValueError, match="measure_reference"):
        rows_of(small).batch(0, 0, 2, 192)


@pytest.fixture(scope="module")
def measured(small):
    rows = rows_of(small)
    measure_reference(build(), rows)
    return rows


def test_every_pair_comes_once_an_epoch_and_brings_its_own_reference(measured):
    of_pair = {tuple(r.tolist()): i for i, r in enumerate(measured.reference)}
    n = len(measured)
    seen = []
    for step in range(n):  # 4 epochs in batches of 4
        _, _, reference = measured.batch(7, step, 4, 192)
        seen += [of_pair[tuple(r.tolist())] for r in reference]
    for epoch in range(4):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert seen[:n] != seen[n : 2 * n]


def test_a_step_in_pieces_reads_the_pairs_of_the_whole_step(measured):
    whole = measured.batch(7, 3, 6, 192)[2]
    pieces = [measured.batch(7, 3, 2, 192, first_row=i, step_rows=6)[2] for i in (0, 2, 4)]
    assert torch.equal(torch.cat(pieces), whole)


def test_rows_in_order_are_all_rows(measured):
    found = [reference for _, _, reference in measured.rows_in_order(192, 5)]
    assert torch.equal(torch.cat(found), measured.reference)


@pytest.mark.parametrize("average", [False, True])
def test_answer_logprobs_equal_those_of_all_logits(measured, average):
    model = build().eval()
    inputs, targets = measured.texts([0, 5, 9])
    found = answer_logprobs(model, inputs, targets, average=average)
    whole = F.log_softmax(model(inputs), dim=-1)
    for row in range(6):
        places = (targets[row] != -100).nonzero()[:, 0]
        each = whole[row, places, targets[row, places]]
        assert_close(found[row], each.mean() if average else each.sum())
    without_states = answer_logprobs(lambda ids: model(ids), inputs, targets, average=average)
    assert_close(found, without_states)


def test_reference_is_the_same_for_all_batch_sizes_and_leaves_modes(small, measured):
    model = build(drop_rate=0.5).train()
    for size in (1, 7):
        rows = rows_of(small)
        assert_close(measure_reference(model, rows, batch_size=size), measured.reference)
    assert model.training


def test_objective_is_the_loss_of_a_second_model_in_memory(measured):
    """Value and gradients, of a model that has moved away from its reference."""
    reference, model = build().eval(), build(2).eval()
    batch = measured.pairs([3, 1, 8])
    total, count = dpo_objective(0.2).loss(model, *batch)
    total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    policy = answer_logprobs(model, *batch[:2]).chunk(2)
    with torch.no_grad():
        fixed = answer_logprobs(reference, *batch[:2]).chunk(2)
    loss, _, _ = compute_dpo_loss(*policy, *fixed, beta=0.2)
    (loss * 3).backward()
    assert count == dpo_objective(0.2).count(batch) == 3
    assert_close(total, loss * 3)
    for name, parameter in model.named_parameters():
        assert_close(found[name], parameter.grad)


def test_pieces_of_a_step_give_its_gradient(measured):
    grads = []
    for pieces in ([[0, 1, 2, 3, 4, 5]], [[0, 1, 2, 3], [4], [5]]):
        model = build(2)
        engine = Engine(model, [], torch.device("cpu"), objective=dpo_objective())
        compute_gradients(engine, [measured.pairs(chosen) for chosen in pieces])
        grads.append(model.tok_emb.weight.grad)
    assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0, -1.0, math.nan])
def test_objective_refuses_a_beta_that_teaches_nothing(beta):
    with pytest.raises(ValueError, match="must be above 0"):
        dpo_objective(beta)


def test_score_before_training_is_that_of_the_reference(measured):
    score = preference_score(build(), measured)
    assert score.loss == pytest.approx(math.log(2), abs=1e-5)
    assert score.margin == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="measure_reference"):
        preference_score(
            build(), PreferenceRows([(([1], [2]), ([1], [3]))], pad_id=0, vocab_size=9)
        )


def run(folder, model, tokenizer, config=CONFIG, **options):
    options = {"log": quiet, **options}
    return finetune_preferences(
        model, tokenizer, ENTRIES[:28], ENTRIES[28:], config, folder=folder, **options
    )


def metrics(folder):
    lines = read_lines(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The folder and the model of a run that nobody stopped."""
    folder, model = tmp_path_factory.mktemp("whole") / "run", build(drop_rate=0.1)
    run(folder, model, small)
    return folder, model


def test_margin_grows_on_pairs_that_were_not_trained_on(whole, small):
    folder, model = whole
    rows = rows_of(small, ENTRIES[28:])
    measure_reference(build(), rows)
    score = preference_score(model, rows)
    assert score.margin > 1
    assert score.accuracy > 0.9
    losses = [line["val_loss"] for line in metrics(folder) if "val_loss" in line]
    assert losses[-1] == pytest.approx(score.loss, abs=1e-5)
    assert losses[-1] < math.log(2) - 0.05
    assert load_model(folder)[0].num_parameters() == model.num_parameters()


def test_resumed_run_equals_one_that_was_not_stopped(whole, small, tmp_path):
    def stop(line):
        if line.startswith("step 8: validation"):
            raise StopHereError

    with pytest.raises(StopHereError):
        run(tmp_path / "run", build(drop_rate=0.1), small, log=stop)
    model = build(drop_rate=0.1)
    run(tmp_path / "run", model, small, resume=True)
    assert metrics(tmp_path / "run") == metrics(whole[0])
    for (name, ours), theirs in zip(model.named_parameters(), whole[1].parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_resumed_run_keeps_the_reference_it_was_started_with(whole, small, tmp_path):
    """The tuned model would be another reference; the one on the disk is taken."""
    folder = shutil.copytree(whole[0], tmp_path / "run")
    state = run(folder, copy.deepcopy(whole[1]), small, resume=True)
    assert state.step == 12
    with pytest.raises(WeightsError, match="belongs to other data"):
        finetune_preferences(
            build(),
            small,
            ENTRIES[:20],
            ENTRIES[28:],
            CONFIG,
            folder=folder,
            resume=True,
            log=quiet,
        )


def test_run_with_lora_prefers_too_and_leaves_the_base_alone(small):
    model = with_lora(build())
    base = {n: p.clone() for n, p in model.named_parameters() if "lora" not in n}
    config = TrainConfig(steps=12, learning_rate=2e-2, **SETTINGS)
    state = run(None, model, small, config)
    assert state.val_loss < math.log(2) - 0.02
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)


def test_settings_and_data_that_do_not_fit_are_refused(small):
    bad = [ENTRIES[0], {"instruction": "x", "rejected": "y"}]
    with pytest.raises(ValueError, match=r"entries\[1\] has no chosen"):
        finetune_preferences(build(), small, bad, None, CONFIG, log=quiet)
    with pytest.raises(ValueError, match="was another tokenizer used"):
        run(None, build(vocab_size=260), small)
    with pytest.raises(ValueError, match="beta=0"):
        run(None, build(), small, beta=0)


def test_order_of_the_pairs_hangs_on_no_global_generator(measured):
    np.random.seed(1)
    torch.manual_seed(1)
    one = measured.batch(3, 2, 4, 192)
    np.random.seed(2)
    torch.manual_seed(2)
    other = measured.batch(3, 2, 4, 192)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
