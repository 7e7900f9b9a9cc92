"""A run is what its settings say: interrupted or not, watched or not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from llm_scratch.text.token_parts import TokenPart
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training import loop, starting
from llm_scratch.training.checkpoints import checkpoints_in
from llm_scratch.training.config import TrainConfig, plan_step
from llm_scratch.training.loop import micro_batches, train
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.training.steps import NonFiniteError
from llm_scratch.weights.folder import load_model

CONFIG = TrainConfig(
    steps=12,
    micro_batch=4,
    accumulation=2,
    learning_rate=3e-3,
    eval_every=4,
    save_every=4,
    log_every=0,
    tune_allocator=False,
)
DROPOUT = {"drop_rate": 0.1}


def quiet(line: str) -> None:
    pass


def run(model, parts, config=CONFIG, **options):
    return train(model, parts[0], config, **{"log": quiet, **options})


def same(model, other) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def timeless(folder) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]


class StopError(Exception):
    """Stands for whatever ends a process."""


def stop_after(step: int, monkeypatch):
    """Let the loop end as if the process had been killed after a step."""
    original = loop._step

    def counted(run, reporter):
        if run.state.step == step:
            raise StopError
        original(run, reporter)

    monkeypatch.setattr(loop, "_step", counted)


def test_train_lowers_the_loss(build, parts):
    state = run(build(), parts, dataclasses.replace(CONFIG, steps=60), validation=parts[1])
    assert state.step == 60
    assert state.val_loss < 3.2 < np.log(50)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop", [5, 8, 11])
def test_train_resumed_equals_never_stopped(build, parts, tmp_path, monkeypatch, stop, optimizer):
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    whole, cut = build(**DROPOUT), build(**DROPOUT)
    run(whole, parts, config, validation=parts[1], folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(stop, patch)
        with pytest.raises(StopError):
            run(cut, parts, config, validation=parts[1], folder=tmp_path / "cut")
    fresh = build(**DROPOUT)
    run(fresh, parts, config, validation=parts[1], folder=tmp_path / "cut", resume=True)
    assert same(whole, fresh)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")
    tables = [(tmp_path / name / "metrics.csv").read_text(encoding="utf-8") for name in
              ("whole", "cut")]  # fmt: skip
    assert [len(table.splitlines()) for table in tables] == [16, 16]


def test_train_resumed_in_float16_keeps_the_scale(build, parts, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, precision="float16")
    whole, fresh = build(), build()
    run(whole, parts, config)
    with monkeypatch.context() as patch:
        stop_after(6, patch)
        with pytest.raises(StopError):
            run(build(), parts, config, folder=tmp_path / "run")
    run(fresh, parts, config, folder=tmp_path / "run", resume=True)
    assert same(whole, fresh)


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
    plan = plan_step(config, 16)
    ranks = [micro_batches(parts[0], config, plan, 5, rank, 4)[0][0] for rank in range(4)]
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-3}, "learning_rate: 0.003 before, 0.001 now"),
        ({"seed": 5}, "seed: 1234 before, 5 now"),
        ({"micro_batch": 2}, r"rows of a step \(.*\): 2 x 4 before, 2 x 2 now"),
    ],
)
def test_train_refuses_to_resume_with_other_settings(build, parts, tmp_path, change, message):
    run(build(), parts, folder=tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        run(build(), parts, dataclasses.replace(CONFIG, **change), folder=tmp_path / "run",
            resume=True)  # fmt: skip


def test_train_goes_on_to_a_later_end_with_the_rates_of_the_longer_run(build, parts, tmp_path):
    folder, lines = tmp_path / "run", []
    run(build(**DROPOUT), parts, validation=parts[1], folder=folder)
    before = (folder / "metrics.jsonl").read_bytes()
    longer = dataclasses.replace(CONFIG, steps=20)
    options = {"validation": parts[1], "folder": folder, "resume": True}
    state = run(build(**DROPOUT), parts, longer, log=lines.append, **options)
    assert state.step == 20
    rate = longer.rate(13)
    assert rate > CONFIG.rate(12)
    assert (
        f"the run ends at step 20, not 12: the learning rate is {rate:.2e} at step 13 and 3.00e-04 "
        "at the last one"
    ) in lines
    assert (folder / "metrics.jsonl").read_bytes().startswith(before)
    rates = [line["lr"] for line in read_metrics(folder) if "loss" in line]
    configs = [CONFIG] * 12 + [longer] * 8
    assert rates == [config.rate(step) for step, config in enumerate(configs, 1)]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["train"]["steps"] == 20


@pytest.mark.parametrize("steps", [16, 6])
def test_train_goes_on_to_another_end_from_where_it_was_stopped(
    build, parts, tmp_path, monkeypatch, steps
):
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(StopError):
            run(build(), parts, folder=tmp_path / "run")
    lines, config = [], dataclasses.replace(CONFIG, steps=steps)
    state = run(build(), parts, config, folder=tmp_path / "run", resume=True, log=lines.append)
    assert state.step == steps
    assert any(
        f"ends at step {steps}, not 12: the learning rate is {config.rate(5):.2e} at step 5 "
        f"(it was {CONFIG.rate(5):.2e})" in line
        for line in lines
    )


def test_train_with_fewer_steps_than_were_taken_has_nothing_left_to_do(build, parts, tmp_path):
    run(build(), parts, folder=tmp_path / "run")
    kept = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    lines, fewer = [], dataclasses.replace(CONFIG, steps=5)
    state = run(build(), parts, fewer, folder=tmp_path / "run", resume=True, log=lines.append)
    assert state.step == 12
    assert lines[-1] == "nothing left to do: 12 steps were taken, 5 are asked for"
    assert not any("the run ends at" in line for line in lines)
    assert kept == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize("split", [(4, 2), (1, 8), (8, 1)])
@pytest.mark.parametrize("kind", ["windows", "rows"])
def test_train_goes_on_with_another_split_of_the_same_step(
    build, parts, tmp_path, monkeypatch, split, kind
):
    if kind == "rows":
        ids = parts[0].tokens.tolist()
        lists = [ids[17 * i : 17 * i + 4 + i % 13] for i in range(60)]
        rows = [(row[:-1], row[1:]) for row in lists]
        parts = [TokenRows(some, pad_id=0, vocab_size=50) for some in (rows[:40], rows[40:])]
    config = dataclasses.replace(CONFIG, eval_batches=2, eval_every=3, precision="float32")
    options = {"validation": parts[1], "folder": tmp_path / "run"}
    whole = run(build(), parts, config, validation=parts[1], folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(StopError):
            run(build(), parts, config, **options)
    lines, (accumulation, micro_batch) = [], split
    other = dataclasses.replace(config, accumulation=accumulation, micro_batch=micro_batch)
    state = run(build(), parts, other, **options, resume=True, log=lines.append)
    assert state.tokens == whole.tokens
    values = [
        [line.get("loss", line.get("val_loss")) for line in read_metrics(tmp_path / name)]
        for name in ("run", "whole")
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    expected = f"a step reads its rows as {accumulation} x {micro_batch}, not 2 x 4: "
    assert any(line.startswith(expected) for line in lines)


def test_train_without_validation_says_that_nothing_is_measured(build, parts):
    lines: list[str] = []
    run(build(), parts, validation=parts[1], log=lines.append)
    assert not any("nothing is measured" in line for line in lines)
    run(build(), parts, log=lines.append)
    assert sum("no validation part: nothing is measured" in line for line in lines) == 1


def test_train_warns_when_it_goes_on_in_other_numbers(build, parts, tmp_path, monkeypatch):
    types = iter([torch.float32, torch.bfloat16])  # "auto" on two machines
    monkeypatch.setattr(starting, "pick_precision", lambda asked, device: next(types))
    config = dataclasses.replace(CONFIG, steps=4)
    run(build(), parts, config, folder=tmp_path / "run")
    with pytest.warns(UserWarning, match="with dtype float32, and goes on with bfloat16"):
        run(build(), parts, config, folder=tmp_path / "run", resume=True)


def test_train_refuses_to_resume_with_another_model_or_other_data(build, parts, tmp_path):
    run(build(), parts, folder=tmp_path / "run")
    with pytest.raises(ValueError, match="another model: n_layers 2 before, 1 now"):
        run(build(n_layers=1), parts, folder=tmp_path / "run", resume=True)
    other = TokenPart.from_tokens(parts[0].tokens[::-1].copy(), 50)
    with pytest.raises(ValueError, match="another first rows: '.*' before, '.*' now"):
        run(build(), (other,), folder=tmp_path / "run", resume=True)


def test_train_refuses_to_resume_with_another_tokenizer(build, parts, tmp_path):
    first, second = (
        BytePairTokenizer.train(text, vocab_size=258, special_tokens=()) for text in
        ("ab ab ab cd cd", "xy xy xy zz zz")
    )  # fmt: skip
    run(build(vocab_size=258), parts, folder=tmp_path / "run", tokenizer=first)
    with pytest.raises(ValueError, match="another tokenizer: '.*' before, '.*' now"):
        run(build(vocab_size=258), parts, folder=tmp_path / "run", tokenizer=second, resume=True)


def test_train_warns_when_the_number_of_threads_differs(build, parts, tmp_path, monkeypatch):
    run(build(), parts, dataclasses.replace(CONFIG, steps=4), folder=tmp_path / "run")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with pytest.warns(UserWarning, match=r"threads \d+, and goes on with 77"):
        run(build(), parts, dataclasses.replace(CONFIG, steps=4), folder=tmp_path / "run",
            resume=True)  # fmt: skip


def test_train_refuses_a_folder_that_is_in_use_or_not_empty(build, parts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is not empty; --resume"):
        run(build(), parts, folder=tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_train_resuming_an_empty_folder_starts_at_0(build, parts, tmp_path):
    assert run(build(), parts, folder=tmp_path / "new", resume=True).step == 12


def test_train_says_that_it_starts_again_without_a_whole_checkpoint(
    build, parts, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(StopError):
            run(build(), parts, folder=tmp_path / "run")
    lines: list[str] = []
    run(build(), parts, folder=tmp_path / "run", resume=True, log=lines.append)
    assert any("no whole checkpoint: starting at step 0" in line for line in lines)
    assert len([x for x in read_metrics(tmp_path / "run") if "loss" in x]) == 12


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
