"""Every figure of book chapter 6, computed with this library.

Those of the data come out where the SMS Spam Collection is on this machine: it may not be part of
this project, so it is never demanded. Those of GPT-2 come out where its weights are; the training
run takes a quarter of an hour and is made by `-m long` alone.
"""

from __future__ import annotations

from collections import Counter

import book_ch06
import pytest
from book_figures import Chapter

from llm_scratch.finetuning.labelled_rows import balanced_positions, random_split, read_sms
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids

figure = Chapter("ch06")


@pytest.fixture(scope="module")
def labels(sms):
    return [label for label, _ in read_sms(sms)]


@pytest.fixture(scope="module")
def chosen(labels):
    """The rows of the balanced set, as numbers."""
    return balanced_positions(labels)


@pytest.fixture(scope="module")
def parts(sms, tokenizer):
    return book_ch06.datasets(sms, tokenizer)


@pytest.fixture(scope="module")
def gpt2(released, tokenizer):
    prompt = figure.printed("ch06.gpt2.spam_prompt_continuation").input
    return book_ch06.released_model(released("124M"), tokenizer, prompt)


@pytest.fixture(scope="module")
def trained(parts, released, tokenizer, tmp_path_factory):
    from llm_scratch.weights.gpt2 import load_gpt2

    model = load_gpt2(released("124M"), tie_weights=False)
    texts = [figure.printed(f"ch06.classify.{name}").input for name in ("spam", "not_spam")]
    folder = tmp_path_factory.mktemp("ch06")
    return book_ch06.whole_training(model, parts, tokenizer, texts, folder)


@figure("ch06.data.rows")
def rows_and_columns(labels):
    return [len(labels), 2]


@figure("ch06.data.label_counts")
def label_counts(labels):
    return dict(sorted(Counter(labels).items()))


@figure("ch06.data.balanced_counts")
def balanced_counts(labels, chosen):
    return dict(sorted(Counter(labels[row] for row in chosen).items()))


@figure("ch06.data.balanced_rows")
def balanced_rows(chosen):
    return len(chosen)


@figure("ch06.data.balanced_first5_index")
def first_rows(chosen):
    return chosen[:5]


@figure("ch06.data.balanced_last5_index")
def last_rows(chosen):
    return chosen[-5:]


@figure("ch06.data.split_sizes")
def split_sizes(chosen):
    return [len(part) for part in random_split(chosen, 0.7, 0.1)]


@figure("ch06.pad_id")
def pad_id(tokenizer):
    return tokenizer.encode("<|endoftext|>", allowed_special={"<|endoftext|>"})


@figure("ch06.dataset.max_length")
def longest_message(parts):
    return parts[0].max_length


@figure("ch06.loader.input_shape")
def input_shape(parts):
    return [inputs.shape for inputs, _ in book_ch06.loaders(parts)[0]][-1]


@figure("ch06.loader.label_shape")
def label_shape(parts):
    return [labels.shape for _, labels in book_ch06.loaders(parts)[0]][-1]


@figure("ch06.loader.num_batches")
def number_of_batches(parts):
    return [len(loader) for loader in book_ch06.loaders(parts)]


@figure("ch06.gpt2.greedy15")
def greedy_text(gpt2):
    return gpt2.greedy


@figure("ch06.gpt2.spam_prompt_continuation")
def answer_to_the_prompt(gpt2):
    return gpt2.answer


@figure("ch06.head.inputs")
def inputs_of_the_head(tokenizer):
    return text_to_token_ids("Do you have time", tokenizer)


@figure("ch06.head.inputs_shape")
def shape_of_the_inputs(tokenizer):
    return text_to_token_ids("Do you have time", tokenizer).shape


@figure("ch06.head.outputs")
def outputs_of_the_head(gpt2):
    return gpt2.outputs


@figure("ch06.head.outputs_shape")
def shape_of_the_outputs(tokenizer):
    # The same for every size, so a tiny model does.
    return book_ch06.tiny_model()(text_to_token_ids("Do you have time", tokenizer)).shape


@figure("ch06.head.last_token")
def last_token(gpt2):
    return gpt2.outputs[:, -1, :]


@figure("ch06.head.label")
def label_of_the_last_token(gpt2):
    return gpt2.outputs[0, -1].softmax(dim=-1).argmax()


@figure("ch06.initial.accuracy_pct", long=True)
def accuracy_before_training(trained):
    return trained.accuracy_before


@figure("ch06.initial.losses", long=True)
def losses_before_training(trained):
    return trained.losses_before


@figure("ch06.train.log", long=True)
def training_log(trained):
    return trained.rows


@figure("ch06.train.epoch_accuracy_pct", long=True)
def accuracy_of_the_epochs(trained):
    return trained.epoch_accuracy


@figure("ch06.final.accuracy_pct", long=True)
def accuracy_after_training(trained):
    return trained.accuracy_after


@figure("ch06.classify.spam", long=True)
def first_message(trained):
    return trained.said[0]


@figure("ch06.classify.not_spam", long=True)
def second_message(trained):
    return trained.said[1]


@figure("ch06.load.classify", long=True)
def both_messages_after_loading(trained):
    return trained.said_when_loaded


@figure("ch06.tests.pkg_first_losses")
def losses_of_a_tiny_model(parts):
    return book_ch06.losses_of_a_tiny_model(parts)


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
