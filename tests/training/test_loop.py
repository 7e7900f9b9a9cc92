"""A run is what its settings say: interrupted or not, watched or not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from short_runs import CONFIG, DROPOUT, run, same

from llm_scratch.text.token_file import write_tokens
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.training.checkpoints import checkpoints_in
from llm_scratch.training.config import TrainConfig, plan_step
from llm_scratch.training.loop import micro_batches
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.training.steps import NonFiniteError
from llm_scratch.weights.folder import load_model


def test_train_lowers_the_loss(build, parts):
    state = run(build(), parts, dataclasses.replace(CONFIG, steps=60), validation=parts[1])
    assert state.step == 60
    assert state.val_loss < 3.2 < np.log(50)


def test_train_evaluations_and_samples_change_nothing(build, parts, tmp_path):
    plain, watched = build(**DROPOUT), build(**DROPOUT)
    run(plain, parts)
    tokenizer = BytePairTokenizer.train("a b a b", vocab_size=256, special_tokens=())
    wide = [TokenPart.from_tokens(part.tokens, 256) for part in parts]
    plain, watched = (build(vocab_size=256, **DROPOUT) for _ in range(2))
    run(plain, wide)
    config = dataclasses.replace(CONFIG, eval_every=1, sample_every=2, sample_tokens=5)
    run(watched, wide, config, validation=wide[1], folder=tmp_path / "run", tokenizer=tokenizer)
    assert same(plain, watched)
    samples = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in samples] == [2, 4, 6, 8, 10, 12]


def test_train_leaves_modes_and_generators_as_found(build, parts):
    model = build(**DROPOUT).train()
    model.trf_blocks[0].eval()
    modes = [part.training for part in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(model, parts, validation=parts[1])
    assert modes == [part.training for part in model.modules()]
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (8, 1)])
def test_micro_batches_of_a_step_are_the_same_windows_in_any_partition(parts, shape):
    def windows(micro_batch: int, accumulation: int) -> torch.Tensor:
        config = TrainConfig(micro_batch=micro_batch, accumulation=accumulation)
        batches = micro_batches(parts[0], config, plan_step(config, 16), 23)
        return torch.cat([inputs for inputs, _ in batches])

    assert torch.equal(windows(*shape), windows(8, 1))


def test_micro_batches_of_all_ranks_are_those_of_one_process(parts):
    config = TrainConfig(micro_batch=2, accumulation=1)
    plan = plan_step(config, 16, ranks=4)
    ranks = [micro_batches(parts[0], config, plan, 5, rank)[0][0] for rank in range(4)]
    alone = TrainConfig(micro_batch=8)
    whole = micro_batches(parts[0], alone, plan_step(alone, 16), 5)[0][0]
    assert torch.equal(torch.cat(ranks), whole)


def test_train_log_has_a_line_a_step_and_one_an_evaluation(build, parts, tmp_path):
    run(build(), parts, validation=parts[1], folder=tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert set(steps[0]) == {"step", "loss", "lr", "grad_norm", "tokens", "seconds"}
    assert [line["tokens"] for line in steps] == [128 * step for step in range(1, 13)]
    assert [line["lr"] for line in steps] == [CONFIG.rate(step) for step in range(1, 13)]
    assert [set(line) for line in lines if "loss" not in line] == [{"step", "val_loss"}] * 3


def test_train_folder_holds_the_best_model_and_the_last_checkpoints(build, parts, tmp_path):
    model = build()
    state = run(model, parts, validation=parts[1], folder=tmp_path / "run")
    assert [p.name for p in checkpoints_in(tmp_path / "run" / "checkpoints")] == [
        "step-00000012",
        "step-00000008",
    ]
    best, _ = load_model(tmp_path / "run")
    noted = json.loads((tmp_path / "run" / "best.json").read_text(encoding="utf-8"))
    assert noted == {"step": state.best_step, "val_loss": state.best_loss}
    assert state.best_step == 12
    assert same(best, model)


def test_train_stops_early_and_keeps_the_best(build, parts, tmp_path):
    config = dataclasses.replace(CONFIG, steps=40, learning_rate=0.5, eval_every=1, patience=3)
    state = run(build(), parts, config, validation=parts[1], folder=tmp_path / "run")
    assert state.stopped
    assert state.step == state.best_step + 3 < 40
    lines: list[str] = []
    again = run(build(), parts, config, validation=parts[1], folder=tmp_path / "run", resume=True,
                log=lines.append)  # fmt: skip
    assert again == state
    assert "nothing left to do" in lines[-1]


def test_train_stops_at_a_loss_that_is_not_finite_and_keeps_the_last_checkpoint(
    build, parts, tmp_path, monkeypatch
):
    rates = {1: 1e-3, 2: 1e-3, 3: 1e-3, 4: 1e30}
    monkeypatch.setattr(TrainConfig, "rate", lambda config, step: rates.get(step, 1e-3))
    config = dataclasses.replace(CONFIG, save_every=1, keep_last=9)
    with pytest.raises(NonFiniteError) as failure:
        run(build(), parts, config, folder=tmp_path / "run")
    message = str(failure.value)
    assert "stopped at step 5: the loss is nan, at a rate=0.001; the first bad tensor is" in message
    # The parameters of step 4 are finite, and the loss that they give is not.
    assert message.endswith("step-00000003")
    for checkpoint in checkpoints_in(tmp_path / "run" / "checkpoints"):
        saved, _ = load_model(checkpoint)
        assert all(bool(torch.isfinite(p).all()) for p in saved.parameters())


def test_train_writes_no_checkpoint_with_a_parameter_that_is_not_finite(
    build, parts, tmp_path, monkeypatch
):
    rates = {4: float("inf")}
    monkeypatch.setattr(TrainConfig, "rate", lambda config, step: rates.get(step, 1e-3))
    config = dataclasses.replace(CONFIG, save_every=2)
    with pytest.raises(NonFiniteError, match="stopped at step 4: the update made .* infinite"):
        run(build(), parts, config, folder=tmp_path / "run")
    assert [p.name for p in checkpoints_in(tmp_path / "run" / "checkpoints")] == ["step-00000002"]


def test_train_with_a_nan_from_the_start_writes_nothing(build, parts, tmp_path):
    broken = build()
    broken.out_head.weight.data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="tensor is tok_emb.weight.*no good checkpoint"):
        run(broken, parts, folder=tmp_path / "run")
    assert not checkpoints_in(tmp_path / "run" / "checkpoints")


def test_train_without_validation_says_that_nothing_is_measured(build, parts):
    lines: list[str] = []
    run(build(), parts, validation=parts[1], log=lines.append)
    assert not any("nothing is measured" in line for line in lines)
    run(build(), parts, log=lines.append)
    assert sum("no validation part: nothing is measured" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.arange(90), r"is a ndarray; TokenPart.from_tokens\(...\) makes"),
        (None, "is a TokenFile; its split"),
    ],
)
def test_train_says_what_it_takes(build, tmp_path, data, message):
    if data is None:
        data = write_tokens(tmp_path / "t.bin", ["a b"], GPT2Tokenizer())
    with pytest.raises(TypeError, match=message):
        run(build(), (data,))


def test_train_refuses_a_folder_that_is_in_use_or_not_empty(build, parts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is not empty; --resume"):
        run(build(), parts, folder=tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (np.arange(16), {}, "training part does not fit: got 16 tokens, need .* 17"),
        (
            np.arange(50),
            {"validation": TokenPart(np.arange(9), 50)},
            "validation part does not fit",
        ),
    ],
)
def test_train_refuses_data_without_a_window(build, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        run(build(), (TokenPart.from_tokens(tokens, 50),), **options)


def test_train_refuses_a_vocabulary_that_the_model_does_not_have(build, parts):
    with pytest.raises(ValueError, match="vocabulary of 50 ids, the model's vocab_size is 40"):
        run(build(vocab_size=40), parts)


def test_train_refuses_settings_without_effect(build, parts):
    with pytest.raises(ValueError, match="samples of text need the tokenizer"):
        run(build(), parts, dataclasses.replace(CONFIG, sample_every=2))
    with pytest.raises(ValueError, match="patience stops by the validation loss"):
        run(build(), parts, dataclasses.replace(CONFIG, patience=2))
    with pytest.raises(ValueError, match="resume=True needs the folder"):
        run(build(), parts, resume=True)


def test_train_takes_a_compiled_or_wrapped_model(build, parts):
    wrapped = torch.nn.Module()
    wrapped.module = build()
    assert run(wrapped, parts).step == 12


def test_train_gives_back_the_blocks_setting(build, parts):
    model = build()
    run(model, parts, dataclasses.replace(CONFIG, checkpoint_blocks=1, steps=2))
    assert model.checkpoint_blocks == 0
