"""Every figure of book appendix E, computed with this library.

Those of the messages come out where the SMS Spam Collection is on this machine: it may not be part
of this project, so it is never demanded. Those of GPT-2 come out where its weights are; the
training run is made by `-m long` alone.
"""

from __future__ import annotations

import book_appendix_e
import book_ch06
import pytest
from book_figures import Chapter

figure = Chapter("appE")


@pytest.fixture(scope="module")
def parts(sms, tokenizer):
    return book_ch06.datasets(sms, tokenizer)


@pytest.fixture(scope="module")
def accuracies(released, parts):
    from llm_scratch.weights.gpt2 import load_gpt2

    found = book_appendix_e.with_lora(load_gpt2(released("124M"), tie_weights=False), parts)
    return found.before, found.with_zero_b


@pytest.fixture(scope="module")
def trained(released, parts):
    from llm_scratch.weights.gpt2 import load_gpt2

    return book_appendix_e.whole_training(load_gpt2(released("124M"), tie_weights=False), parts)


@pytest.fixture(scope="module")
def counted():
    return book_appendix_e.trainable_numbers("124M", classes=2)


@figure("appE.loader.num_batches")
def number_of_batches(parts):
    return [len(loader) for loader in book_ch06.loaders(parts)]


@figure("appE.loader.shapes")
def shapes_of_a_batch(parts):
    inputs, labels = list(book_ch06.loaders(parts)[0])[-1]
    return [inputs.shape, labels.shape]


@figure("appE.gpt2.greedy15")
def greedy_text(released, tokenizer):
    return book_appendix_e.greedy_text(released("124M"), tokenizer)


@figure("appE.initial.accuracy_pct")
def accuracy_before(accuracies):
    return accuracies[0]


@figure("appE.lora.accuracy_pct_zero_b")
def accuracy_with_lora_that_has_not_learned(accuracies):
    return accuracies[1]


@figure("appE.params.frozen")
def trainable_when_frozen(counted):
    return counted.frozen


@figure("appE.params.lora")
def trainable_with_lora(counted):
    return counted.lora


@figure("appE.train.log_cpu", long=True)
def log_of_the_training(trained):
    return trained.rows


@figure("appE.final.accuracy_pct", long=True)
def accuracy_after(trained):
    return trained.final


@figure("appE.tests.pkg_first_losses")
def losses_of_a_tiny_model(parts):
    return book_appendix_e.losses_of_a_tiny_model(parts)


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
