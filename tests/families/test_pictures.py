"""The pictures of the bonus chapter hold what the formulas give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.rope import frequencies
from llm_scratch.plotting.families import (
    plot_cache_memory,
    plot_rope_wavelengths,
    plot_rope_waves,
    plot_speeds,
)

pytest.importorskip("matplotlib", reason="pip install matplotlib brings it")
pytestmark = pytest.mark.filterwarnings("error")

SIZES = {"vocab_size": 32, "context_length": 512, "emb_dim": 32, "n_heads": 2, "n_layers": 3}
CONFIG = LlamaConfig(**SIZES, hidden_dim=48, head_dim=16, n_kv_groups=1)
MEASURED = {"small": {"float32": 40.0, "int8": 4.0}, "large": {"float32": 10.0}}
LIMITS = {"small": {"float32": 50.0, "int8": 200.0}, "large": {"float32": 16.0}}


def test_plot_rope_waves_draws_the_cosines_that_rope_multiplies_with(tmp_path):
    turns = frequencies(CONFIG)
    figure = plot_rope_waves(turns, (0, 3, 7), positions=40)
    assert len(figure.axes) == 3
    for panel, pair in zip(figure.axes, (0, 3, 7), strict=True):
        _, points = panel.get_lines()
        expected = torch.cos(torch.arange(40) * turns[pair]).numpy()
        assert list(points.get_xdata()) == list(range(40))
        np.testing.assert_allclose(points.get_ydata(), expected, atol=1e-4)
    figure.savefig(tmp_path / "waves.png")


def test_plot_rope_waves_says_how_long_a_turn_is():
    titles = [axes.get_title("left") for axes in plot_rope_waves([1.0, 0.001], (0, 1)).axes]
    assert titles == ["Pair 0: one turn in 6.3 tokens", "Pair 1: one turn in 6,283 tokens"]


@pytest.mark.parametrize("pairs", [(), (0, 8), (-1,)])
def test_plot_rope_waves_refuses_pairs_that_are_not_there(pairs):
    with pytest.raises(ValueError, match="of 8; give some from 0 on"):
        plot_rope_waves(frequencies(CONFIG), pairs)


def test_plot_rope_wavelengths_draws_the_formula(tmp_path):
    bases = {"low": 10_000.0, "high": 500_000.0}
    rows = {
        name: frequencies(LlamaConfig(**{**CONFIG, "rope_base": base}))
        for name, base in bases.items()
    }
    figure = plot_rope_wavelengths(rows, (64, 4096))
    curves = figure.axes[0].get_lines()[:2]
    for line, base in zip(curves, bases.values(), strict=True):
        expected = [2 * math.pi * base ** (pair / 8) for pair in range(8)]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-5)
    assert [line.get_ydata()[0] for line in figure.axes[0].get_lines()[2:]] == [64, 4096]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["a context of 64 tokens", "a context of 4,096 tokens"]
    figure.savefig(tmp_path / "wavelengths.png")


def test_plot_rope_wavelengths_needs_frequencies():
    with pytest.raises(ValueError, match="no frequencies"):
        plot_rope_wavelengths({})


def test_plot_cache_memory_ends_where_a_full_cache_does(tmp_path):
    cache = LlamaModel(CONFIG).new_cache(1)
    size, context = cache.num_bytes // CONFIG.context_length, CONFIG.context_length
    figure = plot_cache_memory({"small": (size, context), "larger": (1024, 2048)})
    line, end = figure.axes[0].get_lines()[:2]
    np.testing.assert_allclose(line.get_ydata(), np.asarray(line.get_xdata()) * size)
    assert (end.get_xdata()[0], end.get_ydata()[0]) == (context, cache.num_bytes)
    assert [text.get_text() for text in figure.axes[0].texts] == ["192 KiB", "2 MiB"]
    figure.savefig(tmp_path / "cache.png")


@pytest.mark.parametrize("caches", [{}, {"none": (0, 128)}])
def test_plot_cache_memory_refuses_nothing(caches):
    with pytest.raises(ValueError, match="1 or more"):
        plot_cache_memory(caches)


def test_plot_speeds_draws_bars_and_a_limit_for_each(tmp_path):
    figure = plot_speeds(MEASURED, LIMITS)
    for panel, (model, bars) in zip(figure.axes, MEASURED.items(), strict=True):
        assert panel.get_title() == model
        assert [bar.get_height() for bar in panel.patches] == list(bars.values())
        heights = [line[0, 1] for line in panel.collections[0].get_segments()]
        assert heights == [LIMITS[model][name] for name in bars]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["50", "40\n80%", "200", "4\n2%"]
    figure.savefig(tmp_path / "speeds.png")


@pytest.mark.parametrize(
    ("measured", "limits", "message"),
    [
        ({}, {}, "no speeds"),
        ({"small": {}}, {}, "no speeds"),
        (MEASURED, {"small": LIMITS["small"]}, "no limit is given for large, float32"),
    ],
)
def test_plot_speeds_refuses(measured, limits, message):
    with pytest.raises(ValueError, match=message):
        plot_speeds(measured, limits)
