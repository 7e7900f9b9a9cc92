"""Mixtures give each part its share of the tokens, and runs on them go on as others do."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from short_runs import CONFIG, DROPOUT, StopError, run, same, stop_after, timeless

from llm_scratch.text.mixed_files import MixedFiles, names_of
from llm_scratch.text.mixture import Mixture, exact_shares
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.config import plan_step
from llm_scratch.training.loop import micro_batches
from llm_scratch.training.measuring import part_to_measure
from llm_scratch.training.run_folder import read_metrics

VOCAB, LENGTH = 50, 4


def marked(number: int, windows: int) -> TokenPart:
    """A part whose windows all begin with a number of their own, and end with that of the part."""
    rows = [[2 + i // 46, 4 + i % 46, number, number] for i in range(windows)]
    return TokenPart.from_tokens(sum(rows, []) + [number], VOCAB)


def owners(inputs: torch.Tensor) -> list[int]:
    """Which part the windows of a batch come from: the grid of a part moves from pass to pass."""
    return [int(row.min()) for row in inputs]


def mixture(shares, windows=(30, 20, 5)) -> Mixture:
    parts = {"abc"[i]: marked(i, windows[i]) for i in range(len(shares))}
    return Mixture(parts, dict(zip(parts, shares, strict=True)))


def shares_of(weights: list[int]) -> dict[str, Fraction]:
    return {str(i): Fraction(weight, sum(weights)) for i, weight in enumerate(weights)}


weights = st.lists(st.integers(1, 400), min_size=1, max_size=6)


@given(weights, st.integers(1, 9), st.integers(0, 500), st.integers(0, 9))
def test_shares_are_kept_within_a_window_over_any_prefix(weights, rows, step, seed):
    """All windows before a step, and each within it: by their places, which need no data."""
    shares = shares_of(weights)
    parts = {name: TokenPart.from_tokens([0] * 50, 1) for name in shares}
    mixed = Mixture(parts, shares)
    before, _ = mixed._places(0, step * rows) if step else (np.empty(0, int), None)
    here, places = mixed._places(step, rows)
    given_out = Counter(before.tolist())
    for count, (owner, place) in enumerate(zip(here, places, strict=True), step * rows + 1):
        assert place == given_out[owner]
        given_out[owner] += 1
        for number, share in enumerate(shares.values()):
            assert abs(given_out[number] - share * count) < 1


def test_shares_of_a_run_are_those_that_were_asked_for():
    mixed = mixture(("0.45", "0.45", "0.1"))
    found = Counter(
        owner for step in range(50) for owner in owners(mixed.batch(7, step, 2, LENGTH)[0])
    )
    assert found == {0: 45, 1: 45, 2: 10}


@pytest.mark.parametrize("pieces", [(1, 8), (2, 4), (4, 2)])
def test_processes_and_micro_batches_share_the_windows_of_a_step(pieces):
    ranks, accumulation = pieces
    data = mixture((0.5, 0.3, 0.2))
    whole = dataclasses.replace(CONFIG, length=LENGTH, micro_batch=16, accumulation=1)
    small = dataclasses.replace(
        whole, micro_batch=16 // ranks // accumulation, accumulation=accumulation
    )
    for step in (1, 2, 9):
        (alone,) = micro_batches(data, whole, plan_step(whole, LENGTH), step)
        plan = plan_step(small, LENGTH, ranks)
        found = [micro_batches(data, small, plan, step, rank) for rank in range(ranks)]
        together = [found[rank][micro] for micro in range(accumulation) for rank in range(ranks)]
        for side in (0, 1):
            assert torch.equal(torch.cat([batch[side] for batch in together]), alone[side])


def test_small_part_repeats_without_a_window_twice_in_a_pass():
    mixed = mixture((0.6, 0.4), windows=(30, 7))
    assert mixed.passes(70, LENGTH) == {"a": pytest.approx(1.4), "b": pytest.approx(4)}
    assert mixed.outlook(70, LENGTH)[1] == (
        "b will be read 4 times: it has 7 windows, and 0.4 of the 70 of this run"
    )
    rows = mixed.batch(3, 0, 70, LENGTH)[0]
    own = [tuple(row.tolist()) for row in rows[torch.tensor(owners(rows)) == 1]]
    assert len(own) == 28
    passes = [own[i : i + 7] for i in range(0, 28, 7)]
    assert [len(set(windows)) for windows in passes] == [7, 7, 7, 7]
    assert passes[0] != passes[1]


def test_parts_of_one_size_are_not_read_in_one_order():
    part = TokenPart.from_tokens(np.arange(401) % VOCAB, VOCAB)
    rows = Mixture({"a": part, "b": part}, {"a": 0.5, "b": 0.5}).batch(1, 0, 40, LENGTH)[0]
    assert not torch.equal(rows[::2], rows[1::2])


def test_mixture_of_one_part_is_that_part():
    part = marked(0, 30)
    mixed = Mixture({"a": part}, {"a": 1})
    for step in (0, 11):
        assert all(
            map(torch.equal, mixed.batch(5, step, 6, LENGTH), part.batch(5, step, 6, LENGTH))
        )


def test_rows_in_order_are_those_of_each_part():
    mixed = mixture((0.5, 0.5), windows=(3, 2))
    found = list(mixed.rows_in_order(LENGTH, 2))
    assert [owners(inputs) for inputs, _ in found] == [[0, 0], [0], [1, 1]]
    assert mixed.num_rows(LENGTH) == 5


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (("0.45", "0.45", "0.1"), ("9/20", "9/20", "1/10")),
        ((0.333, 0.333, 0.333), ("1/3", "1/3", "1/3")),
        (("1/3", "2/3"), ("1/3", "2/3")),
        (("0.3334", "0.6667"), ("3334/10001", "6667/10001")),
    ],
)
def test_exact_shares_are_those_that_are_written(shares, expected):
    found = exact_shares(dict(zip("abc", shares, strict=False)))
    assert list(found.values()) == list(map(Fraction, expected))
    assert sum(found.values()) == 1


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (("0.45", "0.45"), "sum to 0.9, which is not 1 within 0.001; .* a:0.5 b:0.5"),
        (("0.6", "0.6"), "sum to 1.2"),
        (("x", "0.5"), "the share of a is 'x'; it must be a number above 0"),
        (("1/0", "0.5"), "the share of a is '1/0'"),
        (("nan", "0.5"), "the share of a is 'nan'"),
        (("0", "1"), "the share of a is '0'"),
        (("-0.5", "1.5"), "the share of a is '-0.5'"),
        (("0.1234567", "0.8765433"), "come out even only after 10,000,000 windows.*five decimals"),
        ((), "there is none"),
    ],
)
def test_exact_shares_refuses(shares, message):
    with pytest.raises(ValueError, match=message):
        exact_shares(dict(zip("abc", shares, strict=False)))


def test_mixture_refuses_parts_that_do_not_fit():
    part, other = marked(0, 3), TokenPart.from_tokens([1, 2, 3, 4, 5], 60)
    with pytest.raises(ValueError, match="there are parts a and shares of b"):
        Mixture({"a": part}, {"b": 1})
    with pytest.raises(ValueError, match=r"several sizes \(a 50, b 60\)"):
        Mixture({"a": part, "b": other}, {"a": 0.5, "b": 0.5})
    short = TokenPart.from_tokens([1], VOCAB)
    short_one = Mixture({"a": part, "b": short}, {"a": 0.5, "b": 0.5})
    with pytest.raises(ValueError, match="b: got 1 tokens, need at least"):
        short_one.num_rows(LENGTH)


@pytest.fixture(scope="module")
def mixed(parts):
    """Training and validation mixtures of three texts, one of them small."""
    train, val = parts
    small = TokenPart.from_tokens(np.arange(100) % 7, VOCAB)
    backwards, val_backwards = (
        TokenPart.from_tokens(part.tokens[::-1].copy(), VOCAB) for part in parts
    )
    shares = {"a": 0.45, "b": 0.45, "c": 0.1}
    training = Mixture({"a": train, "b": backwards, "c": small}, shares)
    return training, Mixture({"a": val, "b": val_backwards, "c": small}, shares)


@pytest.mark.parametrize("stop", [5, 8])
def test_run_on_a_mixture_resumes_to_the_bit(build, mixed, tmp_path, monkeypatch, stop):
    whole, fresh = build(**DROPOUT), build(**DROPOUT)
    run(whole, mixed, validation=mixed[1], folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(stop, patch)
        with pytest.raises(StopError):
            run(build(**DROPOUT), mixed, validation=mixed[1], folder=tmp_path / "cut")
    run(fresh, mixed, validation=mixed[1], folder=tmp_path / "cut", resume=True)
    assert same(whole, fresh)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "cut")


def test_run_on_a_mixture_says_and_records_what_it_reads(build, mixed, tmp_path):
    lines: list[str] = []
    state = run(build(), mixed, validation=mixed[1], folder=tmp_path, log=lines.append)
    assert "c will be read 1.6 times: it has 6 windows, and 0.1 of the 96 of this run" in lines
    facts = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["data"]
    assert facts["mix"] == "a:9/20 b:9/20 c:1/10"
    assert list(facts["parts"]) == ["a", "b", "c"]
    last = [line for line in read_metrics(tmp_path) if "val_loss" in line][-1]
    losses = [last[f"val_loss/{name}"] for name in "abc"]
    assert last["val_loss"] == pytest.approx(np.dot(losses, [0.45, 0.45, 0.1]))
    assert len(set(losses)) == 3
    shown = ", ".join(f"{n} {loss:.4f}" for n, loss in zip("abc", losses, strict=True))
    assert any(f"loss {last['val_loss']:.4f} ({shown})" in line for line in lines)
    assert state.best_loss == min(
        line["val_loss"] for line in read_metrics(tmp_path) if "val_loss" in line
    )


def test_evaluation_reads_some_batches_of_each_part(build, mixed, tmp_path, monkeypatch):
    read = Counter()
    original = TokenPart.batch

    def counted(self, seed, *rest, **piece):
        read[len(self)] += seed == 0 and not piece
        return original(self, seed, *rest, **piece)

    monkeypatch.setattr(TokenPart, "batch", counted)
    config = dataclasses.replace(CONFIG, steps=4, eval_batches=1)
    run(build(), mixed, config, validation=mixed[1], folder=tmp_path)
    assert read[300] == 2  # the validation parts of "a" and "b", a micro batch each


@pytest.mark.parametrize("change", ["shares", "order", "part", "none"])
def test_run_refuses_to_go_on_with_another_mix(build, mixed, tmp_path, change):
    run(build(), mixed, folder=tmp_path / "run")
    train, shares, message = mixed[0], {"a": 0.5, "b": 0.4, "c": 0.1}, "another mix: "
    message += "'a:9/20 b:9/20 c:1/10' before, "
    if change == "shares":
        other, message = Mixture(train.parts, shares), message + "'a:1/2 b:2/5 c:1/10' now"
    elif change == "order":
        names = ("b", "a", "c")
        moved = [{n: x[n] for n in names} for x in (train.parts, train.shares)]
        other, message = Mixture(*moved), message + "'b:9/20 a:9/20 c:1/10' now"
    elif change == "part":
        small = TokenPart.from_tokens(np.arange(100) % 9, VOCAB)
        other = Mixture(train.parts | {"c": small}, train.shares)
        message = "another parts: c first rows '.*' before, '.*' now; give"
    else:
        other, message = train.parts["a"], message + "None now"
    with pytest.raises(ValueError, match=message):
        run(build(), (other,), folder=tmp_path / "run", resume=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three token files with one id a byte, and one of another tokenizer."""
    folder = tmp_path_factory.mktemp("files")
    bytes_alone = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    pairs = BytePairTokenizer.train("ab ab ab", vocab_size=257, special_tokens=())
    for name, text, tokenizer in (
        ("web.bin", "the tide comes in and goes out. " * 40, bytes_alone),
        ("wiki.bin", "a clock counts the hours. " * 30, bytes_alone),
        ("other.bin", "ab ab ab " * 40, pairs),
    ):
        write_tokens(folder / name, text, tokenizer, progress=False)
    return folder


