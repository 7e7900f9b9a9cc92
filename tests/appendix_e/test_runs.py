"""LoRA in the loop for real runs: what it keeps, and how it goes on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm_scratch.finetuning.dpo_training import finetune_preferences
from llm_scratch.lora.layers import freeze, replace_linear_with_lora, trainable_parameters
from llm_scratch.lora.loading import load_adapter
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.head_loss import chunked_head_loss
from llm_scratch.training.loop import train
from llm_scratch.training.run_folder import read_lines
from llm_scratch.training.steps import Engine
from llm_scratch.weights.folder import save_model

SIZES = {"vocab_size": 50, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
SETTINGS = {"micro_batch": 4, "eval_every": 4, "save_every": 4, "log_every": 0}
CONFIG = TrainConfig(steps=12, learning_rate=1e-2, **SETTINGS)
STEPS = np.random.default_rng(0).integers(0, 3, 1000)
TRAIN, VALIDATION = (
    TokenPart.from_tokens(tokens, 50) for tokens in np.split(np.cumsum(STEPS) % 50, [800])
)


class StopHereError(Exception):
    """Instead of the signal that ends a process."""


def build(seed=1, lora=True, alpha=4, targets=None, **options):
    torch.manual_seed(seed)
    model = GPTModel({**SIZES, "drop_rate": 0.1, **options})
    torch.manual_seed(2)
    if lora:
        replace_linear_with_lora(model, 2, alpha, targets=targets, freeze_base=True)
    return model


def run(folder, model, config=CONFIG, **options):
    options = {"log": lambda line: None, "save_best": save_adapter, **options}
    return train(model, TRAIN, config, validation=VALIDATION, folder=folder, **options)


def stopped_run(folder, step):
    """A run that ends like a killed one, after so many steps."""

    def stop(line):
        if line.startswith(f"step {step}: validation"):
            raise StopHereError

    with pytest.raises(StopHereError):
        run(folder, build(), log=stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the model of a run that nobody stopped."""
    folder, model = tmp_path_factory.mktemp("whole") / "run", build()
    run(folder, model)
    return folder, model


def test_a_model_with_lora_is_not_saved_whole(tmp_path):
    """Said before the first step, by every kind of run."""
    lines = []
    options = {"folder": tmp_path / "run", "save_best": save_model, "log": lines.append}
    with pytest.raises(ValueError, match="give save_best=save_adapter"):
        train(build(), TRAIN, CONFIG, **options)
    with pytest.raises(ValueError, match="give save_best=save_adapter"):
        finetune_preferences(build(), None, [], [], CONFIG, **options)
    assert not any("loss" in line for line in lines)


def metrics(folder):
    lines = read_lines(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_run_with_lora_learns_and_keeps_the_best_adapter(whole):
    folder, model = whole
    losses = [line["val_loss"] for line in metrics(folder) if "val_loss" in line]
    assert losses[-1] < losses[0] - 0.03
    loaded = build(lora=False)
    load_adapter(loaded, folder)
    ids = torch.arange(10)[None]
    assert losses[-1] == min(losses)
    torch.testing.assert_close(loaded.eval()(ids), model.eval()(ids))
    assert not (folder / "model.safetensors").exists()


def test_checkpoint_with_lora_holds_what_learns_and_no_more(whole):
    folder, model = whole
    tensors = load_file(folder / "checkpoints" / "step-00000012" / "trained.safetensors")
    assert tensors.keys() == trainable_parameters(model).keys()
    assert not (folder / "checkpoints" / "step-00000012" / "model.safetensors").exists()


def test_resumed_run_with_lora_equals_one_that_was_not_stopped(whole, tmp_path):
    stopped_run(tmp_path / "run", 8)
    lines = []
    model = build()
    run(tmp_path / "run", model, resume=True, log=lines.append)
    assert any(line.startswith("continuing after step 4") for line in lines)
    assert metrics(tmp_path / "run") == metrics(whole[0])
    for (name, ours), theirs in zip(model.named_parameters(), whole[1].parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("changes", [{"seed": 3}, {"alpha": 8}, {"targets": "trf_blocks"}])
def test_run_with_lora_goes_on_with_the_same_base_and_layers_only(whole, tmp_path, changes):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    with pytest.raises(ValueError, match="the run was started with another base: '[0-9a-f]{16}'"):
        run(folder, build(**changes), resume=True)


def test_damaged_parameters_of_a_checkpoint_are_seen(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    path = folder / "checkpoints" / "step-00000012" / "trained.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    lines = []
    run(folder, build(), resume=True, log=lines.append)
    assert any("is damaged" in line for line in lines)
    assert metrics(folder) == metrics(whole[0])


@pytest.mark.parametrize("chunk", [4, 20, 1000])
def test_head_with_lora_in_pieces_has_the_loss_and_gradients_of_the_whole(chunk):
    model = build(drop_rate=0.0)
    torch.nn.init.normal_(model.out_head.lora.B)
    inputs, targets = TRAIN.batch(0, 0, 2, 16)
    targets[0, :5] = -100
    engine = Engine(model, [], torch.device("cpu"), chunk=chunk)
    engine.loss((inputs, targets), 27.0).backward()
    found = {name: p.grad for name, p in trainable_parameters(model).items()}
    model.zero_grad(set_to_none=True)
    whole = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    whole.backward()
    for name, parameter in trainable_parameters(model).items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert engine.loss((inputs, targets), 27.0).item() == pytest.approx(whole.item(), abs=1e-6)


def test_frozen_head_gets_no_gradient_and_costs_none():
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5, requires_grad=True), torch.randn(11, 5)
    targets = torch.tensor([1, 4, -100, 0, 10, 3, 3])
    for divisor in (1.0, 6.0):
        hidden.grad = None
        loss = chunked_head_loss(hidden, weight, targets, divisor=divisor, chunk=3)
        assert loss.grad_fn.gradients[1] is None
        (2 * loss).backward()
        expected = hidden.detach().requires_grad_()
        sums = torch.nn.functional.cross_entropy(expected @ weight.T, targets, reduction="sum")
        (2 * sums / divisor).backward()
        torch.testing.assert_close(hidden.grad, expected.grad)


def test_frozen_model_is_refused(tmp_path):
    model = build(lora=False)
    freeze(model)
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        run(tmp_path / "run", model)


def test_preferences_with_lora_keep_an_adapter_and_go_on(tmp_path):
    """The reference is the base, also for the second start."""
    tokenizer = BytePairTokenizer.train("Say it. Yes, please. no! " * 30, 270)
    entries = [
        {"instruction": f"Say {n}.", "input": "", "chosen": f"{n}, please.", "rejected": f"{n}!"}
        for n in range(12)
    ]
    config = TrainConfig(steps=8, learning_rate=1e-2, **SETTINGS)

    def tune(folder, **options):
        model = build(targets="trf_blocks", vocab_size=270, context_length=256)
        options = {"log": lambda line: None, "save_best": save_adapter, **options}
        parts = entries[:8], entries[8:]
        finetune_preferences(model, tokenizer, *parts, config, folder=folder, **options)
        return model

    def stop(line):
        if line.startswith("step 8: validation"):
            raise StopHereError

    whole = tune(tmp_path / "whole")
    with pytest.raises(StopHereError):
        tune(tmp_path / "run", log=stop)
    again = tune(tmp_path / "run", resume=True)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    for (name, ours), theirs in zip(again.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    loaded = build(lora=False, vocab_size=270, context_length=256)
    assert load_adapter(loaded, tmp_path / "run").n_vocab == 270
