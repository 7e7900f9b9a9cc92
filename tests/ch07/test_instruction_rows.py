"""Rows of instructions: what is learned, what is cut, and that neither padding nor packs matter."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llm_scratch.finetuning.instruction_rows import (
    PackedRows,
    instruction_rows,
    learned_share,
    pack,
    show_mask,
)
from llm_scratch.finetuning.prompts import ALPACA, PHI3, STYLES
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.bpe import BytePairTokenizer
from llm_scratch.text.simple import SimpleTokenizerV1
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.text.tokens import encode
from llm_scratch.training.steps import Engine, compute_gradients, evaluate

BIRD = {"instruction": "Name a bird.", "input": "", "output": "A gull."}
SORT = {"instruction": "Sort the words.", "input": "tide, bell", "output": "bell, tide"}
ENTRIES = [
    BIRD,
    SORT,
    {"instruction": "Say it.", "output": "It is written: ### Response: and <|endoftext|>."},
    {"instruction": "Count.", "input": "bell bell bell", "output": "three " * 12 + "bells"},
]
VOCAB, END = 300, 256


@pytest.fixture(scope="module")
def small():
    """A tokenizer with few tokens, for models whose heads cost nothing."""
    text = " ".join(ALPACA.prompt(entry) + entry["output"] for entry in ENTRIES)
    return BytePairTokenizer.train(text, VOCAB)


@pytest.fixture(scope="module")
def end(small):
    return encode(small, "<|endoftext|>", "allow")[0]


def build():
    sizes = {"vocab_size": VOCAB, "context_length": 256, "emb_dim": 16, "n_heads": 2}
    torch.manual_seed(1)
    return GPTModel({**sizes, "n_layers": 2, "drop_rate": 0.0, "tie_weights": True}).eval()


def engine_of(model):
    return Engine(model, [torch.optim.SGD(model.parameters(), 0.1)], torch.device("cpu"))


def prompt_ids(tokenizer, entry, style=ALPACA):
    return encode(tokenizer, style.prompt(entry), "text")


def answer_ids(tokenizer, entry):
    return encode(tokenizer, entry["output"], "text")


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_row_learns_the_answer_and_one_end_alone(small, end, style):
    rows = instruction_rows(ENTRIES, small, style=style)
    assert len(rows) == len(ENTRIES)
    for number, entry in enumerate(ENTRIES):
        prompt, answer = prompt_ids(small, entry, style), answer_ids(small, entry)
        inputs, targets = rows[number]
        assert inputs.tolist() == prompt + answer
        assert targets.tolist() == [IGNORE_INDEX] * (len(prompt) - 1) + answer + [end]
        assert targets.tolist().count(end) == 1
        assert end not in inputs.tolist()


def test_row_learns_all_but_its_first_token_without_answer_only(small, end):
    inputs, targets = instruction_rows([SORT], small, answer_only=False)[0]
    whole = [*prompt_ids(small, SORT), *answer_ids(small, SORT), end]
    assert inputs.tolist() == whole[:-1]
    assert targets.tolist() == whole[1:]


def test_border_is_where_the_prompt_ends_though_the_text_as_a_whole_has_other_ids():
    """Ids that run across the border are no reason to look for it."""
    answer = {"instruction": "a", "output": "\n\n\n\nb"}
    tokenizer = BytePairTokenizer.train((ALPACA.prompt(answer) + answer["output"]) * 20, 280)
    prompt = prompt_ids(tokenizer, answer)
    joined = encode(tokenizer, ALPACA.prompt(answer) + answer["output"], "text")
    assert joined[: len(prompt)] != prompt
    _, targets = instruction_rows([answer], tokenizer)[0]
    learned = [i for i in targets.tolist() if i != IGNORE_INDEX]
    assert tokenizer.decode(learned) == "\n\n\n\nb<|endoftext|>"


def test_end_mark_of_ones_own_is_the_last_target(small):
    inputs, targets = instruction_rows([BIRD], small, end_id=7)[0]
    assert targets[-1] == 7
    assert inputs.tolist() == prompt_ids(small, BIRD) + answer_ids(small, BIRD)


def test_row_that_is_too_long_loses_the_beginning_of_its_prompt(small, end):
    whole = instruction_rows(ENTRIES, small)
    most = int(whole.lengths.max()) - 5
    with pytest.warns(UserWarning, match=f"1 of 4 rows are longer than {most} tokens and lost"):
        rows = instruction_rows(ENTRIES, small, max_length=most)
    for number in range(len(ENTRIES)):
        over = max(0, len(whole[number][0]) - most)
        assert over == (5 if len(whole[number][0]) == most + 5 else 0)
        assert all(
            a[over:].tolist() == b.tolist()
            for a, b in zip(whole[number], rows[number], strict=True)
        )


@pytest.mark.parametrize("answer_only", [True, False])
@pytest.mark.parametrize("room", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:1 of 1 rows")
def test_row_keeps_its_whole_answer_however_little_fits(small, end, room, answer_only):
    answer = [*answer_ids(small, BIRD), end]
    most = len(answer) + room
    inputs, targets = instruction_rows([BIRD], small, max_length=most, answer_only=answer_only)[0]
    prompt = prompt_ids(small, BIRD)[-room - 1 :]
    assert inputs.tolist() == prompt + answer[:-1]
    hidden = [IGNORE_INDEX] * room if answer_only else prompt[1:]
    assert targets.tolist() == hidden + answer


def test_rows_that_fit_exactly_are_not_cut(small):
    most = int(instruction_rows(ENTRIES, small).lengths.max())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        instruction_rows(ENTRIES, small, max_length=most)


def test_answer_that_is_too_long_names_its_row(small):
    most = len(answer_ids(small, ENTRIES[3]))
    with pytest.raises(
        ValueError, match=f"row 3: the answer has {most + 1} tokens with its end .* {most} fit"
    ):
        instruction_rows(ENTRIES, small, max_length=most)


def test_rows_without_output_are_left_out_and_counted(small):
    empty = {"instruction": "Say nothing.", "input": "", "output": ""}
    with pytest.warns(UserWarning, match="2 of 4 rows have no output and are left out"):
        rows = instruction_rows([empty, BIRD, empty, SORT], small)
    assert len(rows) == 2
    assert rows[1][0].tolist() == prompt_ids(small, SORT) + answer_ids(small, SORT)


@pytest.mark.filterwarnings("ignore:1 of 1 rows")
def test_no_row_left_is_an_error(small):
    for entries in ([], [{**BIRD, "output": ""}]):
        with pytest.raises(ValueError, match="no rows"):
            instruction_rows(entries, small)


def test_rows_name_the_entry_that_is_none(small):
    with pytest.raises(ValueError, match="row 1 has no output"):
        instruction_rows([BIRD, {"instruction": "a"}], small)


def test_rows_take_the_items_of_a_dataset(small):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([BIRD, SORT])
    rows, same = instruction_rows(data, small), instruction_rows([BIRD, SORT], small)
    for number in range(2):
        assert all(map(torch.equal, rows[number], same[number]))


def test_tokenizer_without_an_end_needs_one():
    words = SimpleTokenizerV1({"a": 0, "b": 1})
    with pytest.raises(ValueError, match=r"no end of text; give end_id="):
        instruction_rows([BIRD], words)


def test_learned_share_counts_targets(small, end):
    rows = TokenRows(
        [([1] * 7, [IGNORE_INDEX] * 4 + [2, 3, 4]), ([1], [2])], pad_id=0, vocab_size=9
    )
    assert learned_share(rows) == 4 / 8
    assert learned_share(instruction_rows(ENTRIES, small, answer_only=False)) == 1.0
    alone = instruction_rows([BIRD], small)
    answer = len(answer_ids(small, BIRD)) + 1
    assert learned_share(alone) == answer / (len(prompt_ids(small, BIRD)) + answer - 1)


@pytest.mark.parametrize("padding", [0, 3])
def test_show_mask_sets_off_what_is_learned(small, end, padding):
    rows = instruction_rows([BIRD, SORT], small)
    inputs, targets = rows[0]
    inputs = torch.cat([inputs, torch.full((padding,), end)])
    targets = torch.cat([targets, torch.full((padding,), IGNORE_INDEX)])
    prompt, answer = ALPACA.prompt(BIRD), "A gull.<|endoftext|>"
    assert show_mask(small, inputs, targets, color=False) == f"{prompt}[[{answer}]]"
    colored = show_mask(small, inputs, targets)
    assert colored == f"\x1b[90m{prompt}\x1b[0m\x1b[32m{answer}\x1b[0m"


def test_show_mask_shows_every_part(small):
    ids = encode(small, "abcdef", "text")
    inputs = torch.tensor(ids[:-1])
    targets = torch.tensor(ids[1:])
    targets[2] = IGNORE_INDEX
    assert show_mask(small, inputs, targets, color=False) == "a[[bc]]d[[ef]]"


def some_rows(count=23, seed=0, longest=40):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = rng.integers(0, VOCAB, rng.integers(2, longest + 1)).tolist()
        half = len(ids) // 2
        rows.append((ids[:-1], [IGNORE_INDEX] * (half - 1) + ids[half:]))
    return rows


def token_rows(rows=None, **options):
    return TokenRows(rows or some_rows(), **{"pad_id": END, "vocab_size": VOCAB, **options})


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("pad_id", [0, END, VOCAB - 1])
@torch.no_grad()
def test_logits_of_a_row_do_not_depend_on_its_neighbours(size, pad_id):
    model, rows = build(), some_rows()
    inputs, _ = token_rows(rows, pad_id=pad_id).padded(range(size))
    logits = model(inputs)
    for place, (ids, _) in enumerate(rows[:size]):
        alone = model(torch.tensor([ids]))[0]
        assert_close(logits[place, : len(ids)], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_loss_of_an_epoch_does_not_depend_on_the_batch(small, size, packing):
    model = engine_of(build())
    rows = instruction_rows(ENTRIES * 3, small)
    one = evaluate(model, rows.rows_in_order(256, 1))
    data = PackedRows(rows, 256) if packing else rows
    assert evaluate(model, data.rows_in_order(256, size)) == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("length", [39, 64, 256])
def test_packs_have_loss_and_gradients_of_the_rows_alone(length):
    rows = token_rows()
    packed = PackedRows(rows, length)
    alone, together = build(), build()
    expected = compute_gradients(engine_of(alone), [rows.padded([i]) for i in range(len(rows))])
    found = compute_gradients(engine_of(together), [packed.packed(range(len(packed)))])
    assert found == pytest.approx(expected, abs=1e-6)
    for a, b in zip(alone.parameters(), together.parameters(), strict=True):
        assert_close(b.grad, a.grad, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_row_in_a_pack_has_the_logits_it_has_alone():
    model, rows = build(), token_rows()
    packed = PackedRows(rows, 128)
    inputs, _, positions, seen = packed.packed(range(len(packed)))
    logits = model(inputs, positions=positions, attention_mask=seen)
    assert logits.isfinite().all()
    for place, numbers in enumerate(packed.packs):
        start = 0
        for number in numbers:
            ids = rows[number][0]
            alone = model(ids[None])[0]
            assert_close(logits[place, start : start + len(ids)], alone, atol=1e-5, rtol=0)
            start += len(ids)


def numbers_seen(packed, batch):
    """The packs of a batch, told by their contents."""
    whole = {}
    for number in range(len(packed)):
        inputs, targets, _, _ = packed.packed([number])
        whole[tuple(inputs[0].tolist()), tuple(targets[0].tolist())] = number
    found = []
    for inputs, targets, _, seen in zip(*batch, strict=True):
        tokens = int((seen[:, 0].cumprod(0)).sum())  # unused rows see the first token of none
        del tokens
        matches = [
            number
            for (ids, wanted), number in whole.items()
            if inputs[: len(ids)].tolist() == list(ids)
            and targets[: len(ids)].tolist() == list(wanted)
            and bool((targets[len(ids) :] == IGNORE_INDEX).all())
        ]
        found.append(max(matches, key=lambda number: sum(map(len, packed.packs[number : number]))))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_packs_give_every_row_once_an_epoch(size):
    packed = PackedRows(token_rows(), 64)
    n = len(packed)
    assert sorted(sum(packed.packs, [])) == list(range(23))
    seen = [i for step in range(2 * n) for i in numbers_seen(packed, packed.batch(4, step, size, 64))]
    for epoch in range(2 * size):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert seen[:n] != seen[n : 2 * n]
    in_order = [i for b in packed.rows_in_order(64, size) for i in numbers_seen(packed, b)]
    assert in_order == list(range(n))


def test_packs_of_a_step_in_pieces_are_the_whole_step():
    packed = PackedRows(token_rows(), 64)
    whole = numbers_seen(packed, packed.batch(1, 4, 6, 64))
    pieces = [packed.batch(1, 4, 2, 64, first_row=i, step_rows=6) for i in (0, 2, 4)]
    assert sum((numbers_seen(packed, piece) for piece in pieces), []) == whole


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(20, 50))
def test_pack_holds_every_row_and_never_too_much(lengths, most):
    packs = pack(lengths, most)
    assert sorted(sum(packs, [])) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in numbers) for numbers in packs]
    assert all(0 < size <= most for size in sizes)
    # No two packs would have fitted into one.
    assert all(a + b > most for k, a in enumerate(sizes) for b in sizes[:k])


def test_packs_pad_next_to_nothing():
    rows = token_rows(some_rows(400, longest=60))
    packed = PackedRows(rows, 256)
    tokens = int(rows.lengths.sum())
    padded = sum(inputs.numel() for inputs, *_ in packed.rows_in_order(256, 4))
    assert padded < 1.02 * tokens
    assert repr(packed) == f"PackedRows(400 rows in {len(packed)} packs)"


def test_packs_refuse_a_row_or_a_pack_that_is_too_long():
    rows = token_rows([([1] * 4, [2] * 4), ([1] * 9, [2] * 9)])
    with pytest.raises(ValueError, match="row 1 has 9 tokens"):
        PackedRows(rows, 8)
    packed = PackedRows(rows, 13)
    assert packed.num_rows(13) == 1
    with pytest.raises(ValueError, match="a pack has 13 tokens, at most 12 fit; pack them shorter"):
        packed.batch(0, 0, 1, 12)
    with pytest.raises(ValueError, match="rows=0 must be 1 or more"):
        packed.rows_in_order(13, 0)


@pytest.mark.parametrize("style", [ALPACA, PHI3])
def test_targets_of_a_small_batch_are_these(style, end):
    """A prompt of n ids hides n - 1 targets; what follows is learned to the last."""
    letters = BytePairTokenizer.train("abc" * 9, 257)
    entries = [{"instruction": "a", "output": "bc"}, {"instruction": "ab", "output": "c"}]
    rows = instruction_rows(entries, letters, style=style)
    size = len(prompt_ids(letters, entries[0], style))
    b, c, stop = (encode(letters, text)[0] for text in ("b", "c", "<|endoftext|>"))
    _, targets = rows.padded([0, 1])
    none = [IGNORE_INDEX]
    assert targets.tolist() == [none * (size - 1) + [b, c, stop], none * size + [c, stop]]
