"""What a configuration takes, what it refuses, and the names of GPT-2's sizes."""

from __future__ import annotations

import dataclasses
import pickle
import re

import numpy as np
import pytest

from llm_scratch.model.config import (
    GPT2_CONFIGS,
    GPT_CONFIG_124M,
    ConfigError,
    GPTConfig,
    as_config,
    gpt2_config,
    gpt2_size,
)

SIZES = {"vocab_size": 11, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 2}


def config(**changes: object) -> GPTConfig:
    return GPTConfig(**{**SIZES, **changes})


def test_config_has_defaults_for_everything_but_the_sizes():
    cfg = config()
    assert (cfg.drop_rate, cfg.qkv_bias, cfg.tie_weights) == (0.0, False, False)
    with pytest.raises(TypeError, match="missing 5 required"):
        GPTConfig()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -3, 2.0, "12", None, True])
def test_config_refuses_a_size_that_is_no_positive_integer(name, value):
    with pytest.raises(ConfigError, match=f"{name}={re.escape(repr(value))} must be a positive"):
        config(**{name: value})


@pytest.mark.parametrize(
    "name", ["drop_rate", "drop_rate_emb", "drop_rate_attn", "drop_rate_shortcut"]
)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.1", True])
def test_config_refuses_a_rate_outside_zero_to_one(name, value):
    with pytest.raises(ConfigError, match=f"{name}={re.escape(repr(value))} must be a number"):
        config(**{name: value})


def test_config_refuses_to_have_no_dropout_rate():
    with pytest.raises(ConfigError, match="drop_rate=None must be a number from 0 to 1"):
        config(drop_rate=None)


@pytest.mark.parametrize("name", ["qkv_bias", "tie_weights"])
def test_config_refuses_a_switch_that_is_no_bool(name):
    with pytest.raises(ConfigError, match=f"{name}=1 must be True or False"):
        config(**{name: 1})


def test_config_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ConfigError, match="emb_dim=12 must be divisible by n_heads=5"):
        config(n_heads=5)


def test_config_error_is_a_value_error_and_the_assertion_error_of_the_book():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, AssertionError)


def test_config_takes_numbers_of_numpy():
    cfg = config(emb_dim=np.int64(12), drop_rate=np.float32(0.5))
    assert type(cfg.emb_dim) is int
    assert cfg.drop_rate == 0.5


def test_config_can_not_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().emb_dim = 24


def test_config_changes_through_replace_and_is_checked_again():
    assert dataclasses.replace(config(), drop_rate=0.1).drop_rate == 0.1
    with pytest.raises(ConfigError, match="n_heads=5"):
        dataclasses.replace(config(), n_heads=5)


def test_config_reads_like_a_dict():
    cfg = config(drop_rate=0.1)
    assert cfg["emb_dim"] == 12
    assert cfg.get("emb_dim") == 12
    assert cfg.get("kv_window_size", 7) == 7
    assert "n_heads" in cfg
    assert "heads" not in cfg
    assert list(cfg) == list(cfg.keys())
    assert len(cfg) == len(dict(cfg))
    assert GPTConfig(**cfg) == cfg
    assert {**cfg, "n_layers": 1}["n_layers"] == 1


def test_config_names_the_options_when_asked_for_an_unknown_one():
    with pytest.raises(KeyError, match=r"'heads' is not an option; the options are vocab_size,"):
        config()["heads"]


def test_config_is_hashable_and_pickles():
    cfg = config(drop_rate=0.1)
    assert {cfg: 1}[config(drop_rate=0.1)] == 1
    assert pickle.loads(pickle.dumps(cfg)) == cfg


def test_config_falls_back_to_one_dropout_rate():
    cfg = config(drop_rate=0.3, drop_rate_attn=0.0)
    assert (cfg.embedding_dropout, cfg.attention_dropout, cfg.shortcut_dropout) == (0.3, 0.0, 0.3)


def test_as_config_takes_the_dict_of_the_book():
    cfg = as_config(GPT_CONFIG_124M)
    assert {name: cfg[name] for name in GPT_CONFIG_124M} == GPT_CONFIG_124M
    assert not cfg.tie_weights


def test_as_config_takes_three_rates_instead_of_one():
    rates = {"drop_rate_emb": 0.1, "drop_rate_attn": 0.2, "drop_rate_shortcut": 0.3}
    cfg = as_config(SIZES | rates)
    assert (cfg.embedding_dropout, cfg.attention_dropout, cfg.shortcut_dropout) == (0.1, 0.2, 0.3)


def test_as_config_gives_a_config_back_as_it_is():
    cfg = config()
    assert as_config(cfg) is cfg


def test_as_config_lists_the_known_keys_when_one_is_unknown():
    with pytest.raises(ConfigError, match="unknown key n_head, dropout; known are vocab_size, .*"):
        as_config(SIZES | {"n_head": 3, "dropout": 0.1})


def test_as_config_names_the_missing_keys():
    sizes = {name: size for name, size in SIZES.items() if name not in ("n_heads", "n_layers")}
    with pytest.raises(ConfigError, match="lacks n_heads, n_layers"):
        as_config(sizes)


@pytest.mark.parametrize(("cfg", "kind"), [(None, "NoneType"), ("124M", "str"), ([1], "list")])
def test_as_config_refuses_what_is_no_configuration(cfg, kind):
    with pytest.raises(TypeError, match=f"a GPTConfig or a dict, got {kind}"):
        as_config(cfg)


@pytest.mark.parametrize(
    ("size", "names"),
    [
        ("124M", ["124M", "124m", "gpt2", "gpt2-small", "gpt2-small (124M)", "small"]),
        ("355M", ["355M", "gpt2-medium", "gpt2-medium (355M)", "openai-community/gpt2-medium"]),
        ("774M", ["774M", "gpt2-large", "GPT2-Large (774M)", " gpt2-large "]),
        ("1558M", ["1558M", "gpt2-xl", "gpt2-xl (1558M)", "openai-community/gpt2-xl", "xl"]),
    ],
)
def test_gpt2_size_knows_the_names_of_a_model(size, names):
    assert {gpt2_size(name) for name in names} == {size}
    assert all(gpt2_config(name) is GPT2_CONFIGS[size] for name in names)


@pytest.mark.parametrize(
    "name", ["", "gpt3", "gpt2-huge", "125M", "gpt2-small (355M)", "gpt2 (7B)", "llama"]
)
def test_gpt2_size_refuses_other_names(name):
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))} is not a GPT-2; use 124M, "):
        gpt2_size(name)


def test_gpt2_configs_are_the_models_as_released():
    shapes = {size: (cfg.emb_dim, cfg.n_layers, cfg.n_heads) for size, cfg in GPT2_CONFIGS.items()}
    assert shapes == {
        "124M": (768, 12, 12),
        "355M": (1024, 24, 16),
        "774M": (1280, 36, 20),
        "1558M": (1600, 48, 25),
    }
    for cfg in GPT2_CONFIGS.values():
        assert (cfg.vocab_size, cfg.context_length) == (50257, 1024)
        assert (cfg.qkv_bias, cfg.tie_weights, cfg.drop_rate) == (True, True, 0.0)
