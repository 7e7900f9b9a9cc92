"""The pictures of chapter 6 hold what they were given."""

from __future__ import annotations

import pytest
import torch

from llm_scratch.plotting.learning import plot_confusion, plot_values

pytest.importorskip("matplotlib", reason="pip install matplotlib brings it")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("points", [1, 5, 60])
def test_plot_values_keeps_values_and_names(points, tmp_path):
    places = torch.linspace(0, 5, points), torch.linspace(0, 5200, points)
    train, val = [0.5 + i / 100 for i in range(points)], [0.4] * points
    figure = plot_values(*places, train, val, label="accuracy")
    below, top = figure.axes
    assert [list(line.get_ydata()) for line in below.get_lines()] == [train, val]
    assert (below.get_ylabel(), below.get_xlabel()) == ("Accuracy", "Epochs")
    assert top.get_xlabel() == "Examples seen"
    figure.savefig(tmp_path / "values.png")


def test_plot_values_shows_a_loss_unless_told_otherwise():
    figure = plot_values([0.0, 1.0], [0, 8], [2.0, 1.0], [2.0, 1.5])
    assert figure.axes[0].get_ylabel() == "Loss"


def test_plot_values_refuses_series_of_different_length():
    with pytest.raises(ValueError, match="train_values 2, val_values 1"):
        plot_values([0, 1], [0, 8], [2.0, 1.0], [2.0])


@pytest.mark.filterwarnings("error")
def test_plot_confusion_writes_the_true_classes_at_the_rows(tmp_path):
    figure = plot_confusion(torch.tensor([[90, 10], [0, 5]]), ["ham", "spam"])
    axes = figure.axes[0]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {
        ((0, 0), "90"), ((1, 0), "10"), ((0, 1), "0"), ((1, 1), "5")
    }  # fmt: skip
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("True class", "Predicted class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ham", "spam"]
    (image,) = axes.get_images()
    assert image.get_array().tolist() == [[0.9, 0.1], [0.0, 1.0]]
    figure.savefig(tmp_path / "confusion.png")


@pytest.mark.filterwarnings("error")
def test_plot_confusion_draws_a_class_without_examples(tmp_path):
    plot_confusion([[3, 1], [0, 0]]).savefig(tmp_path / "confusion.png")


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [([[1, 2]], None, r"the shape \(1, 2\)"), ([[1]], ["a", "b"], "2 class names for 1 classes")],
)
def test_plot_confusion_refuses(matrix, names, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion(matrix, names)
