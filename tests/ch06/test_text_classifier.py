"""Classifiers for any number of classes: the class of a text depends on the text alone."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from llm_scratch.finetuning.labelled_texts import ClassificationDataset
from llm_scratch.finetuning.text_classifier import (
    CLASSES_FILE,
    Classifier,
    class_probabilities,
    classify_texts,
    evaluate_classifier,
    finetune_classifier,
    load_class_names,
    load_classifier,
    replace_head,
    save_classifier,
)
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.heads import Head, head_of
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.losses import calc_loss_loader
from llm_scratch.training.steps import Engine, evaluate
from llm_scratch.weights.folder import load_model, save_model

NAMES = ("greeting", "order", "question")
TEXTS = [
    ("greeting", "hello"),
    ("order", "bring me the red book from the shelf over there"),
    ("question", "what time is it?"),
    ("greeting", "good morning to you all"),
    ("order", "stop"),
    ("question", "who was it that left the door of the house open last night?"),
    ("greeting", "hi there"),
    ("order", "close the window, please"),
]
CONFIG = {
    **{"vocab_size": 50257, "context_length": 24, "emb_dim": 12, "n_heads": 2, "n_layers": 2},
    **{"drop_rate": 0.0, "qkv_bias": False},
}


def classifier(num_classes=3, train="all", **options):
    torch.manual_seed(5)
    return replace_head(GPTModel({**CONFIG, **options}), num_classes, train).eval()


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def data(tokenizer):
    return ClassificationDataset(TEXTS, tokenizer)


def trained_parts(model):
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name if name.startswith("trf") else name.partition(".")[0] for name in names}


def test_replace_head_draws_the_head_and_nothing_else():
    torch.manual_seed(123)
    expected = torch.nn.Linear(12, 2)
    model = GPTModel(CONFIG)
    torch.manual_seed(123)
    assert replace_head(model, 2) is model
    after = torch.rand(1)
    assert torch.equal(model.out_head.weight, expected.weight)
    assert torch.equal(model.out_head.bias, expected.bias)
    torch.manual_seed(123)
    torch.nn.Linear(12, 2)
    assert torch.equal(torch.rand(1), after)
    assert model(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 2)


@pytest.mark.parametrize(
    ("train", "parts"),
    [
        ("head", {"out_head"}),
        ("last block", {"final_norm", "out_head"}),
        ("all", {"tok_emb", "pos_emb", "final_norm", "out_head"}),
    ],
)
def test_replace_head_freezes_the_rest(train, parts):
    model = GPTModel(CONFIG)
    model.tok_emb.requires_grad_(False)
    found = trained_parts(replace_head(model, 2, train))
    blocks = {name.split(".")[1] for name in found if name.startswith("trf")}
    assert {name for name in found if not name.startswith("trf")} == parts
    assert blocks == {"head": set(), "last block": {"1"}, "all": {"0", "1"}}[train]
    whole = {name for name, _ in model.named_parameters() if name.startswith("trf_blocks.1.")}
    assert "head" in train or whole <= found


@pytest.mark.parametrize("tied", [True, False])
def test_replace_head_follows_type_and_leaves_the_embedding(tied):
    model = GPTModel({**CONFIG, "tie_weights": tied}).to(torch.bfloat16)
    replace_head(model, 4)
    assert model.out_head.weight.dtype == torch.bfloat16
    assert model.tok_emb.weight.shape == (50257, 12)
    assert model.out_head.weight.shape == (4, 12)


@pytest.mark.parametrize(("arguments", "message"), [
    ((1,), "num_classes=1 must be 2 or more"),
    ((2, "first block"), "must be one of 'last block', 'all', 'head'"),
])  # fmt: skip
def test_replace_head_refuses(arguments, message):
    model = GPTModel(CONFIG)
    with pytest.raises(ValueError, match=message):
        replace_head(model, *arguments)
    assert model.out_head.out_features == 50257
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("pad_token_id", [0, 11, 50256])
def test_logits_of_a_text_do_not_hang_on_its_batch(model, tokenizer, pad_token_id):
    data = ClassificationDataset(TEXTS, tokenizer, pad_token_id=pad_token_id)
    with torch.no_grad():
        alone = [model(data[row][0][None])[0, -1] for row in range(7)]
        for size in (1, 2, 7):
            for first in range(0, 7, size):
                inputs, targets = data.rows.padded(range(first, min(first + size, 7)))
                logits = model(inputs)[targets != -100]  # (B, N)
                expected = torch.stack(alone[first : first + size])
                torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_class_probabilities_do_not_hang_on_the_batch(model, data):
    encoded = [data[row][0].tolist() for row in range(8)]
    expected = torch.cat([class_probabilities(model, [ids]) for ids in encoded])
    for size in (1, 2, 7, 8):
        got = class_probabilities(model, encoded, batch_size=size)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    by_hand = model(torch.tensor([encoded[5]]))[0, -1].softmax(dim=-1)
    torch.testing.assert_close(expected[5], by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pad_token_id", [0, 50256])
def test_loss_of_an_epoch_is_the_same_for_every_batch_size(model, tokenizer, pad_token_id):
    data = ClassificationDataset(TEXTS, tokenizer, pad_token_id=pad_token_id)
    engine = Engine(model, [], torch.device("cpu"))
    for size in (1, 2, 3, 8):
        expected = calc_loss_loader(data.loader(1), model, "cpu")
        assert calc_loss_loader(data.loader(size), model, "cpu") == pytest.approx(
            expected, abs=1e-6
        )
        of_the_loop = evaluate(engine, data.rows.rows_in_order(24, size))
        assert of_the_loop == pytest.approx(expected, abs=1e-6)


def test_classify_texts_names_the_likeliest_class(model, tokenizer):
    texts = [text for _, text in TEXTS]
    classes, probabilities = classify_texts(model, tokenizer, texts, NAMES)
    assert probabilities.shape == (8, 3)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(8))
    assert classes == [NAMES[i] for i in probabilities.argmax(dim=1)]
    numbered = classify_texts(model, tokenizer, texts[:2]).classes
    assert [NAMES[int(name)] for name in numbered] == classes[:2]


def test_classify_texts_reads_special_tokens_as_text(model, tokenizer):
    with_mark = classify_texts(model, tokenizer, [f"hello {END_OF_TEXT}"]).probabilities
    ids = tokenizer.encode(f"hello {END_OF_TEXT}", disallowed_special=())
    assert 50256 not in ids
    torch.testing.assert_close(with_mark, class_probabilities(model, [ids]))


def test_classify_texts_cuts_to_the_context_and_says_so(model, tokenizer):
    long = "hello " * 40
    with pytest.warns(UserWarning, match="1 of 2 texts are cut to 24 tokens"):
        found = classify_texts(model, tokenizer, [long, "hi"])
    ids = tokenizer.encode(long)[:24]
    torch.testing.assert_close(found.probabilities[:1], class_probabilities(model, [ids]))


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ("hello", {}, TypeError, "give a list of texts"),
        ([], {}, ValueError, "no rows"),
        (["hello", ""], {}, ValueError, "text 1 has no token"),
        (["hello"], {"class_names": ["a"]}, ValueError, "1 class names for a model of 3 classes"),
    ],
)
def test_classify_texts_refuses(model, tokenizer, texts, options, error, message):
    with pytest.raises(error, match=message):
        classify_texts(model, tokenizer, texts, **options)


def test_classify_texts_refuses_a_model_without_classes(tokenizer):
    with pytest.raises(ValueError, match="no head for classes; replace_head gives it one"):
        classify_texts(GPTModel(CONFIG), tokenizer, ["hello"])


def test_class_probabilities_refuse_what_is_too_long(model):
    with pytest.raises(ValueError, match="row 1 has 25 tokens, at most 24 fit"):
        class_probabilities(model, [[1], [1] * 25])


def test_evaluate_classifier_counts_in_the_order_of_the_classes(model, data, tokenizer):
    matrix = evaluate_classifier(model, data, batch_size=3)
    said = classify_texts(model, tokenizer, data.texts, NAMES).classes
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for label, name in zip(data.labels, said, strict=True):
        expected[label, NAMES.index(name)] += 1
    assert torch.equal(matrix, expected)
    with pytest.raises(ValueError, match=r"has 2 classes, the data 3 .*replace_head\(model, 3\)"):
        evaluate_classifier(classifier(2), data)


def test_classifier_evaluates_its_own_classes_only(model, data, tokenizer):
    own = Classifier(model, tokenizer, NAMES)
    assert torch.equal(own.evaluate(data), evaluate_classifier(model, data))
    turned = ClassificationDataset(TEXTS, tokenizer, class_names=NAMES[::-1])
    with pytest.raises(ValueError, match="the data has the classes question, order, greeting"):
        own.evaluate(turned)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_class_probabilities_refuse_a_batch_size_below_one(model, batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be 1 or more"):
        class_probabilities(model, [[1]], batch_size=batch_size)


RUN = {"steps": 30, "micro_batch": 4, "learning_rate": 1e-2, "eval_every": 10, "save_every": 10}


def tuned(data, tokenizer, folder, **options):
    model = classifier()
    config = TrainConfig(**{**RUN, "log_every": 0, **options})
    state = finetune_classifier(
        model, tokenizer, data, data, config, folder=folder, log=lambda line: None
    )
    return model, state


def test_finetune_classifier_learns_and_keeps_the_best(data, tokenizer, tmp_path):
    model, state = tuned(data, tokenizer, tmp_path / "run")
    assert state.val_loss < 0.2
    assert int(evaluate_classifier(model, data).trace()) == 8
    loaded = load_classifier(tmp_path / "run")
    assert loaded.class_names == NAMES
    assert loaded.classify(data.texts).classes == [name for name, _ in TEXTS]


def test_finetune_classifier_goes_on_to_the_same_model(data, tokenizer, tmp_path):
    shorter = {"steps": 12, "eval_every": 6, "save_every": 6}
    whole, _ = tuned(data, tokenizer, tmp_path / "whole", **shorter)
    stopped, config = classifier(), TrainConfig(**{**RUN, **shorter, "log_every": 0})
    lines = 0

    def stop(line):
        nonlocal lines
        lines += line.startswith("step 6: validation")
        if lines:
            raise KeyboardInterrupt

    run = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        finetune_classifier(stopped, tokenizer, data, data, config, folder=run, log=stop)
    again = classifier()
    finetune_classifier(
        again, tokenizer, data, data, config, folder=run, resume=True, log=lambda line: None
    )
    for name, parameter in whole.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name]), name


def test_finetune_classifier_saves_the_best_in_another_form(data, tokenizer, tmp_path):
    saved = []
    finetune_classifier(
        classifier(), tokenizer, data, data, TrainConfig(**{**RUN, "steps": 2}), folder=tmp_path,
        log=lambda line: None, save_best=lambda model, folder, tokenizer: saved.append(folder),
    )  # fmt: skip
    assert saved == [tmp_path]
    assert load_class_names(tmp_path) == NAMES


def test_finetune_classifier_refuses_what_does_not_fit(data, tokenizer):
    config = TrainConfig(**RUN)
    with pytest.raises(ValueError, match=r"has 2 classes, the data 3"):
        finetune_classifier(classifier(2), tokenizer, data, None, config)
    four = ClassificationDataset(TEXTS, tokenizer, class_names=[*NAMES, "reply"])
    with pytest.raises(ValueError, match="no training text has the class reply"):
        finetune_classifier(classifier(4), tokenizer, four, None, config)
    other = ClassificationDataset(TEXTS, tokenizer, class_names=NAMES[::-1])
    with pytest.raises(ValueError, match="the validation part has the classes greeting, order, q"):
        finetune_classifier(classifier(), tokenizer, other, data, config)
    with pytest.raises(ValueError, match="row 5 has 14 tokens, at most 12 fit"):
        finetune_classifier(classifier(context_length=12), tokenizer, data, None, config)


IN_A_NEW_PROCESS = """
import sys
from llm_scratch.finetuning.text_classifier import load_classifier
found = load_classifier(sys.argv[1]).classify(sys.argv[2:])
print(*found.classes, *(f"{p:.6f}" for p in found.probabilities.flatten().tolist()))
"""


@pytest.mark.slow
def test_classifier_says_the_same_in_a_new_process(model, tokenizer, tmp_path):
    folder = save_classifier(model, tmp_path / "saved", tokenizer, NAMES)
    texts = [text for _, text in TEXTS[:3]]
    here = classify_texts(model, tokenizer, texts, NAMES)
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(folder), *texts]
    printed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    words = printed.split()
    assert words[:3] == here.classes
    there = torch.tensor([float(word) for word in words[3:]]).view(3, 3)
    torch.testing.assert_close(there, here.probabilities, atol=2e-6, rtol=0)


def test_save_classifier_needs_a_name_for_each_class(model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="has 3 classes, the data 2"):
        save_classifier(model, tmp_path, tokenizer, NAMES[:2])


def test_load_classifier_needs_names_and_a_model(model, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model was saved"):
        load_classifier(tmp_path)
    save_model(unnamed(model), tmp_path, tokenizer)
    assert load_model(tmp_path)[0].out_head.out_features == 3
    with pytest.raises(FileNotFoundError, match="no classifier was saved"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"classes": ["a", "b"]}', "2 names for a model of 3 classes"),
        ('{"classes": "abc"}', "holds no names of classes"),
        ('{"classes": [1, 2, 3]}', "holds no names of classes"),
        ('{"classes": ', "damaged"),
    ],
)
def test_load_classifier_refuses_other_names(model, tokenizer, tmp_path, text, message):
    save_model(unnamed(model), tmp_path, tokenizer)
    (tmp_path / CLASSES_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=message):
        load_classifier(tmp_path)


def test_load_classifier_reads_the_names_of_an_older_folder(model, tokenizer, tmp_path):
    save_model(unnamed(model), tmp_path, tokenizer)
    (tmp_path / CLASSES_FILE).write_text(f'{{"classes": {json.dumps(NAMES)}}}', encoding="utf-8")
    assert load_classifier(tmp_path).class_names == tuple(NAMES)


def test_saved_classifier_states_its_head_and_names(model, tokenizer, tmp_path):
    save_classifier(model, tmp_path, tokenizer, NAMES)
    (tmp_path / CLASSES_FILE).unlink()
    assert load_model(tmp_path)[0].class_names == tuple(NAMES)
    assert load_classifier(tmp_path).class_names == tuple(NAMES)


def test_head_without_a_bias_is_saved_and_opened(model, tokenizer, tmp_path):
    bare = copy.copy(unnamed(model))
    bare._modules = dict(bare._modules)
    bare.out_head = nn.Linear(model.cfg.emb_dim, 4, bias=False)
    save_model(bare, tmp_path, tokenizer)
    opened, _ = load_model(tmp_path)
    assert head_of(opened) == Head("classes", 4)
    torch.testing.assert_close(opened.out_head.weight, bare.out_head.weight)


def unnamed(model):
    """The same model as versions before this one saved it: its file holds no names."""
    twin = copy.copy(model)
    twin.class_names = None
    return twin
