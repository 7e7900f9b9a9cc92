"""Going on with a run: what was left is taken up, and what differs is refused or said."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from short_runs import CONFIG, DROPOUT, StopError, run, same, stop_after, timeless

from llm_scratch.text.token_parts import TokenPart
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training import starting
from llm_scratch.training.run_folder import read_metrics


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


def test_train_warns_when_it_goes_on_in_other_numbers(build, parts, tmp_path, monkeypatch):
    types = iter([torch.float32, torch.bfloat16])  # "auto" on two machines
    monkeypatch.setattr(starting, "pick_precision", lambda asked, device: next(types))
    config = dataclasses.replace(CONFIG, steps=4)
    run(build(), parts, config, folder=tmp_path / "run")
    with pytest.warns(UserWarning, match="with dtype float32, and continues with bfloat16"):
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
    with pytest.warns(UserWarning, match=r"threads \d+, and continues with 77"):
        run(build(), parts, dataclasses.replace(CONFIG, steps=4), folder=tmp_path / "run",
            resume=True)  # fmt: skip


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
