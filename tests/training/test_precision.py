"""The type of numbers follows the device."""

from __future__ import annotations

import pytest
import torch

from llm_scratch.training import precision
from llm_scratch.training.precision import make_scaler, pick_precision

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def test_pick_precision_auto_takes_bfloat16_on_a_cpu_with_matrix_units_only(monkeypatch):
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "has_matrix_units", lambda has=has: has)
        assert pick_precision("auto", CPU) == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((8, 0), torch.bfloat16), ((7, 5), torch.float16)]
)
def test_pick_precision_auto_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision("auto", CUDA) == expected


def test_pick_precision_auto_takes_float32_on_an_apple_gpu():
    assert pick_precision("auto", MPS) == torch.float32


def test_pick_precision_refuses_bfloat16_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match="cuda does not compute in bfloat16; float16, float32"):
        pick_precision("bfloat16", CUDA)


def test_pick_precision_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="'float8' is not known; there are auto"):
        pick_precision("float8", CPU)


def test_make_scaler_is_for_float16_only():
    assert not make_scaler(CPU, torch.bfloat16).is_enabled()
    assert make_scaler(CPU, torch.float16).is_enabled()


def test_autocast_keeps_no_second_copy_of_the_weights():
    layer, x = torch.nn.Linear(8, 8), torch.ones(2, 8)
    with precision.autocast(CPU, torch.bfloat16):
        assert not torch.is_autocast_cache_enabled()
        assert layer(x).dtype == torch.bfloat16
    assert torch.is_autocast_cache_enabled()  # as it was