def test_mixed_files_split_into_mixtures(files):
    data = MixedFiles([f"{files / 'web.bin'}:0.75", f"{files / 'wiki.bin'}:0.25"])
    train, val = data.split(min_tokens=17)
    assert train.shares == val.shares == {"web": Fraction(3, 4), "wiki": Fraction(1, 4)}
    alone = TokenFile(files / "wiki.bin").split(min_tokens=17)
    assert [len(part.parts["wiki"]) for part in (train, val)] == list(map(len, alone))
    assert (data.vocab_size, data.fingerprint) == (256, TokenFile(files / "web.bin").fingerprint)
    assert len(data.tokenizer.encode("ab")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("web.bin:0.5", "other.bin:0.5"),
            r"web.bin was made with the tokenizer .*other.bin with",
        ),
        (("web.bin:0.5", "web.bin:0.5"), "web.bin is given twice; give it one share"),
        (("web.bin", "wiki.bin:0.5"), "must be FILE:SHARE, as web.bin:0.45"),
        (("web.bin:0.5", "none.bin:0.5"), "no token file at .*none.bin"),
    ],
)
def test_mixed_files_refuse(files, words, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        MixedFiles([f"{files}/{word}" for word in words])


def test_mixed_files_name_the_one_that_is_too_short(files):
    data = MixedFiles([f"{files / 'web.bin'}:0.5", f"{files / 'wiki.bin'}:0.5"])
    with pytest.raises(ValueError, match=r"wiki.bin: the validation part has 78 of 780 tokens"):
        data.split(min_tokens=100)


def test_names_are_as_long_as_it_takes_to_tell_them_apart(tmp_path):
    (tmp_path / "v1.0").mkdir()
    paths = [tmp_path / name for name in ("web.bin", "wiki.bin", "v1.0")]
    assert names_of(paths) == ["web", "wiki", "v1.0"]
    assert names_of([tmp_path / "a" / "t.bin", tmp_path / "b" / "t.bin"]) == ["a/t", "b/t"]
    assert len(set(names_of([tmp_path / "t.bin", tmp_path / "t.txt"]))) == 2


def test_part_to_measure_knows_the_files_of_a_mix(build, files, tmp_path):
    data = MixedFiles([f"{files / 'web.bin'}:0.75", f"{files / 'wiki.bin'}:0.25"])
    mixed = data.split(min_tokens=17)
    run(build(vocab_size=256), mixed, validation=mixed[1], folder=tmp_path / "run")
    for name, part in (("web.bin", "val"), ("wiki.bin", "val"), ("other.bin", "all")):
        assert part_to_measure(TokenFile(files / name), 16, run=tmp_path / "run")[0] == part
