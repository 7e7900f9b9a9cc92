"""Faults that users of other training code have reported, and what happens here instead."""

from __future__ import annotations

import ast
import dataclasses
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from llm_scratch.model.gpt import GPTModel
from llm_scratch.training.appendix_d import train_model
from llm_scratch.training.checkpoints import checkpoints_in
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.training.sharding import sharded_norm
from llm_scratch.training.simple import load_checkpoint, save_checkpoint, train_model_simple
from llm_scratch.weights.folder import load_model

PACKAGE = Path(__file__).parents[2] / "llm_scratch"
CONFIG = TrainConfig(
    steps=6, micro_batch=4, learning_rate=3e-3, eval_every=6, save_every=6, tune_allocator=False
)


class Words:
    """Numbers as words, for loops that print a sample."""

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


def quiet(line):
    pass


def same(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def adamw(model, lr=1e-3):
    return torch.optim.AdamW(model.parameters(), lr=lr)


def train_simple(model, loader, val_loader=None):
    return train_model_simple(
        model,
        loader,
        val_loader or loader,
        adamw(model),
        "cpu",
        1,
        100,
        1,
        "1 2",
        Words(),
        log=quiet,
    )


def train_with_schedule(model, loader, val_loader=None):
    options = {"warmup_steps": 0, "log": quiet}
    return train_model(
        model,
        loader,
        val_loader or loader,
        adamw(model),
        "cpu",
        1,
        100,
        1,
        "1 2",
        Words(),
        **options,
    )


def batches(count, masked=()):
    """Batches of two rows; those in `masked` have no target."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        ids = torch.randint(50, (2, 7), generator=generator)
        targets = torch.full_like(ids[:, 1:], -100) if number in masked else ids[:, 1:]
        made.append((ids[:, :-1], targets))
    return made


def test_every_step_of_a_run_is_clipped_warm_up_and_its_border_included(build, parts, monkeypatch):
    norms = []
    original = torch.optim.AdamW.step

    def spy(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(sharded_norm(gradients))
        return original(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = dataclasses.replace(CONFIG, warmup_steps=3, clip=1e-3)
    train(build(), parts[0], config, log=quiet)
    assert norms == pytest.approx([1e-3] * 6, rel=2e-3)


def test_start_of_a_run_says_how_many_tokens_a_step_has_and_what_decays(build, parts):
    lines = []
    train(build(), parts[0], dataclasses.replace(CONFIG, accumulation=3), log=lines.append)
    assert any("a step: 3 x 4 x 16 = 192 tokens" in line for line in lines)
    assert any(
        "numbers, weight decay 0.1; " in line and "numbers, weight decay 0" in line
        for line in lines
    )


def test_best_model_is_kept_apart_from_the_last_one(build, parts, tmp_path):
    config = dataclasses.replace(
        CONFIG, steps=40, learning_rate=0.5, eval_every=1, save_every=1, keep_last=40, patience=3
    )
    state = train(
        build(), parts[0], config, validation=parts[1], folder=tmp_path / "run", log=quiet
    )
    saved = {path.name: path for path in checkpoints_in(tmp_path / "run" / "checkpoints")}
    kept, _ = load_model(tmp_path / "run")
    best, _ = load_model(saved[f"step-{state.best_step:08d}"])
    last, _ = load_model(saved[f"step-{state.step:08d}"])
    assert same(kept, best)
    assert not same(kept, last)


@pytest.mark.parametrize("run", [train_simple, train_with_schedule])
def test_batches_without_a_target_are_passed_over_with_one_warning(build, run):
    model, other = build(), build()
    with pytest.warns(UserWarning, match=r"2 of 5 training batches had no target.*: 1, 3 ") as seen:
        run(model, batches(5, masked=(1, 3)), val_loader=batches(1))
    assert len(seen) == 1
    learned_from = [batch for i, batch in enumerate(batches(5)) if i not in (1, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_simple(other, learned_from, val_loader=batches(1))
    if run is train_simple:
        assert same(model, other)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("run", [train_simple, train_with_schedule])
def test_data_without_any_target_are_refused(build, run):
    model, before = build(), build()
    with pytest.raises(ValueError, match="all targets of the 3 training batches are masked"):
        run(model, batches(3, masked=(0, 1, 2)), val_loader=batches(1))
    assert same(model, before)


@pytest.fixture
def saved(build, tmp_path):
    """A model, and the file with it and its optimizer."""
    model = build()
    save_checkpoint(tmp_path / "model.pth", model, adamw(model))
    return model, tmp_path / "model.pth"


def another(build):
    model = build()
    nn.init.zeros_(model.pos_emb.weight)
    return model


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("alone", [True, False])
def test_load_checkpoint_leaves_the_names_of_wrappers_out_and_says_so(
    build, saved, tmp_path, prefix, alone
):
    model, _ = saved
    weights = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save(weights if alone else {"model_state_dict": weights}, tmp_path / "wrapped.pth")
    loaded = another(build)
    with pytest.warns(UserWarning, match=f"wrapped.pth was saved from a wrapped model; '{prefix}'"):
        load_checkpoint(tmp_path / "wrapped.pth", loaded)
    assert same(loaded, model)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_save_and_load_checkpoint_see_through_wrappers(build, tmp_path, wrap):
    model, loaded = build(), another(build)
    save_checkpoint(tmp_path / "model.pth", wrap(model), adamw(model))
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert list(state["model_state_dict"]) == list(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(tmp_path / "model.pth", wrap(loaded))
    assert same(loaded, model)


def test_load_checkpoint_opens_a_file_from_a_gpu_on_the_cpu(build, saved, tmp_path):
    model, path = saved
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(tmp_path / "gpu.pth", "w") as new,
    ):
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith("data.pkl"):
                # The pickled text "cpu" with its length before it.
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
                assert b"cuda:0" in data
            new.writestr(item, data)
    loaded = another(build)
    load_checkpoint(tmp_path / "gpu.pth", loaded)
    assert same(loaded, model)


@pytest.mark.parametrize("rate", [np.float64(1e-3), Path("rate")])
def test_save_checkpoint_refuses_what_could_not_be_read_back(build, saved, rate):
    model, path = saved
    before = path.read_bytes()
    optimizer = adamw(model)
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(TypeError, match=r"\['param_groups'\]\[0\]\['lr'\] is a (float64|\w*Path)"):
        save_checkpoint(path, model, optimizer)
    assert path.read_bytes() == before


def test_save_checkpoint_takes_a_model_with_two_names_for_one_tensor(build, tmp_path):
    model: GPTModel = build(tie_weights=True)
    optimizer = adamw(model)
    save_checkpoint(tmp_path / "tied.pth", model, optimizer)
    loaded = another(build)
    load_checkpoint(tmp_path / "tied.pth", loaded, adamw(loaded))
    assert loaded.out_head.weight is loaded.tok_emb.weight
    assert same(loaded, model)


def calls_in(path):
    """The calls of a file by their dotted names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_package_reads_pickles_without_running_their_code():
    loads = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, call in calls_in(path):
            assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), path
            if name == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                loads.append((path.name, options.get("weights_only"), options.get("map_location")))
    assert loads
    assert {(only, place) for _, only, place in loads} == {("True", "'cpu'")}, loads
