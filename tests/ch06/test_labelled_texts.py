"""Texts with classes: where their targets stand, what is cut, what is refused."""

from __future__ import annotations

import pytest
import torch

from llm_scratch.finetuning.labelled_rows import read_labelled
from llm_scratch.finetuning.labelled_texts import ClassificationDataset, split_texts
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT

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


@pytest.fixture(scope="module")
def data(tokenizer):
    return ClassificationDataset(TEXTS, tokenizer)


def test_dataset_marks_the_last_real_token_alone(data, tokenizer):
    assert data.class_names == NAMES
    for (inputs, targets), (name, text) in zip(data, TEXTS, strict=False):
        assert inputs.tolist() == tokenizer.encode(text)
        assert targets[:-1].tolist() == [-100] * (len(inputs) - 1)
        assert NAMES[targets[-1]] == name
    assert data.counts() == {"greeting": 3, "order": 3, "question": 2}
    assert repr(data) == "ClassificationDataset(greeting 3, order 3, question 2)"


def test_dataset_keeps_every_end_where_padding_is_a_real_token(tokenizer):
    (last,) = tokenizer.encode("stop")
    data = ClassificationDataset(TEXTS, tokenizer, pad_token_id=last)
    inputs, targets = next(iter(data.loader(8)))
    assert (targets != -100).sum(dim=1).tolist() == [1] * 8
    assert int(targets[4, 0]) == 1
    assert inputs[4].eq(last).all()


def test_dataset_reads_special_tokens_in_texts_as_text(tokenizer):
    data = ClassificationDataset([("a", END_OF_TEXT), ("b", "hello")], tokenizer)
    assert 50256 not in data[0][0]
    assert len(data[0][0]) > 1


def test_dataset_cuts_to_max_length_and_says_so(tokenizer):
    with pytest.warns(UserWarning, match="2 of 8 texts are cut to 6 tokens"):
        data = ClassificationDataset(TEXTS, tokenizer, max_length=6)
    inputs, targets = data[1]
    assert inputs.tolist() == tokenizer.encode(TEXTS[1][1])[:6]
    assert targets.tolist() == [-100] * 5 + [1]


def test_dataset_takes_numbers_and_names(tokenizer):
    numbered = ClassificationDataset([(2, "a"), (0, "b")], tokenizer)
    assert (numbered.class_names, numbered.labels) == (("0", "1", "2"), [2, 0])
    named = ClassificationDataset([(1, "a"), ("no", "b")], tokenizer, class_names=["no", "yes"])
    assert named.labels == [1, 0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "no rows"),
        ([("a", "x"), ("b", "")], {}, r"text of rows\[1\] has no token"),
        ([("a", "x"), (1, "y")], {}, r"rows\[0\] has the label 'a'; all labels must be names"),
        ([(0, "x"), (1.5, "y")], {}, r"rows\[1\] has the label 1.5"),
        ([(0, "x"), (-1, "y")], {}, r"rows\[1\] has the label -1, out of range"),
        ([(0, "x"), (2, "y")], {"class_names": "ab"}, r"rows\[1\] has the label 2, .* 0 to 1"),
        ([("c", "x")], {"class_names": "ab"}, r"rows\[0\] has the label 'c'; there are a, b"),
        ([("a", "x")], {"class_names": "aa"}, "two classes have one name"),
        ([("a", "x")], {"max_length": 0}, "max_length=0"),
    ],
)
def test_dataset_refuses(tokenizer, rows, options, message):
    with pytest.raises(ValueError, match=message):
        ClassificationDataset(rows, tokenizer, **options)


def test_loader_shuffles_with_the_generator_it_is_given(data):
    def seen(seed):
        loader = data.loader(3, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return [inputs[0, 0].item() for inputs, _ in loader]

    assert seen(1) == seen(1)
    assert len(seen(1)) == 3
    assert len(data.loader(3, drop_last=True)) == 2
    assert any(seen(1) != seen(seed) for seed in (2, 3, 4))


def test_dataset_and_its_parts_name_file_and_row(tokenizer, tmp_path):
    path = tmp_path / "m.tsv"
    path.write_text("".join(f"{'ab'[i % 2]}\ttext {i}\n" for i in range(12)), encoding="utf-8")
    with pytest.raises(ValueError, match="m.tsv: line 2 has the label 'b'; there are a, c"):
        ClassificationDataset(path, tokenizer, class_names=["a", "c"])
    parts = split_texts(read_labelled(path), tokenizer, seed=1)
    assert [part.counts() for part in parts] == [{"a": n, "b": n} for n in (4, 1, 1)]
    rows = [
        row._replace(text="") if row.where.endswith("7") else row for row in read_labelled(path)
    ]
    with pytest.raises(ValueError, match="the text of .*m.tsv: line 7 has no token"):
        split_texts(rows, tokenizer, seed=1)


def test_number_of_a_class_is_small(tokenizer):
    with pytest.raises(ValueError, match="the label 10000 is too high .* give names"):
        ClassificationDataset([(10_000, "a"), (0, "b")], tokenizer)
