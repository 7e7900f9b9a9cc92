"""Pictures hold what they were given, and touch nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_scratch.plotting.choices import plot_temperatures
from llm_scratch.plotting.insides import plot_activations, plot_attention, plot_positions
from llm_scratch.plotting.learning import plot_losses
from llm_scratch.plotting.lengths import plot_lengths

LABELS = ["closer", "every", "forward"]


def drawn(figure, tmp_path: Path) -> int:
    """Save the figure and return the size of the file: it must be possible to draw it."""
    figure.savefig(tmp_path / "picture.png")
    return (tmp_path / "picture.png").stat().st_size


def losses(points: int):
    epochs = torch.linspace(0, 2, points)
    tokens = [512 * (i + 1) for i in range(points)]
    return plot_losses(epochs, tokens, [9.0] * points, [9.5] * points)


@pytest.mark.parametrize("points", [0, 1, 2, 100])
@pytest.mark.filterwarnings("error")
def test_plot_losses_draws_any_number_of_points(points: int, tmp_path: Path) -> None:
    figure = losses(points)
    assert drawn(figure, tmp_path) > 1000
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines()] == [points, points]


@pytest.mark.filterwarnings("error")
def test_plot_losses_draws_points_at_one_place(tmp_path: Path) -> None:
    drawn(plot_losses([1.0, 1.0], [512, 512], [9.0, 8.0], [9.5, 9.0]), tmp_path)


def test_plot_losses_lines_the_two_axes_up() -> None:
    epochs_axis, tokens_axis = losses(11).axes
    low, high = epochs_axis.get_xlim()
    assert tokens_axis.get_xlim() == pytest.approx((512 + low * 2560, 512 + high * 2560))
    assert tokens_axis.get_xlabel() == "Tokens seen"


def test_plot_losses_marks_a_single_point_with_its_tokens() -> None:
    _, tokens_axis = plot_losses([0.5], [2560], [9.0], [9.5]).axes
    assert [label.get_text() for label in tokens_axis.get_xticklabels()] == ["2,560"]


def test_plot_losses_refuses_series_of_different_length() -> None:
    with pytest.raises(ValueError, match="tokens_seen 1, train_losses 2"):
        plot_losses([1, 2], [512], [9.0, 8.0], [9.5, 9.0])


def test_plot_losses_marks_the_points_while_they_are_few() -> None:
    markers = [losses(points).axes[0].get_lines()[0].get_marker() for points in (1, 100)]
    assert markers == ["o", ""]


def test_plot_losses_keeps_the_losses() -> None:
    train, val = plot_losses([1, 2], [8, 16], [9.0, 8.0], [9.5, 8.5]).axes[0].get_lines()
    assert list(train.get_ydata()) == [9.0, 8.0]
    assert list(val.get_ydata()) == [9.5, 8.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plot_attention_shows_the_weights(dtype: torch.dtype) -> None:
    weights = torch.eye(3, dtype=dtype, requires_grad=True)
    (image,) = plot_attention(weights, LABELS).axes[0].get_images()
    assert np.array_equal(image.get_array(), np.eye(3))


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_plot_attention_gives_each_head_a_panel(heads: int, tmp_path: Path) -> None:
    figure = plot_attention(torch.rand(heads, 4, 4))
    assert sum(bool(axes.get_images()) for axes in figure.axes) == heads
    drawn(figure, tmp_path)


def test_plot_attention_writes_the_tokens_at_both_axes(tmp_path: Path) -> None:
    figure = plot_attention(torch.eye(3), ["a", "\n", "$x$"])
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["a", "\\n", r"\$x\$"]
    drawn(figure, tmp_path)


def test_plot_attention_leaves_out_labels_that_nobody_could_read() -> None:
    figure = plot_attention(torch.rand(60, 60), ["word"] * 60)
    assert "word" not in [label.get_text() for label in figure.axes[0].get_xticklabels()]


def test_plot_attention_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        plot_attention(torch.rand(2, 3))
    with pytest.raises(ValueError, match="2 tokens for weights of 3"):
        plot_attention(torch.eye(3), ["a", "b"])


def test_plot_activations_shows_both_functions() -> None:
    for axes in plot_activations().axes:
        assert [line.get_label() for line in axes.get_lines()] == ["GELU", "ReLU"]


def test_plot_activations_shows_gelu_as_torch_computes_it() -> None:
    gelu = plot_activations().axes[0].get_lines()[0]
    x = torch.from_numpy(np.asarray(gelu.get_xdata()))
    expected = torch.nn.functional.gelu(x, approximate="tanh")
    torch.testing.assert_close(torch.from_numpy(np.asarray(gelu.get_ydata())), expected)


def test_plot_positions_is_white_at_zero() -> None:
    (image,) = plot_positions(torch.tensor([[-1.0, 0.5], [3.0, 0.0]])).axes[0].get_images()
    assert image.get_clim() == (-3.0, 3.0)


@pytest.mark.filterwarnings("error")
def test_plot_positions_draws_a_matrix_of_zeros(tmp_path: Path) -> None:
    drawn(plot_positions(np.zeros((4, 8))), tmp_path)


def test_plot_positions_refuses_a_vector() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        plot_positions(torch.rand(3))


def test_plot_temperatures_takes_a_dict_and_a_matrix() -> None:
    rows = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    for figure in (
        plot_temperatures({1: rows[0], 0.1: rows[1]}, LABELS),
        plot_temperatures(rows, LABELS, [1, 0.1]),
    ):
        axes = figure.axes[0]
        heights = [[bar.get_height() for bar in group] for group in axes.containers]
        assert np.allclose(heights, rows)
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        assert names == ["Temperature 1", "Temperature 0.1"]


def test_plot_temperatures_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="for 2 labels"):
        plot_temperatures({1.0: [0.5, 0.2, 0.3]}, ["a", "b"])
    with pytest.raises(ValueError, match="1 temperatures for 2 rows"):
        plot_temperatures([[0.5, 0.5], [0.1, 0.9]], ["a", "b"], [1.0])


def test_plot_lengths_counts_every_text(tmp_path: Path) -> None:
    figure = plot_lengths([1, 5, 5, 900], [0, 2, 3, 4], context=5)
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")) == 4
    (line,) = (line for line in axes.get_lines())
    assert list(line.get_xdata()) == [5, 5]
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "5 tokens: 25.0% are longer" in shown
    assert {"all tokens", "learned tokens"} < set(shown)
    assert drawn(figure, tmp_path) > 1000


@pytest.mark.filterwarnings("error")
def test_plot_lengths_draws_few_and_short_texts(tmp_path: Path) -> None:
    for lengths in ([0], [3], [3, 3], [10**7, 1]):
        assert drawn(plot_lengths(lengths), tmp_path) > 1000


def test_plot_lengths_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="0 lengths and 0 of what is learned"):
        plot_lengths([])
    with pytest.raises(ValueError, match="2 lengths and 1 of what is learned; one or more"):
        plot_lengths([1, 2], [1])


def test_plots_open_no_window_and_leave_pyplot_alone() -> None:
    before = "matplotlib.pyplot" in sys.modules
    losses(3)
    assert ("matplotlib.pyplot" in sys.modules) == before
