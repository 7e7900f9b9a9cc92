"""Runs that teach a model to answer, and the answers."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from llm_scratch.finetuning.instruction_rows import instruction_rows
from llm_scratch.finetuning.instruction_tuning import (
    answer,
    finetune_instructions,
    stopped_share,
)
from llm_scratch.finetuning.prompts import BOOK_PHI, prompt_text
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.weights.folder import load_model

WORDS = ("tide", "clock", "rope", "gull", "ferry", "bell", "storm", "pilot", "lamp", "sail")
REQUESTS = ("Say {}.", "Please say {}.", "What is {}?", "{}, please.", "I want {}.", "Only {}!")
ENTRIES = [
    {"instruction": request.format(word), "input": "", "output": f"The {word}"}
    for word in WORDS
    for request in REQUESTS
]
VALIDATION = ENTRIES[::7]
TRAIN = [entry for entry in ENTRIES if entry not in VALIDATION]
SETTINGS = {"learning_rate": 4e-3, "eval_batches": None, "log_every": 0, "precision": "float32"}
SHORT = TrainConfig(steps=6, micro_batch=4, eval_every=3, save_every=3, **SETTINGS)


class StopHereError(Exception):
    """Instead of the signal that ends a process."""


@pytest.fixture(scope="module")
def small():
    """A tokenizer with few tokens, for models whose heads cost nothing."""
    text = " ".join(prompt_text(entry, BOOK_PHI) + entry["output"] for entry in ENTRIES)
    return BytePairTokenizer.train(text, 300)


def build(seed=1):
    sizes = {"vocab_size": 300, "context_length": 128, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
    torch.manual_seed(seed)
    return GPTModel({**sizes, "drop_rate": 0.0, "tie_weights": True})


def quiet(line):
    pass


def tune(model, tokenizer, config=SHORT, **options):
    options = {"format": BOOK_PHI, "log": quiet} | options
    return finetune_instructions(model, tokenizer, TRAIN, VALIDATION, config, **options)


@pytest.fixture(scope="module")
def tuned(small):
    """A model that has learned to say two words."""
    model = build()
    tune(model, small, TrainConfig(steps=120, micro_batch=16, eval_every=60, **SETTINGS))
    return model


def test_finetune_instructions_teaches_to_answer_and_to_stop(small, tuned):
    untuned = answer(build(), small, VALIDATION, format=BOOK_PHI, max_new_tokens=12)
    found = answer(tuned, small, VALIDATION, format=BOOK_PHI, max_new_tokens=12)
    right = [each.text == entry["output"] for each, entry in zip(found, VALIDATION, strict=True)]
    assert sum(right) >= 7  # of 9
    assert stopped_share(found) >= 0.95
    assert stopped_share(untuned) < 0.5


def test_finetune_instructions_says_what_is_learned(small):
    lines = []
    tune(build(), small, log=lines.append)
    rows = instruction_rows(TRAIN, small, format=BOOK_PHI)
    targets = sum(int((rows[i][1] >= 0).sum()) for i in range(len(rows)))
    share = round(100 * targets / int(rows.lengths.sum()))
    assert lines[0] == f"train: {rows}, {share}% of the tokens are learned"
    assert lines[1].startswith("validation: TokenRows(9 rows")


def test_finetune_instructions_keeps_the_best_model_with_its_tokenizer(small, tmp_path):
    model = build()
    tune(model, small, folder=tmp_path)
    loaded, tokenizer = load_model(tmp_path)
    assert tokenizer.decode([290]) == small.decode([290])
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    kept = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["step"] for line in kept.splitlines() if "val_loss" in line] == [3, 6]


@pytest.mark.parametrize("packing", [False, True])
def test_finetune_instructions_goes_on_where_it_was_stopped(small, tmp_path, packing):
    whole, stopped = build(), build()
    tune(whole, small, folder=tmp_path / "whole", packing=packing)

    def stop(line):
        if line.startswith("step 6: validation"):
            raise StopHereError

    with pytest.raises(StopHereError):
        tune(stopped, small, folder=tmp_path / "run", packing=packing, log=stop)
    goes_on = build(seed=2)
    state = tune(goes_on, small, folder=tmp_path / "run", packing=packing, resume=True)
    assert state.step == 6
    for a, b in zip(whole.parameters(), goes_on.parameters(), strict=True):
        assert torch.equal(a, b)


def test_finetune_instructions_packs_many_rows_and_measures_them_alike(small, tmp_path):
    losses, targets = [], []
    for packing in (False, True):
        config = TrainConfig(steps=1, micro_batch=4, **{**SETTINGS, "learning_rate": 0.0})
        tune(build(), small, config, folder=tmp_path / str(packing), packing=packing)
        metrics = read_metrics(tmp_path / str(packing))
        losses.append(next(line["val_loss"] for line in metrics if "val_loss" in line))
        targets.append(next(line["tokens"] for line in metrics if "tokens" in line))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert targets[1] > 3 * targets[0]


def test_finetune_instructions_saves_an_adapter_when_asked(small, tmp_path):
    model = build()
    torch.manual_seed(5)
    replace_linear_with_lora(model, 4, 8, targets="trf_blocks", freeze_base=True)
    base = copy.deepcopy(model.tok_emb.weight)
    tune(model, small, folder=tmp_path, save_best=lambda model, to, _: save_adapter(model, to))
    assert torch.equal(model.tok_emb.weight, base)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= names
    assert "model.safetensors" not in {path.name for path in tmp_path.iterdir()}


def test_finetune_instructions_takes_rows_and_no_validation(small):
    rows = instruction_rows(TRAIN, small, format=BOOK_PHI)
    one, other = build(), build()
    finetune_instructions(one, small, rows, None, SHORT, log=quiet)
    finetune_instructions(other, small, TRAIN, None, SHORT, format=BOOK_PHI, log=quiet)
    assert torch.equal(one.tok_emb.weight, other.tok_emb.weight)


@pytest.mark.filterwarnings("ignore:. of")
def test_finetune_instructions_leaves_out_few_answers_that_do_not_fit(small):
    entry = {**ENTRIES[0], "output": "rope " * 200}
    with pytest.raises(ValueError, match="1 of 3 rows would be left out, more than a tenth"):
        finetune_instructions(build(), small, [*TRAIN[:2], entry], None, SHORT, log=quiet)
    model, same = build(), build()
    train = [*TRAIN[:9], entry]
    finetune_instructions(model, small, train, None, SHORT, log=quiet)
    finetune_instructions(same, small, TRAIN[:9], None, SHORT, log=quiet)
    assert torch.equal(model.tok_emb.weight, same.tok_emb.weight)


def test_answer_gives_each_what_it_gets_alone_in_the_order_asked(small, tuned):
    entries = [{"instruction": "Say " + "rope, " * n + "tide."} for n in (5, 1, 3, 2)]
    options = {"format": BOOK_PHI, "max_new_tokens": 8}
    alone = [answer(tuned, small, [entry], **options)[0] for entry in entries]
    for size in (1, 3, 16):
        together = answer(tuned, small, entries, batch_size=size, **options)
        assert [each.prompt for each in together] == [
            prompt_text(entry, BOOK_PHI) for entry in entries
        ]
        assert [each.ids for each in together] == [each.ids for each in alone]


def test_answer_says_which_answers_ended_by_themselves(small, tuned):
    cut = answer(tuned, small, VALIDATION[:4], format=BOOK_PHI, max_new_tokens=1)
    assert {each.finish_reason for each in cut} == {"length"}
    assert stopped_share(cut) == 0
    both = cut[:1] + answer(tuned, small, VALIDATION[:1], format=BOOK_PHI, max_new_tokens=12)
    assert stopped_share(both) == 0.5


def test_answer_leaves_the_modes_as_found(small):
    model = build().train()
    answer(model, small, VALIDATION[:1], format=BOOK_PHI, max_new_tokens=1)
    assert model.training
    assert answer(model, small, []) == []


def test_answer_and_stopped_share_refuse_nothing(small):
    with pytest.raises(ValueError, match="batch_size=0 must be 1 or more"):
        answer(build(), small, VALIDATION, batch_size=0)
    with pytest.raises(ValueError, match="no answers"):
        stopped_share([])
