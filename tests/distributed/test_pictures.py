"""The pictures of several processes show the numbers that they are given."""

from __future__ import annotations

import pytest

from llm_scratch.plotting.processes import plot_batches, plot_held, plot_speedups

pytest.importorskip("matplotlib", reason="pip install matplotlib brings it")
pytestmark = pytest.mark.filterwarnings("error")

WAYS = {"whole": {"parameters": 4.0, "optimizer": 8.0}, "parts": {"parameters": 2.0, "kept": 1.0}}
SPEEDS = {"A100s": {1: 50.0, 2: 90.0, 4: 150.0}, "here": {2: 3.0, 1: 2.0}}


def test_plot_held_stacks_the_parts_of_each_bar(tmp_path):
    figure = plot_held(WAYS, "GiB", limit=9.0)
    (axes,) = figure.axes
    bars = {container.get_label(): container for container in axes.containers}
    assert list(bars) == ["parameters", "optimizer", "kept"]
    widths = {name: [bar.get_width() for bar in found] for name, found in bars.items()}
    assert widths == {"parameters": [4.0, 2.0], "optimizer": [8.0, 0.0], "kept": [0.0, 1.0]}
    assert [bar.get_x() for bar in bars["kept"]] == [12.0, 2.0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["12", "3", "9 GiB"]
    figure.savefig(tmp_path / "held.png")


@pytest.mark.parametrize("ways", [{}, {"none": {}}, {"odd": {"parameters": -1.0}}])
def test_plot_held_refuses_what_is_no_memory(ways):
    with pytest.raises(ValueError, match="give ways with parts of 0 or more"):
        plot_held(ways)


def test_plot_speedups_shows_multiples_of_one_process(tmp_path):
    figure = plot_speedups(SPEEDS)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["A100s"].get_ydata()) == [1.0, 1.8, 3.0]
    assert list(lines["here"].get_xdata()) == [1, 2]
    assert list(lines["here"].get_ydata()) == [1.0, 1.5]
    figure.savefig(tmp_path / "speedups.png")


@pytest.mark.parametrize("speeds", [{}, {"two alone": {2: 3.0}}])
def test_plot_speedups_needs_the_speed_of_one(speeds):
    with pytest.raises(ValueError, match="each needs that of 1 process"):
        plot_speedups(speeds)


def test_plot_batches_draws_memory_and_speed_below_the_limit(tmp_path):
    memory, speeds = {"8B": {1: 48.0, 2: 63.0}}, {"8B": {2: 11.4, 1: 9.4}}
    figure = plot_batches(memory, speeds, limit=75.0)
    left, right = figure.axes
    assert list(left.get_lines()[0].get_ydata()) == [48.0, 63.0]
    assert list(right.get_lines()[0].get_ydata()) == [9.4, 11.4]
    assert left.get_ylim()[1] > 75.0
    figure.savefig(tmp_path / "batches.png")


def test_plot_batches_needs_both_of_each_setting():
    with pytest.raises(ValueError, match="give the same names"):
        plot_batches({"8B": {1: 48.0}}, {"0.5B": {1: 4.0}}, limit=75.0)
