"""The same base and the same matrices in PEFT: outputs, a training step, and files both ways."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from llm_scratch.lora.layers import (
    freeze,
    lora_layers,
    merge_lora,
    replace_linear_with_lora,
    trainable_parameters,
)
from llm_scratch.lora.loading import load_adapter
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.gpt import GPTModel
from llm_scratch.training.losses import calc_loss_batch

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 211, "context_length": 32, "emb_dim": 48, "n_heads": 4, "n_layers": 3}
RANK, ALPHA = 4, 12
TARGETS = {
    "all": None,
    "attention": ["W_query", "W_value"],
    "feed-forward and head": ["ff", "out_head"],
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft", reason="pip install -e '.[peers]' brings PEFT")


def base(seed=3):
    torch.manual_seed(seed)
    return GPTModel({**SIZES, "drop_rate": 0.0, "qkv_bias": True})


def batches():
    ids = torch.randint(211, (2, 4, 33), generator=torch.Generator().manual_seed(7))
    return [(rows[:, :-1], rows[:, 1:]) for rows in ids]


def pair(peft, targets):
    """Our model with LoRA, and PEFT's around another copy of the same base with our matrices."""
    ours = base()
    replace_linear_with_lora(ours, RANK, ALPHA, targets=targets, freeze_base=True)
    torch.manual_seed(4)
    for layer in lora_layers(ours).values():
        nn.init.normal_(layer.lora.B, std=0.05)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(lora_layers(ours)))
    theirs = peft.get_peft_model(base(), config)
    with torch.no_grad():
        for name, layer in lora_layers(ours).items():
            their_layer = theirs.base_model.model.get_submodule(name)
            their_layer.lora_A["default"].weight.copy_(layer.lora.A.T)
            their_layer.lora_B["default"].weight.copy_(layer.lora.B.T)
    return ours, theirs


@pytest.fixture(params=list(TARGETS.values()), ids=list(TARGETS))
def models(request, peft):
    return pair(peft, request.param)


def test_lora_outputs_equal_those_of_peft(models):
    ours, theirs = models
    inputs, _ = batches()[0]
    assert_close(ours(inputs), theirs(inputs), **CLOSE)
    assert (ours(inputs) - base()(inputs)).abs().max() > 0.01


def test_lora_trains_as_many_numbers_as_peft(models):
    ours, theirs = models
    count = sum(p.numel() for p in trainable_parameters(ours).values())
    assert count == theirs.get_nb_trainable_parameters()[0]


def test_training_steps_equal_those_of_peft(models):
    """One step moves every matrix alike; the loss of the next batch agrees too."""
    losses = []
    for model in models:
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.1)
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = calc_loss_batch(inputs, targets, model, "cpu")
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:2] == pytest.approx(losses[2:], abs=1e-5)
    ours, theirs = models
    for name, layer in lora_layers(ours).items():
        their_layer = theirs.base_model.model.get_submodule(name)
        assert_close(layer.lora.A.T, their_layer.lora_A["default"].weight, **CLOSE)
        assert_close(layer.lora.B.T, their_layer.lora_B["default"].weight, **CLOSE)


def test_merged_model_equals_that_of_peft(models):
    ours, theirs = models
    merged = theirs.merge_and_unload()
    merge_lora(ours, unwrap=True)
    assert ours.state_dict().keys() == merged.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert_close(tensor, merged.state_dict()[name], **CLOSE)


@pytest.mark.filterwarnings("error")
def test_peft_loads_our_adapter(peft, models, tmp_path):
    ours, _ = models
    save_adapter(ours, tmp_path)
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path)
    inputs, _ = batches()[0]
    assert_close(loaded(inputs), ours(inputs), **CLOSE)


def test_we_load_an_adapter_of_peft(models, tmp_path):
    ours, theirs = models
    theirs.save_pretrained(tmp_path)
    loaded = base()
    load_adapter(loaded, tmp_path)
    inputs, _ = batches()[0]
    assert torch.equal(loaded(inputs), ours(inputs))


def test_peft_loads_ranks_and_alphas_that_differ(peft, tmp_path):
    ours = base()
    for rank, alpha, target in (
        (2, 2, "trf_blocks.1"),
        (3, 12, "trf_blocks.0"),
        (2, 5, "out_head"),
    ):
        replace_linear_with_lora(ours, rank, alpha, targets=target, freeze_base=True)
    for layer in lora_layers(ours).values():
        nn.init.normal_(layer.lora.B, std=0.05)
    save_adapter(ours, tmp_path)
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path)
    inputs, _ = batches()[0]
    assert_close(loaded(inputs), ours(inputs), **CLOSE)
    loaded.save_pretrained(tmp_path / "again")
    again = base()
    load_adapter(again, tmp_path / "again")
    assert torch.equal(again(inputs), ours(inputs))


def classifier(seed=3):
    model = base(seed)
    model.out_head = nn.Linear(model.cfg.emb_dim, 2)
    return model


@pytest.mark.parametrize("targets", [["trf_blocks"], None])
def test_peft_loads_our_head_for_classes(peft, tmp_path, targets):
    """Beside LoRA where the head learns itself, under it where it has LoRA too."""
    ours = classifier()
    freeze(ours)
    replace_linear_with_lora(ours, RANK, ALPHA, targets=targets)
    for layer in lora_layers(ours).values():
        nn.init.normal_(layer.lora.B, std=0.05)
    if targets:
        ours.out_head.requires_grad_(True)
    save_adapter(ours, tmp_path)
    other = classifier()
    nn.init.normal_(other.out_head.weight)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(other), tmp_path)
    inputs, _ = batches()[0]
    assert_close(loaded(inputs), ours(inputs), **CLOSE)
    loaded.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    if targets:
        load_adapter(other, tmp_path / "again")
        assert torch.equal(other(inputs), ours(inputs))
