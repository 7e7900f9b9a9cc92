"""Runs that teach a model to answer in conversations, and its answers."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from llm_scratch.conversations.encoding import encode_prompt
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.messages import Message
from llm_scratch.finetuning.conversation_rows import conversation_rows
from llm_scratch.finetuning.conversation_tuning import (
    answer_conversations,
    conversation_parts,
    finetune_conversations,
    first_prompt,
    sample_answers,
)
from llm_scratch.finetuning.instruction_tuning import stopped_share
from llm_scratch.finetuning.runs import CHAT_PRESETS, run_config
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.llama import LlamaModel
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.weights.folder import load_model

WORDS = ("tide", "clock", "rope", "gull", "ferry", "bell", "storm", "pilot", "lamp", "sail")
REQUESTS = ("Say {}.", "Please say {}.", "What is {}?", "{}, please.", "I want {}.", "Only {}!")


def talk(request, first, second):
    return (
        Message("user", request.format(first)),
        Message("assistant", f"The {first}"),
        Message("user", request.format(second)),
        Message("assistant", f"The {second}"),
    )


ALL = [
    talk(request, word, WORDS[(number + place) % 10])
    for place, request in enumerate(REQUESTS)
    for number, word in enumerate(WORDS)
]
VALIDATION = ALL[::7]
TRAIN = [each for each in ALL if each not in VALIDATION]
FORMAT = "guanaco-llama2"
SETTINGS = {"learning_rate": 4e-3, "eval_batches": None, "log_every": 0, "precision": "float32"}
SHORT = TrainConfig(steps=6, micro_batch=4, eval_every=3, save_every=3, **SETTINGS)


class StopHereError(Exception):
    """Instead of the signal that ends a process."""


@pytest.fixture(scope="module")
def small():
    text = " ".join(f"[INST] {m.content} [/INST]" for each in ALL for m in each)
    return BytePairTokenizer.train(text, 300)


def build(seed=1):
    sizes = {"vocab_size": 300, "context_length": 128, "emb_dim": 32, "n_heads": 4, "n_layers": 2}
    torch.manual_seed(seed)
    return LlamaModel({**sizes, "hidden_dim": 64, "n_kv_groups": 2, "tie_weights": True})


def quiet(line):
    pass


def tune(model, tokenizer, config=SHORT, **options):
    options = {"format": FORMAT, "log": quiet} | options
    return finetune_conversations(model, tokenizer, TRAIN, VALIDATION, config, **options)


@pytest.fixture(scope="module")
def tuned(small):
    """A model that has learned to say two words."""
    model = build()
    tune(model, small, TrainConfig(steps=120, micro_batch=16, eval_every=60, **SETTINGS))
    return model


def test_finetune_conversations_teaches_to_answer_and_to_stop(small, tuned):
    prompts = [each[:1] for each in VALIDATION]
    options = {"format": FORMAT, "max_new_tokens": 12}
    untuned = answer_conversations(build(), small, prompts, **options)
    found = answer_conversations(tuned, small, prompts, **options)
    right = [one.text == talk[1].content for one, talk in zip(found, VALIDATION, strict=True)]
    assert sum(right) >= 7  # of 9
    assert stopped_share(found) >= 0.95
    assert stopped_share(untuned) < 0.5


def test_finetune_conversations_says_what_is_learned(small):
    lines = []
    tune(build(), small, log=lines.append)
    rows = conversation_rows(TRAIN, small, find_format(FORMAT), max_length=128)
    targets = sum(int((rows[i][1] >= 0).sum()) for i in range(len(rows)))
    share = round(100 * targets / int(rows.lengths.sum()))
    assert lines[0] == f"train: {rows}, {share}% of the tokens are learned"
    assert lines[1].startswith("validation: TokenRows(9 rows")


@pytest.mark.parametrize("packing", [False, True])
def test_finetune_conversations_goes_on_where_it_was_stopped(small, tmp_path, packing):
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


def test_finetune_conversations_measures_packs_and_rows_alike(small, tmp_path):
    losses, targets = [], []
    for packing in (False, True):
        config = TrainConfig(steps=1, micro_batch=4, **{**SETTINGS, "learning_rate": 0.0})
        tune(build(), small, config, folder=tmp_path / str(packing), packing=packing)
        metrics = read_metrics(tmp_path / str(packing))
        losses.append(next(line["val_loss"] for line in metrics if "val_loss" in line))
        targets.append(next(line["tokens"] for line in metrics if "tokens" in line))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert targets[1] > 2 * targets[0]


def overshoot(**given):
    """Settings of a run that soon measures worse and worse."""
    return TrainConfig(
        steps=40, micro_batch=16, eval_every=2, save_every=2, warmup_steps=0, clip=None,
        schedule="constant", patience=1, **{**SETTINGS, **given},
    )  # fmt: skip


@pytest.mark.parametrize("lora", [False, True])
def test_early_stopping_gives_the_best_model_back(small, tuned, tmp_path, lora):
    model = copy.deepcopy(tuned)
    options = {}
    if lora:
        replace_linear_with_lora(model, 4, 8, targets="trf_blocks", freeze_base=True)
        options = {"save_best": save_adapter}
    lines = []
    # Answers that contradict those measured: the better it learns, the worse it measures.
    wrong = [(each[0], Message("assistant", "No!"), *each[2:]) for each in TRAIN]
    state = finetune_conversations(
        model, small, wrong, VALIDATION, overshoot(), format=FORMAT, folder=tmp_path,
        log=lines.append, **options,
    )  # fmt: skip
    assert state.stopped
    assert 0 < state.best_step < state.step < 40
    assert any("stopping early" in line for line in lines)
    measured = TrainConfig(steps=1, micro_batch=16, **{**SETTINGS, "learning_rate": 0.0})
    again = finetune_conversations(
        model, small, wrong, VALIDATION, measured, format=FORMAT, log=quiet
    )  # fmt: skip
    assert again.val_loss == pytest.approx(state.best_loss, abs=1e-6)
    assert state.val_loss > state.best_loss + 1e-4
    if not lora:
        best, _ = load_model(tmp_path)
        assert torch.equal(best.tok_emb.weight, model.tok_emb.weight)


def test_samples_say_how_many_answers_end_and_show_some(small, tuned, tmp_path):
    config = TrainConfig(steps=2, micro_batch=4, sample_every=1, **SETTINGS)
    prompts = [VALIDATION[0], VALIDATION[1]]
    write = sample_answers(small, prompts, format=FORMAT, max_new_tokens=12, shown=1)
    text = write(tuned)
    question, said = VALIDATION[0][0].content, f"  assistant: {VALIDATION[0][1].content}"
    assert text.splitlines() == [
        "100% of 2 answers ended by themselves", f"  user: {question}", said,
    ]  # fmt: skip
    lines = []
    tune(build(), small, config, folder=tmp_path, write_sample=write, log=lines.append)
    assert sum("of 2 answers ended by themselves" in line for line in lines) == 2
    kept = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in kept] == [1, 2]


def test_answers_end_at_a_stop_string_of_the_format(small):
    """A model that goes on as the user is cut off, and nothing of the mark is shown."""
    prompt = VALIDATION[0][:1]
    start = len(encode_prompt(prompt, find_format(FORMAT), small))
    script = small.encode("The bell[INST] Say more")

    def chatter(ids):
        logits = torch.zeros(*ids.shape, 300)
        logits[:, -1, script[ids.shape[1] - start]] = 1.0
        return logits

    options = {"format": FORMAT, "context_size": 128}
    (found,) = answer_conversations(chatter, small, [prompt], max_new_tokens=9, **options)
    assert (found.text, found.finish_reason) == ("The bell", "stop")
    (cut,) = answer_conversations(chatter, small, [prompt], max_new_tokens=2, **options)
    assert (stopped_share([found]), stopped_share([cut])) == (1.0, 0.0)


def test_answer_conversations_gives_each_what_it_gets_alone(small, tuned):
    prompts = [each[:end] for each, end in zip(VALIDATION, (1, 3, 1, 3, 3), strict=False)]
    options = {"format": FORMAT, "max_new_tokens": 8}
    alone = [answer_conversations(tuned, small, [each], **options)[0].ids for each in prompts]
    for size in (2, 16):
        together = answer_conversations(tuned, small, prompts, batch_size=size, **options)
        assert [each.ids for each in together] == alone
    with pytest.raises(ValueError, match="a prompt ends with the user's"):
        answer_conversations(tuned, small, [VALIDATION[0]], **options)


def test_first_prompt_is_what_stands_before_the_first_answer():
    system = Message("system", "Be brief.")
    assert first_prompt((system, *VALIDATION[0])) == [system, VALIDATION[0][0]]
    assert first_prompt(VALIDATION[0][:1]) == [VALIDATION[0][0]]


def test_too_many_conversations_that_do_not_fit_are_refused(small):
    long = talk("Say {} " + "rope " * 90, "tide", "bell")
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="of 3 rows would be left out, more than a tenth"),
    ):
        finetune_conversations(
            build(), small, [*TRAIN[:2], long], None,
            TrainConfig(steps=1, length=64, **SETTINGS), format=FORMAT, log=quiet,
        )  # fmt: skip


def test_an_unknown_format_is_named(small):
    with pytest.raises(ValueError, match="'esperanto'; use one of"):
        tune(build(), small, format="esperanto")


def test_parts_that_are_made_before_are_taken_as_they_are(small):
    data, measured = conversation_parts(
        build(), small, TRAIN, VALIDATION, format=FORMAT, packing=True, log=quiet
    )
    one, other = build(), build()
    state = finetune_conversations(
        one, small, data, measured, SHORT, format=FORMAT, packing=True, log=quiet
    )
    assert tune(other, small, packing=True).val_loss == state.val_loss
    assert torch.equal(one.tok_emb.weight, other.tok_emb.weight)


def test_run_of_the_series_is_a_preset():
    config = run_config("chat", 100, preset="final-tune")
    assert (config.learning_rate, config.schedule, config.weight_decay) == (8e-5, "cosine", 0.01)
    assert (config.micro_batch, config.patience) == (2, 1)
    assert config.steps == 9 * 50
    assert config.warmup == 45
    assert (config.eval_every, config.save_every, config.sample_every) == (50, 50, 50)
    given = run_config("chat", 100, preset="final-tune", epochs=2, micro_batch=4, patience=3)
    assert (given.steps, given.warmup, given.patience, given.eval_every) == (50, 5, 3, 25)
    with pytest.raises(ValueError, match="preset='tuned' is not known; for chat there are final"):
        run_config("chat", 100, preset="tuned")
    with pytest.raises(ValueError, match="is not known"):
        run_config("instruct", 100, preset=next(iter(CHAT_PRESETS)))
