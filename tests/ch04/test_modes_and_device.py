"""Modes that come back as they were found, and the choice of a device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_scratch.model import device
from llm_scratch.model.device import max_step_difference, pick_device
from llm_scratch.model.modes import evaluation_mode


def parts() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)))


def modes_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_evaluation_mode_is_off_for_all_parts_inside():
    model = parts()
    with evaluation_mode(model):
        assert not any(modes_of(model))
    assert all(modes_of(model))


def test_evaluation_mode_gives_each_part_its_own_mode_back():
    model = parts()
    model[1].eval()
    before = modes_of(model)
    with evaluation_mode(model):
        pass
    assert modes_of(model) == before


def test_evaluation_mode_gives_modes_back_after_an_error():
    model = parts()
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert all(modes_of(model))


def test_evaluation_mode_leaves_a_plain_function_alone():
    with evaluation_mode(len):
        pass


def test_pick_device_takes_the_cpu_where_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")


def test_pick_device_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_pick_device_never_takes_an_apple_gpu_on_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cpu")


def test_pick_device_refuses_what_is_no_device():
    with pytest.raises(ValueError, match="'gpu' is not a device; try auto, cpu, cuda or mps"):
        pick_device("gpu")


def test_pick_device_refuses_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda:0' was requested, but PyTorch finds no CUDA"):
        pick_device("cuda:0")


def test_pick_device_refuses_a_cuda_device_beyond_the_last(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="'cuda:2' was requested.*cuda:0 to cuda:1"):
        pick_device("cuda:2")


def test_pick_device_refuses_an_apple_gpu_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="PyTorch finds no Apple GPU; try cpu"):
        pick_device("mps")


def test_pick_device_refuses_an_apple_gpu_that_computes_wrongly(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(device, "max_step_difference", lambda _: 0.5)
    with pytest.raises(ValueError, match="differs from the CPU's by 5.0e-01"):
        pick_device("mps")
    monkeypatch.setattr(device, "max_step_difference", lambda _: 1e-6)
    assert pick_device("mps") == torch.device("mps")


def test_max_step_difference_of_the_cpu_to_itself_is_nothing():
    state = torch.get_rng_state()
    assert max_step_difference(torch.device("cpu")) < 1e-6
    assert torch.equal(state, torch.get_rng_state())
