"""Book 5.4: saving a model with its optimizer, and loading what others saved."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from llm_scratch.model.gpt import GPTModel
from llm_scratch.training.losses import calc_loss_batch
from llm_scratch.training.simple import load_checkpoint, save_checkpoint

V, T = 30, 6
CONFIG = {
    "vocab_size": V,
    "context_length": T,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}


def new_pair(seed, **changes):
    torch.manual_seed(seed)
    model = GPTModel({**CONFIG, **changes})
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)


def step(model, optimizer, seed):
    ids = torch.randint(V, (2, T + 1), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    loss = calc_loss_batch(ids[:, :-1], ids[:, 1:], model, "cpu")
    loss.backward()
    optimizer.step()
    return loss.item()


def snapshot(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def assert_unchanged(model, optimizer, before):
    weights, settings = before
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    now = optimizer.state_dict()
    assert now["param_groups"] == settings["param_groups"]
    assert now["state"].keys() == settings["state"].keys()
    for number, values in now["state"].items():
        assert all(torch.equal(settings["state"][number][key], v) for key, v in values.items())


@pytest.fixture
def trained():
    model, optimizer = new_pair(1)
    step(model, optimizer, 1)
    step(model, optimizer, 2)
    return model, optimizer


@pytest.fixture
def path(tmp_path, trained):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, *trained)
    return path


def test_load_checkpoint_goes_on_as_if_never_stopped(path, trained):
    resumed = new_pair(2)
    load_checkpoint(path, *resumed)
    for seed in (3, 4):
        assert step(*resumed, seed) == step(*trained, seed)
    assert_unchanged(*resumed, snapshot(*trained))


def test_load_checkpoint_brings_the_settings_of_the_optimizer(path):
    model, _ = new_pair(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    load_checkpoint(path, model, optimizer)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_load_checkpoint_without_optimizer_fills_the_model(path, trained):
    model, optimizer = new_pair(2)
    load_checkpoint(path, model)
    assert_unchanged(model, optimizer, (trained[0].state_dict(), optimizer.state_dict()))
    assert optimizer.state_dict()["state"] == {}


def test_load_checkpoint_fills_an_empty_model(path, trained):
    model = GPTModel.empty(CONFIG)
    load_checkpoint(path, model)
    for value, expected in zip(model.parameters(), trained[0].parameters(), strict=True):
        assert torch.equal(value, expected)


def test_save_checkpoint_has_the_layout_of_the_book(path, trained):
    state = torch.load(path, weights_only=True)
    assert list(state) == ["model_state_dict", "optimizer_state_dict"]
    assert list(state["model_state_dict"]) == list(trained[0].state_dict())


def test_load_checkpoint_reads_the_files_of_the_book(tmp_path, trained):
    model, optimizer = trained
    weights = model.state_dict()
    for block in range(CONFIG["n_layers"]):  # the book's attention stores its mask
        weights[f"trf_blocks.{block}.att.mask"] = torch.triu(torch.ones(T, T), diagonal=1)
    torch.save(weights, tmp_path / "model.pth")
    both = {"model_state_dict": weights, "optimizer_state_dict": optimizer.state_dict()}
    torch.save(both, tmp_path / "model_and_optimizer.pth")

    model_alone, _ = new_pair(2)
    load_checkpoint(tmp_path / "model.pth", model_alone)
    resumed = new_pair(3)
    load_checkpoint(tmp_path / "model_and_optimizer.pth", *resumed)
    assert_unchanged(*resumed, snapshot(*trained))
    for value, expected in zip(model_alone.parameters(), model.parameters(), strict=True):
        assert torch.equal(value, expected)


def test_load_checkpoint_keeps_a_model_tied(tmp_path):
    model, optimizer = new_pair(1, tie_weights=True)
    step(model, optimizer, 1)
    save_checkpoint(tmp_path / "tied.pth", model, optimizer)
    resumed = new_pair(2, tie_weights=True)
    load_checkpoint(tmp_path / "tied.pth", *resumed)
    assert resumed[0].out_head.weight is resumed[0].tok_emb.weight
    assert step(*resumed, 5) == step(model, optimizer, 5)


def test_save_checkpoint_makes_the_folder(tmp_path, trained):
    path = tmp_path / "runs" / "first" / "checkpoint.pth"
    save_checkpoint(path, *trained)
    load_checkpoint(str(path), *new_pair(2))


def test_load_checkpoint_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*gone\.pth"):
        load_checkpoint(tmp_path / "gone.pth", *new_pair(2))


def test_load_checkpoint_names_the_missing_optimizer(tmp_path, trained):
    torch.save(trained[0].state_dict(), tmp_path / "model.pth")
    pair = new_pair(2)
    before = snapshot(*pair)
    with pytest.raises(ValueError, match="holds a model and no optimizer; load it without"):
        load_checkpoint(tmp_path / "model.pth", *pair)
    assert_unchanged(*pair, before)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_load_checkpoint_refuses_a_file_cut_short(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    pair = new_pair(2)
    before = snapshot(*pair)
    with pytest.raises(ValueError, match=r"checkpoint\.pth: (damaged|refused)") as caught:
        load_checkpoint(path, *pair)
    assert "\n" not in str(caught.value)
    assert_unchanged(*pair, before)


def test_load_checkpoint_refuses_a_text_file(path):
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(ValueError, match="damaged or cut off"):
        load_checkpoint(path, *new_pair(2))


def test_load_checkpoint_refuses_another_object(path):
    torch.save([1, 2, 3], path)
    with pytest.raises(ValueError, match="holds a list, not a checkpoint"):
        load_checkpoint(path, *new_pair(2))


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        import os

        return os.mkdir, (self.folder,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("bare", [False, True])
def test_load_checkpoint_runs_no_code(tmp_path, monkeypatch, forced, bare):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker = tmp_path / "trap.pth", tmp_path / "sprung"
    if bare:
        path.write_bytes(pickle.dumps(Trap(marker)))
    else:
        torch.save({"model_state_dict": Trap(marker)}, path)
    with pytest.raises(ValueError, match=r"was not run") as caught:
        load_checkpoint(path, new_pair(2)[0])
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": V + 1}, "size mismatch for tok_emb.weight"),
        ({"n_layers": 3}, "Missing key"),
        ({"n_layers": 1}, "Unexpected key"),
        ({"qkv_bias": True}, "Missing key"),
    ],
)
def test_load_checkpoint_leaves_a_model_that_does_not_fit(path, changes, reason):
    pair = new_pair(2, **changes)
    before = snapshot(*pair)
    with pytest.raises(ValueError, match=f"does not fit: .*{reason}") as caught:
        load_checkpoint(path, *pair)
    assert "\n" not in str(caught.value)
    assert_unchanged(*pair, before)


def test_load_checkpoint_leaves_both_when_the_optimizer_does_not_fit(path):
    model, _ = new_pair(2)
    optimizer = torch.optim.AdamW(list(model.parameters())[:3])
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match="does not fit: .*parameter group"):
        load_checkpoint(path, model, optimizer)
    assert_unchanged(model, optimizer, before)


def test_save_checkpoint_keeps_the_old_file_when_writing_fails(path, trained, monkeypatch):
    content = path.read_bytes()

    def full_disk(state, file):
        file.write(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, *trained)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
