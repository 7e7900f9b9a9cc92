"""What a fine-tuning run needs besides its loop: parts of the data, settings, a ready model."""

from __future__ import annotations

import pytest
import torch

from llm_scratch.finetuning.answer_scores import score_answers
from llm_scratch.finetuning.labelled_texts import split_texts
from llm_scratch.finetuning.preparing import prepare_model
from llm_scratch.finetuning.runs import run_config
from llm_scratch.finetuning.splits import split_rows
from llm_scratch.generation.texts import Generation
from llm_scratch.lora.layers import LinearWithLoRA
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.weights.folder import save_model

SIZES = {"vocab_size": 20, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 2}


def test_split_rows_gives_every_row_to_one_part():
    train, validation, test = split_rows(range(25), seed=1)
    assert (len(train), len(validation), len(test)) == (21, 2, 2)
    assert sorted(train + validation + test) == list(range(25))
    assert split_rows(range(25), seed=1) == (train, validation, test)
    assert split_rows(range(25), seed=2) != (train, validation, test)
    with pytest.raises(ValueError, match="9 rows are too few for three parts"):
        split_rows(range(9), seed=1)


def test_split_texts_has_the_same_classes_in_every_part():
    rows = [("abc"[(row > 39) + (row > 59)], f"text {row}") for row in range(63)]
    parts = split_texts(rows, GPT2Tokenizer(), seed=3)
    assert [part.class_names for part in parts] == [("a", "b", "c")] * 3
    counts = [tuple(part.counts().values()) for part in parts]
    assert counts == [(32, 16, 1), (4, 2, 1), (4, 2, 1)]
    assert sorted(text for part in parts for text in part.texts) == sorted(t for _, t in rows)
    assert parts[0].labels != sorted(parts[0].labels)  # an evaluation may read the first rows alone


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("aaaaabbccc", "too few rows of a class for three parts: b has 2; 3 of each are needed"),
        ("aaaaaaaaaa", "all 10 rows have one label, 'a'; two are needed"),
    ],
)
def test_split_texts_names_the_class_that_has_too_few_rows(labels, message):
    rows = [(label, f"text {label}") for label in labels]
    with pytest.raises(ValueError, match=message):
        split_texts(rows, GPT2Tokenizer(), seed=1)


def test_run_config_counts_steps_from_epochs():
    config = run_config("classify", 83, micro_batch=4)
    assert config.steps == round(5 * 83 / 4)
    assert (config.eval_every, config.save_every, config.log_every) == (20, 20, 5)
    assert config.learning_rate == 5e-4
    assert run_config("prefer", 80, epochs=2).steps == 20
    assert run_config("prefer", 80, accumulation=2).steps == 5
    assert run_config("instruct", 80, steps=7, eval_every=3).eval_every == 3
    assert run_config("instruct", 3).steps == 1
    with pytest.raises(ValueError, match="epochs and steps"):
        run_config("instruct", 80, epochs=2, steps=3)
    with pytest.raises(ValueError, match="there are classify, instruct, prefer"):
        run_config("sing", 80)


def test_prepare_model_lets_learn_what_was_chosen():
    model = GPTModel(SIZES)
    assert prepare_model(model, base="m") is save_model
    assert all(parameter.requires_grad for parameter in model.parameters())
    prepare_model(model, base="m", num_classes=3, trained="head")
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learning == ["out_head.weight", "out_head.bias"]


@pytest.mark.parametrize("num_classes", [None, 3])
def test_prepare_model_puts_lora_into_the_blocks(num_classes, tmp_path):
    model = GPTModel(SIZES)
    save = prepare_model(model, base=tmp_path / "m", lora=2, num_classes=num_classes)
    layer = model.trf_blocks[0].att.W_query
    assert isinstance(layer, LinearWithLoRA)
    assert (layer.lora.rank, layer.lora.alpha) == (2, 2)
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == ({"trf_blocks", "out_head"} if num_classes else {"trf_blocks"})
    assert save.keywords == {"base": str(tmp_path / "m")}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"alpha": 2.0}, "lora=RANK goes with alpha="),
        ({"trained": "all"}, "leave it out"),
        ({"trained": "all", "lora": 2, "num_classes": 3}, "without LoRA; leave it out"),
    ],
)
def test_prepare_model_refuses_what_has_no_effect(choices, message):
    model = GPTModel(SIZES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        prepare_model(model, base="m", **choices)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_score_answers_are_means_over_all():
    answers = [
        Generation("p", text, [1], reason, 1, 1, None, None)
        for text, reason in (("red", "eos"), ("dark blue", "length"))
    ]
    scores = score_answers(answers, [{"output": "red"}, {"output": "blue"}])
    assert scores == pytest.approx((0.5, (1 + 2 / 3) / 2, 0.5))
    with pytest.raises(ValueError, match="shorter"):
        score_answers(answers, [{"output": "red"}])
