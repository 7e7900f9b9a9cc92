"""Every figure of book appendix D, computed with this library.

The training run of 15 epochs is made once, and only by `-m long`.
"""

from __future__ import annotations

import book_appendix_d
import pytest
from book_appendix_d import EPOCHS
from book_ch05 import loaders
from book_figures import Chapter
from book_start import START, values_of

from llm_scratch.training.appendix_d import book_learning_rate

figure = Chapter("appD")


@pytest.fixture(scope="module")
def steps(verdict):
    return len(loaders(verdict)[0]) * EPOCHS


@figure("appD.warmup_steps")
def warmup_steps(steps):
    return int(0.2 * steps)


@figure("appD.total_steps")
def total_steps(steps):
    return steps


def rates(steps, *, initial, peak, minimum):
    options = {"total_steps": 135, "warmup_steps": 27, "peak_lr": peak}
    options |= {"initial_lr": initial, "min_lr": minimum}
    return [book_learning_rate(step, **options) for step in steps]


@figure("appD.schedule.demo")
def rates_of_the_demonstration():
    return rates([0, 1, 26, 27, 134], initial=1e-4, peak=1e-2, minimum=1e-5)


@figure("appD.schedule.train")
def rates_of_the_training_run():
    return rates([0, 1, 26, 27, 81, 134], initial=1e-5, peak=1e-3, minimum=1e-5)


@figure("appD.grad.max_cpu", marks=(START,))
def largest_gradients(verdict, run):
    return values_of(run)["largest_gradients"]


@figure("appD.train.log_cpu", long=True)
def training_log(verdict, tokenizer):
    return book_appendix_d.training_log(verdict, tokenizer)


@figure("appD.tests.pkg_first_losses", slow=True)
def losses_after_one_window(verdict, tokenizer):
    return book_appendix_d.losses_after_one_window(verdict, tokenizer)


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
