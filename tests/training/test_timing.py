"""What a step takes is reckoned from steps that were taken, the first one left out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from short_runs import CONFIG

from llm_scratch.training import timing
from llm_scratch.training.presets import PRESETS
from llm_scratch.training.timing import time_steps


@pytest.fixture
def clock(monkeypatch):
    """A clock by which a micro batch takes 3 seconds, the rest of a step 5, the first step 100."""
    taken = []

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    original = timing.take_step

    def counted(engine, batches, *rest):
        taken.append((len(batches), tuple(batches[0][0].shape)))
        clock.now += 5 + 3 * len(batches) + (100 if len(taken) == 1 else 0)
        return original(engine, batches, *rest)

    monkeypatch.setattr(timing, "take_step", counted)
    monkeypatch.setattr(timing, "time", clock)
    return taken


@pytest.mark.parametrize(
    ("accumulation", "seconds", "counts"),
    [(1, 8, [1, 1, 1, 1]), (2, 11, [1, 1, 2, 1, 2, 1, 2]), (16, 53, [1, 1, 2, 1, 2, 1, 2])],
)
def test_time_of_a_step_has_each_micro_batch_and_the_update(
    build, clock, accumulation, seconds, counts
):
    config = dataclasses.replace(CONFIG, accumulation=accumulation)
    found = time_steps(build(), config)
    assert found.seconds == pytest.approx(seconds)
    assert found.tokens_per_s == pytest.approx(accumulation * 4 * 16 / seconds)
    assert [count for count, _ in clock] == counts
    assert {shape for _, shape in clock} == {(4, 16)}
    assert found.timed == len(counts) - 1


def test_slow_steps_are_timed_once(build, clock, monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH", 7.0)
    assert time_steps(build(), CONFIG).timed == 2


def test_timing_draws_nothing_from_the_global_generators(build):
    state = torch.get_rng_state()
    time_steps(build(drop_rate=0.1), CONFIG)
    assert torch.equal(torch.get_rng_state(), state)


def test_preset_163m_is_the_base_model_of_the_series():
    """The figures of the series: 163,009,536 parameters, 20 tokens each, 96 rows of 1,024."""
    from llm_scratch.model.families import parameter_shapes

    preset = PRESETS["163M"]
    shapes = parameter_shapes(preset.model).values()
    assert sum(torch.Size(shape).numel() for shape in shapes) == 163_009_536
    config = preset.train
    assert config.tokens_per_step == 96 * 1024
    tokens = config.steps * config.tokens_per_step
    assert 20 * 163_009_536 == 3_260_190_720 <= tokens < 3_260_190_720 + config.tokens_per_step
    assert (config.warmup, config.rate(config.warmup)) == (1658, 1.4e-3)
    assert config.rate(config.steps) == pytest.approx(1.4e-4)
    assert (config.clip, config.weight_decay, preset.model.drop_rate) == (3.5, 0.01, 0.0)
