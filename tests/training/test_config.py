"""Settings are checked when they are made, and say what a step reads."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

from llm_scratch.training.config import (
    FREE_ON_RESUME,
    StepPlan,
    TrainConfig,
    changed_settings,
    plan_step,
)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "steps=0 must be 1 or more"),
        ({"micro_batch": 2.5}, "micro_batch=2.5 must be 1 or more, a whole number"),
        ({"accumulation": 0}, "accumulation=0 must be"),
        ({"warmup_steps": 1000}, "at most 999"),
        ({"min_learning_rate": 1.0}, "0 <= minimum <= peak"),
        ({"clip": 0.0}, "clip=0.0 must be above 0"),
        ({"beta2": 1.0}, "beta2=1.0 must be from 0 to below 1"),
        ({"precision": "int8"}, "precision='int8'; there are auto, float32"),
        ({"optimizer": "sgd"}, "optimizer='sgd'; there are adamw, muon"),
        ({"checkpoint_blocks": -1}, "checkpoint_blocks=-1 must be"),
        ({"patience": 0}, "patience=0 must be"),
        ({"weight_decay": float("nan")}, "weight_decay=nan must be"),
    ],
)
def test_train_config_refuses(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


def test_train_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().steps = 3


def test_train_config_rate_follows_its_settings():
    config = TrainConfig(steps=40, learning_rate=1.0)
    assert config.warmup == 2
    assert [config.rate(step) for step in (1, 2, 40)] == pytest.approx([0.5, 1.0, 0.1])


@pytest.mark.parametrize(
    ("options", "accumulation"),
    [
        ({}, 1),
        ({"accumulation": 3}, 3),
        ({"tokens_per_step": 512}, 4),
        ({"tokens_per_step": 256, "accumulation": 2}, 2),
    ],
)
def test_plan_step_derives_the_accumulation(options, accumulation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_step(TrainConfig(micro_batch=4, **options), 32)
    assert plan.accumulation == accumulation
    assert plan.tokens == accumulation * 4 * 32


@pytest.mark.parametrize("options", [{}, {"accumulation": 1}])
def test_plan_step_warns_when_the_tokens_do_not_come_out(options):
    config = TrainConfig(micro_batch=4, tokens_per_step=300, **options)
    with pytest.warns(UserWarning, match=r"has (128|256) tokens .* asks for 300"):
        plan_step(config, 32)


def test_plan_step_refuses_rows_longer_than_the_context():
    with pytest.raises(ValueError, match="length=64 is above the model's context length of 32"):
        plan_step(TrainConfig(length=64), 32)


def test_changed_settings_names_what_makes_another_run():
    config = TrainConfig()
    before = dataclasses.replace(config, seed=3, save_every=7, steps=9)
    assert changed_settings(before, config, *plans(before, config)) == ["seed: 3 before, 1234 now"]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"micro_batch": 2, "accumulation": 6}, []),
        ({"micro_batch": 6, "tokens_per_step": 192}, []),
        ({"micro_batch": 3, "accumulation": 4}, []),
        ({"micro_batch": 2}, ["1 x 2"]),
        ({"accumulation": 1}, ["1 x 4"]),
    ],
)
def test_changed_settings_leaves_the_split_of_a_step_free(options, changed):
    before = TrainConfig(micro_batch=4, accumulation=3)
    now = dataclasses.replace(before, **{"accumulation": None, **options})
    message = "rows of a step (accumulation x micro_batch): 3 x 4 before, {} now"
    assert changed_settings(before, now, *plans(before, now)) == [
        message.format(split) for split in changed
    ]


def plans(*configs: TrainConfig, ranks: int = 1) -> list[StepPlan]:
    return [StepPlan.of(config, 16, ranks) for config in configs]


def test_a_run_of_two_processes_goes_on_in_one_that_takes_as_many_rows():
    before = TrainConfig(micro_batch=4)
    (was,) = plans(before, ranks=2)
    config = dataclasses.replace(before, accumulation=2)
    assert changed_settings(before, config, was, *plans(config)) == []
    (changed,) = changed_settings(before, before, was, *plans(before))
    assert changed.endswith("2 processes x 1 x 4 before, 1 x 4 now")


def test_every_other_setting_makes_another_run():
    fixed = {field.name for field in dataclasses.fields(TrainConfig)} - FREE_ON_RESUME
    assert fixed == (
        {"length", "learning_rate", "min_learning_rate", "warmup_steps", "schedule", "decay_share"}
        | {"optimizer", "weight_decay", "beta1", "beta2", "clip", "precision", "seed"}
        | {"eval_every", "eval_batches", "patience"}
    )


def test_train_config_takes_numpys_floats_as_plain_ones():
    config = TrainConfig(learning_rate=np.float64(1e-3), clip=np.float64(2))
    assert type(config.learning_rate) is float
    assert type(config.clip) is float
