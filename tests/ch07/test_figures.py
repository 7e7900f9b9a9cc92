"""Every figure of book chapter 7, computed with this library.

Those of GPT-2 come out where its weights (355M) are; the training run takes hours on a CPU and is
made by `-m long` alone.
"""

from __future__ import annotations

import hashlib
import re

import book_appendix_e
import book_ch07
import book_preferences
import pytest
import torch
from book_figures import Chapter
from torch.nn import functional as F

from llm_scratch.finetuning.instructions import (
    custom_collate_draft_1,
    custom_collate_draft_2,
    custom_collate_fn,
    load_instructions,
)
from llm_scratch.finetuning.prompts import prompt_text
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT

figure = Chapter("ch07")
BATCH = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]


@pytest.fixture(scope="module")
def path(book_file):
    return book_file("instruction-data")


@pytest.fixture(scope="module")
def data(path):
    return load_instructions(path)


@pytest.fixture(scope="module")
def batches(data, tokenizer):
    """The training batches of the first pass."""
    train, _, val = book_ch07.split(data)
    return list(book_ch07.loaders(train, val, tokenizer, 1024)[0])


@pytest.fixture(scope="module")
def sample(data, tokenizer):
    return book_ch07.sample_batch(data, tokenizer)


@pytest.fixture(scope="module")
def counted():
    return book_appendix_e.trainable_numbers("355M", classes=None)


@pytest.fixture(scope="module")
def untrained(released, data, tokenizer):
    return book_ch07.untrained(released("355M"), data, tokenizer)


@pytest.fixture(scope="module")
def trained(released, data, tokenizer):
    return book_ch07.whole_training(released("355M"), data, tokenizer)


def whole_text(entry):
    return prompt_text(entry) + entry["output"]


@figure("ch07.data.entries")
def number_of_entries(data):
    return len(data)


@figure("ch07.data.sha256")
def digest_of_the_file(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@figure("ch07.data.entry50_input")
def input_of_entry_50(data):
    return data[50]["input"]


@figure("ch07.format.entry50.length")
def length_of_entry_50(data):
    return len(whole_text(data[50]))


@figure("ch07.format.entry999.sha256")
def digest_of_entry_999(data):
    return hashlib.sha256(whole_text(data[999]).encode()).hexdigest()


@figure("ch07.format.entry999.length")
def length_of_entry_999(data):
    return len(whole_text(data[999]))


@figure("ch07.pad_id")
def padding_id(tokenizer):
    return tokenizer.encode(END_OF_TEXT, allowed_special={END_OF_TEXT})


@figure("ch07.collate.batch")
def toy_batch():
    return BATCH


@figure("ch07.collate.draft1")
def padded_batch():
    return custom_collate_draft_1(BATCH)


@figure("ch07.collate.draft2.{}", parts=("inputs", "targets"))
def batch_with_targets(part):
    return dict(zip(("inputs", "targets"), custom_collate_draft_2(BATCH), strict=True))[part]


@figure("ch07.collate.final.{}", parts=("inputs", "targets"))
def batch_with_masked_targets(part):
    return dict(zip(("inputs", "targets"), custom_collate_fn(BATCH), strict=True))[part]


LOGITS = torch.tensor([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])


@figure("ch07.ce.two_examples")
def loss_of_two():
    return F.cross_entropy(LOGITS[:2], torch.tensor([0, 1])).item()


@figure("ch07.ce.three_examples")
def loss_of_three():
    return F.cross_entropy(LOGITS, torch.tensor([0, 1, 1])).item()


@figure("ch07.ce.ignore_index")
def loss_of_two_and_one_ignored():
    return F.cross_entropy(LOGITS, torch.tensor([0, 1, -100])).item()


@figure("ch07.loader.train_lengths")
def lengths_of_the_batches(batches):
    assert all(inputs.shape == targets.shape for inputs, targets in batches)
    return [inputs.shape[1] for inputs, _ in batches]


@figure("ch07.loader.last_inputs_row0")
def first_row_of_the_last_batch(batches):
    return batches[-1][0][0]


@figure("ch07.initial.train_loss")
def training_loss_before(untrained):
    return untrained.losses[0]


@figure("ch07.initial.val_loss")
def validation_loss_before(untrained):
    return untrained.losses[1]


@figure("ch07.untrained.first_line")
def first_line_before(untrained):
    return untrained.answer.splitlines()[0]


@figure("ch07.train.log", long=True)
def training_log(trained):
    return trained


@figure("ch07.train.num_evals", long=True)
def number_of_evaluations(trained):
    return len(trained)


@figure("ch07.save.file_name")
def name_of_the_file():
    return f"{re.sub(r'[ ()]', '', 'gpt2-medium (355M)')}-sft.pth"


@figure("ch07.ex7.1.user_marker_ids")
def ids_of_the_mark(tokenizer):
    return tokenizer.encode("<|user|>")


@figure("ch07.ex7.2.shape")
def shape_of_the_sample(sample):
    return sample.inputs.shape


@figure("ch07.ex7.2.targets_row1")
def targets_of_the_sample(sample):
    return sample.targets[1]


@figure("ch07.ex7.2.unmasked_text")
def learned_text_of_the_sample(sample, tokenizer):
    return tokenizer.decode(sample.targets[1][sample.targets[1] != -100].tolist())


@figure("ch07.ex7.4.trainable_{}", parts=("before", "frozen", "lora"))
def trainable_numbers(counted, part):
    return vars(counted)[part]


@figure("ch07.tests.pkg_first_losses")
def losses_of_a_tiny_model(data, tokenizer):
    return book_ch07.losses_of_a_tiny_model(data, tokenizer)


@figure("ch07.bonus04.manual_loss")
def preference_loss_by_picking():
    return book_preferences.loss_by_picking()


@figure("ch07.bonus04.gather")
def gathered():
    return book_preferences.gathered()


@figure("ch07.bonus04.initial_dpo_loss")
def preference_loss_of_the_reference(book_file, tokenizer):
    path = book_file("instruction-data-with-preference")
    return book_preferences.loss_of_the_reference_itself(path, tokenizer)


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
