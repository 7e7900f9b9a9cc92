"""Runs are held against each other: a real difference is told from noise, settings are named."""

from __future__ import annotations

import json
import math
import random
import shutil
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_runs import plant

from llm_scratch.training.comparing import compare, differing, read_runs
from llm_scratch.training.noise import difference_of, interval_of, t_outside, t_quantile

# Student's t, two-sided, from printed tables: (degrees of freedom, confidence, t).
TABLE = [
    (1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (4, 0.95, 2.776), (5, 0.95, 2.571),
    (7, 0.95, 2.365), (10, 0.95, 2.228), (30, 0.95, 2.042), (120, 0.95, 1.980),
    (1, 0.99, 63.657), (2, 0.90, 2.920), (5, 0.99, 4.032), (9, 0.999, 4.781), (15, 0.80, 1.341),
]  # fmt: skip


@pytest.mark.parametrize(("freedom", "confidence", "expected"), TABLE)
def test_t_quantile_is_that_of_the_tables(freedom, confidence, expected):
    assert t_quantile(freedom, confidence) == pytest.approx(expected, abs=5.1e-4)


@given(st.floats(0.01, 0.999))
def test_t_quantile_is_exact_where_there_is_a_formula(confidence):
    assert t_quantile(1, confidence) == pytest.approx(math.tan(math.pi * confidence / 2), rel=1e-9)
    two = confidence * math.sqrt(2 / (1 - confidence**2))
    assert t_quantile(2, confidence) == pytest.approx(two, rel=1e-9)


@given(st.floats(0.3, 2000), st.floats(0.05, 0.999))
def test_t_quantile_undoes_the_distribution(freedom, confidence):
    t = t_quantile(freedom, confidence)
    assert 1 - t_outside(t, freedom) == pytest.approx(confidence, rel=1e-7)


def test_t_distribution_is_the_integral_of_its_density():
    """By the midpoint rule, at degrees of freedom for which there is no formula."""
    for freedom in (2.7, 6.4, 41.0):
        scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
        scale /= math.sqrt(freedom * math.pi)
        width = 2.5 / 4000
        heights = (
            (1 + ((i + 0.5) * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(4000)
        )
        inside = 2 * scale * width * sum(heights)
        assert t_outside(2.5, freedom) == pytest.approx(1 - inside, abs=1e-6)


@pytest.mark.parametrize(("freedom", "confidence"), [(0, 0.95), (-1, 0.9), (3, 1.0), (3, 0.0)])
def test_t_quantile_refuses(freedom, confidence):
    with pytest.raises(ValueError, match="freedom=.* must be above 0"):
        t_quantile(freedom, confidence)


def test_difference_of_is_welchs_by_hand():
    one, other = [10.0, 12.0, 14.0], [20.0, 20.5, 21.0, 21.5]
    found = difference_of(one, other)
    a, b = 4 / 3, (5 / 12) / 4  # variance by number of values
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    assert found.value == pytest.approx(8.75)
    assert found.freedom == pytest.approx(freedom)
    reach = t_quantile(freedom) * math.sqrt(a + b)
    assert (found.low, found.high) == pytest.approx((8.75 - reach, 8.75 + reach))
    assert found.is_real
    assert found.method == "Welch's t interval"


def test_difference_of_a_single_run_has_the_noise_of_the_other_group():
    many = [3.0, 3.1, 3.2, 3.3]
    reach = 3.182446 * statistics.stdev(many) * math.sqrt(1 + 1 / 4)
    for one, other, value in ((many, [3.0], -0.15), ([3.0], many, 0.15)):
        found = difference_of(one, other)
        assert found.value == pytest.approx(value)
        assert (found.low, found.high) == pytest.approx((value - reach, value + reach), rel=1e-5)
        assert found.is_real is False
        assert "taken to have the noise of the other" in found.method


def test_difference_of_single_runs_leaves_the_noise_unknown():
    found = difference_of([3.0], [2.0])
    assert (found.value, found.low, found.is_real) == (-1.0, None, None)
    assert found.method == "one seed: noise unknown"
    assert interval_of([3.0]) is None
    with pytest.raises(ValueError, match="a group without a run"):
        difference_of([], [1.0])


def test_difference_without_any_noise_is_real_if_it_is_there():
    assert difference_of([2.0, 2.0], [3.0, 3.0]).is_real
    assert difference_of([2.0, 2.0], [2.0, 2.0]).is_real is False


def test_intervals_hold_as_often_as_they_say():
    """Groups of three with noise of two sizes, 700 times: the true difference is 1."""
    draw = random.Random(3)
    inside = 0
    for _ in range(700):
        one = [draw.gauss(0, 0.5) for _ in range(3)]
        found = difference_of(one, [draw.gauss(1, 1.0) for _ in range(3)])
        inside += found.low <= 1 <= found.high
    assert 0.92 < inside / 700 < 0.99


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Three seeds of four settings: one is better by ten deviations, one by a tenth of one."""
    folder = tmp_path_factory.mktemp("planted")
    draw = random.Random(8)
    settings = {
        "base": (3.6, {}),
        "lower": (3.5, {"learning_rate": 0.001, "model": {"drop_rate": 0.1}}),
        "decay": (3.599, {"weight_decay": 0.01}),
    }
    for name, (mean, options) in settings.items():
        for seed in (1, 2, 3):
            plant(folder / f"{name}-{seed}", mean + draw.gauss(0, 0.01), seed=seed, **options)
    plant(folder / "clip", 3.4, seed=1, clip=3.5)
    return folder


def runs_of(folder, *patterns):
    return read_runs(path for pattern in patterns for path in sorted(folder.glob(pattern)))


def test_compare_tells_a_real_difference_from_noise(planted):
    found = compare(runs_of(planted, "base-*", "lower-*", "decay-*", "clip"))
    assert [group.name for group in found.groups] == [
        "base-1",
        "lower-1 (learning_rate 0.001, drop_rate 0.1)",
        "decay-1 (weight_decay 0.01)",
        "clip (clip 3.5)",
    ]
    assert [len(group.runs) for group in found.groups] == [3, 3, 3, 1]
    assert [difference.is_real for difference in found.differences] == [True, False, True]
    real, noise, single = found.differences
    assert real.value == pytest.approx(-0.1, abs=0.03)
    assert real.high < 0
    assert noise.low < 0 < noise.high
    assert single.value == pytest.approx(-0.2, abs=0.03)
    assert found.measure == "best validation loss"
    assert found.notes == []
    base = found.groups[0]
    losses = [run.best_loss for run in base.runs]
    assert base.mean == pytest.approx(statistics.fmean(losses))
    assert base.deviation == pytest.approx(statistics.stdev(losses))


def test_compare_of_single_runs_knows_no_noise(planted):
    found = compare(runs_of(planted, "base-1", "lower-1"))
    assert [difference.is_real for difference in found.differences] == [None]
    assert compare(runs_of(planted, "base-1", "lower-1"), grouped=False).differences == []


def test_read_runs_finds_best_losses_and_speed(planted):
    (run,) = runs_of(planted, "base-1")
    assert run.name == "base-1"
    assert (run.step, run.steps, run.best_step, run.seed) == (200, 200, 180, 1)
    assert run.best_loss == pytest.approx(3.6, abs=0.04)
    assert run.train_loss == pytest.approx(run.best_loss, abs=0.1)
    assert run.tokens_per_s == pytest.approx(2560)


def test_differing_names_the_settings_that_differ_and_no_others(planted):
    found = differing(runs_of(planted, "base-1", "lower-2"))
    assert found == {"seed": [1, 2], "learning_rate": [0.003, 0.001], "drop_rate": [0.0, 0.1]}
    assert differing(runs_of(planted, "base-1")) == {}


def test_differing_says_what_is_not_recorded(planted, tmp_path):
    old = shutil.copytree(planted / "base-1", tmp_path / "old")
    config = json.loads((old / "config.json").read_text(encoding="utf-8"))
    del config["train"]["clip"]
    (old / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (old / "environment.json").unlink()
    found = differing(read_runs([planted / "base-1", old]))
    assert found["clip"] == [1.0, "not recorded"]
    assert set(found) == {"clip", "device", "dtype", "processes"}


def test_runs_on_another_place_or_data_are_another_group(tmp_path):
    plant(tmp_path / "a", 3.0, seed=1)
    plant(tmp_path / "b", 3.0, seed=2, data={"first rows": "other"})
    place = plant(tmp_path / "c", 3.0, seed=3) / "environment.json"
    start = {"device": "cuda", "dtype": "bfloat16", "processes": 1}
    place.write_text(json.dumps([{"device": "cpu"}, start]), encoding="utf-8")
    found = compare(runs_of(tmp_path, "*"))
    assert [group.name for group in found.groups] == [
        "a",
        "b (data other)",
        "c (device cuda, dtype bfloat16)",
    ]
    assert found.notes == [
        "the groups read other data: where the validation parts differ too, so do their losses"
    ]


def test_mixes_are_named_by_their_shares(tmp_path):
    plant(tmp_path / "a", 3.0, data={"mix": "x:1/2 y:1/2", "kind": "Mixture"})
    other = {"mix": "x:9/10 y:1/10", "kind": "Mixture", "first rows": "e", "rows": 70}
    plant(tmp_path / "b", 3.0, data=other)
    assert compare(runs_of(tmp_path, "*")).groups[1].name == "b (mix x:9/10 y:1/10)"


def test_rows_that_the_seed_divides_are_one_data(tmp_path):
    """Fine-tuning divides by the seed: the same data set has other rows in its training part."""
    for seed, mark in ((1, "d1"), (2, "d2")):
        plant(tmp_path / str(seed), 3.0, seed=seed, data={"kind": "TokenRows", "first rows": mark})
    plant(tmp_path / "3", 3.0, seed=3, data={"kind": "TokenRows", "rows": 91})
    found = compare(runs_of(tmp_path, "*"))
    assert [len(group.runs) for group in found.groups] == [2, 1]


def test_same_seed_twice_says_nothing_about_the_noise(planted, tmp_path):
    shutil.copytree(planted / "base-1", tmp_path / "copy")
    found = compare(read_runs([planted / "base-1", tmp_path / "copy", planted / "base-2"]))
    assert [run.name.rpartition("/")[2] for run in found.groups[0].runs] == ["base-1", "base-2"]
    assert found.notes[0].endswith("copy has settings and seed of base-1 and is left out")


def test_runs_before_their_end_or_without_validation_are_noted(tmp_path):
    plant(tmp_path / "a", 3.0)
    plant(tmp_path / "b", 3.0, stop=120)
    plant(tmp_path / "c", 3.0, validated=False, seed=4)
    found = compare(runs_of(tmp_path, "*"), grouped=False)
    assert found.notes == [
        "b stands at step 120 of 200",
        "c has no best validation loss and is left out",
    ]
    alone = compare(runs_of(tmp_path, "c"))
    assert alone.measure == "training loss of the last tenth of the steps"
    assert alone.groups[0].mean == pytest.approx(3.0, abs=0.2)


def test_read_runs_refuses(planted, tmp_path):
    with pytest.raises(
        ValueError, match="base-1 is given twice; a run is compared with other runs"
    ):
        read_runs([planted / "base-1", planted / "base-1"])
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        read_runs([tmp_path])


def test_names_of_runs_in_several_folders_tell_them_apart(planted, tmp_path):
    other = shutil.copytree(planted / "base-1", tmp_path / "x" / "base-1")
    one = shutil.copytree(planted / "base-1", tmp_path / "y" / "base-1")
    assert [run.name for run in read_runs([other, one])] == ["x/base-1", "y/base-1"]


def test_picture_draws_groups_as_mean_and_band(planted, tmp_path):
    pytest.importorskip("matplotlib")
    from llm_scratch.plotting.comparing import plot_comparison

    found = compare(runs_of(planted, "base-*", "lower-*", "clip"))
    figure = plot_comparison(
        {group.name: [run.lines for run in group.runs] for group in found.groups},
        {group.name: group.losses for group in found.groups},
        {group.name: group.interval for group in found.groups},
    )
    figure.savefig(tmp_path / "picture.png")
    curves, points = figure.axes
    assert len(curves.get_lines()) == 6  # training and validation of each
    assert len(curves.collections) == 2  # bands of those with several seeds
    shown = [text.get_text() for text in curves.get_legend().get_texts()]
    assert shown == [group.name for group in found.groups]
    base = curves.get_lines()[1]
    lines = [
        [line["val_loss"] for line in run.lines if "val_loss" in line]
        for run in found.groups[0].runs
    ]
    assert base.get_ydata() == pytest.approx([statistics.fmean(x) for x in zip(*lines)])  # noqa: B905
    assert [label.get_text() for label in points.get_yticklabels()] == ["base-1", "lower-1", "clip"]
    low, high = curves.get_ylim()
    assert low < 3.4 < high < 6.0


def test_picture_of_runs_of_different_lengths_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from llm_scratch.plotting.comparing import plot_comparison

    plant(tmp_path / "a", 3.0, validated=False)
    plant(tmp_path / "b", 3.0, validated=False, stop=2, seed=2)
    runs = runs_of(tmp_path, "*")
    figure = plot_comparison(
        {"all": [run.lines for run in runs]}, {"all": [3.0, 3.1]}, {"all": (2.9, 3.2)}
    )
    figure.savefig(tmp_path / "picture.png")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["all"]
    with pytest.raises(ValueError, match="there is no run to draw"):
        plot_comparison({}, {}, {})
