"""Rows of instructions: what is learned, what is cut, and that padding does not matter."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llm_scratch.conversations.formats import find_format
from llm_scratch.finetuning.instruction_rows import (
    check_left_out,
    instruction_rows,
    learned_share,
    show_mask,
)
from llm_scratch.finetuning.prompts import BOOK, BOOK_PHI, prompt_text
from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.simple import SimpleTokenizerV1
from llm_scratch.training.steps import Engine, evaluate

BIRD = {"instruction": "Name a bird.", "input": "", "output": "A gull."}
SORT = {"instruction": "Sort the words.", "input": "tide, bell", "output": "bell, tide"}
ENTRIES = [
    BIRD,
    SORT,
    {"instruction": "Say it.", "output": "It is written: ### Response: and <|endoftext|>."},
    {"instruction": "Count.", "input": "bell, rope " * 5, "output": "one and two " * 12 + "bells"},
]
VOCAB, END = 300, 256


@pytest.fixture(scope="module")
def small():
    """A tokenizer with few tokens, for models whose heads cost nothing."""
    text = " ".join(prompt_text(entry) + entry["output"] for entry in ENTRIES)
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


def prompt_ids(tokenizer, entry, format=BOOK):
    return encode(tokenizer, prompt_text(entry, format), "text")


def answer_ids(tokenizer, entry):
    return encode(tokenizer, entry["output"], "text")


@pytest.mark.parametrize("format", [BOOK, BOOK_PHI])
def test_row_learns_the_answer_and_one_end_alone(small, end, format):
    rows = instruction_rows(ENTRIES, small, format=format)
    assert len(rows) == len(ENTRIES)
    for number, entry in enumerate(ENTRIES):
        prompt, answer = prompt_ids(small, entry, format), answer_ids(small, entry)
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
    """Ids that run across the border do not make anybody look for it."""
    answer = {"instruction": "a", "output": "\n\n\n\nb"}
    tokenizer = BytePairTokenizer.train((prompt_text(answer) + answer["output"]) * 20, 280)
    prompt = prompt_ids(tokenizer, answer)
    joined = encode(tokenizer, prompt_text(answer) + answer["output"], "text")
    assert joined[: len(prompt)] != prompt
    _, targets = instruction_rows([answer], tokenizer)[0]
    learned = [i for i in targets.tolist() if i != IGNORE_INDEX]
    assert tokenizer.decode(learned) == "\n\n\n\nb<|endoftext|>"


def test_end_of_a_format_is_the_last_target_and_what_comes_after_is_left_out():
    text = " ".join(prompt_text(entry) for entry in ENTRIES)
    tokenizer = BytePairTokenizer.train(text, 300, ("<|im_start|>", "<|im_end|>"))
    inputs, targets = instruction_rows([BIRD], tokenizer, format=find_format("chatml"))[0]
    end = tokenizer.special_tokens["<|im_end|>"]
    assert targets[-1] == end
    assert tokenizer.decode(inputs.tolist()).endswith("<|im_start|>assistant\nA gull.")


def test_row_that_is_too_long_loses_the_beginning_of_its_prompt(small):
    whole = instruction_rows(ENTRIES, small)
    most = int(whole.lengths.max()) - 5
    with pytest.warns(UserWarning, match=f"^1 of 4 rows are longer than {most} tokens and lost"):
        rows = instruction_rows(ENTRIES, small, max_length=most)
    for number, cut in enumerate((0, 0, 0, 5)):
        for a, b in zip(whole[number], rows[number], strict=True):
            assert a[cut:].tolist() == b.tolist()


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


@pytest.mark.filterwarnings("ignore:. of 4 rows are longer")
def test_row_whose_answer_is_too_long_is_left_out_and_counted(small):
    most = len(answer_ids(small, ENTRIES[3]))
    whole = instruction_rows(ENTRIES, small)
    with pytest.warns(UserWarning, match=f"1 of 4 rows have an answer above {most} tokens with"):
        rows = instruction_rows(ENTRIES, small, max_length=most)
    assert len(rows) == 3
    for number in range(3):
        kept = whole[number][0][-most:]
        assert torch.equal(rows[number][0], kept)


@pytest.mark.parametrize(("given", "left"), [(10, 9), (0, 0), (100, 90), (3, 3)])
def test_a_tenth_may_be_left_out(given, left):
    check_left_out(given, left)


@pytest.mark.parametrize(("given", "left"), [(9, 8), (100, 89)])
def test_more_than_a_tenth_may_not_be_left_out(given, left):
    with pytest.raises(ValueError, match=f"^{given - left} of {given} rows would be left out"):
        check_left_out(given, left)


def test_rows_without_output_are_left_out_and_counted(small):
    empty = {"instruction": "Say nothing.", "input": "", "output": ""}
    entries = [empty, BIRD, {**empty, "output": " \n"}, SORT]
    with pytest.warns(UserWarning, match="2 of 4 rows have no output and are left out"):
        rows = instruction_rows(entries, small)
    assert len(rows) == 2
    assert rows[1][0].tolist() == prompt_ids(small, SORT) + answer_ids(small, SORT)


@pytest.mark.filterwarnings("ignore:1 of 1 rows")
def test_no_row_left_is_an_error(small):
    for entries in ([], [{**BIRD, "output": ""}]):
        with pytest.raises(ValueError, match="no rows"):
            instruction_rows(entries, small)


def test_rows_name_the_entry_that_is_none(small):
    with pytest.raises(ValueError, match=r"data\[1\] has no output"):
        instruction_rows([BIRD, {"instruction": "a"}], small)


def test_rows_take_the_items_of_a_dataset(small):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([BIRD, SORT])
    rows, same = instruction_rows(data, small), instruction_rows([BIRD, SORT], small)
    for number in range(2):
        assert all(map(torch.equal, rows[number], same[number]))


def test_tokenizer_without_an_end_needs_one():
    words = SimpleTokenizerV1({"a": 0, "b": 1})
    with pytest.raises(ValueError, match="no end-of-text token, which ends an answer"):
        instruction_rows([BIRD], words)


def test_learned_share_counts_targets(small):
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
    prompt, answer = prompt_text(BIRD), "A gull.<|endoftext|>"
    assert show_mask(small, inputs, targets, color=False) == f"{prompt}[[{answer}]]"
    colored = show_mask(small, inputs, targets)
    assert colored == f"\x1b[90m{prompt}\x1b[0m\x1b[32m{answer}\x1b[0m"


def test_show_mask_shows_every_part():
    letters = BytePairTokenizer.train("abc" * 9, 257)
    ids = encode(letters, "abcdef", "text")
    inputs = torch.tensor(ids[:-1])
    targets = torch.tensor(ids[1:])
    targets[2] = IGNORE_INDEX
    assert show_mask(letters, inputs, targets, color=False) == "a[[bc]]d[[ef]]"


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


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_loss_of_an_epoch_does_not_depend_on_the_batch(small, size):
    engine, rows = engine_of(build()), instruction_rows(ENTRIES * 3, small)
    one = evaluate(engine, rows.rows_in_order(256, 1))
    assert evaluate(engine, rows.rows_in_order(256, size)) == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("format", [BOOK, BOOK_PHI])
def test_targets_of_a_small_batch_are_these(format):
    """A prompt of n ids hides n - 1 targets; what follows is learned to the last."""
    letters = BytePairTokenizer.train("abc" * 9, 257)
    entries = [{"instruction": "a", "output": "bc"}, {"instruction": "ab", "output": "c"}]
    rows = instruction_rows(entries, letters, format=format)
    size = len(prompt_ids(letters, entries[0], format))
    b, c, stop = (encode(letters, text)[0] for text in ("b", "c", "<|endoftext|>"))
    _, targets = rows.padded([0, 1])
    none = [IGNORE_INDEX]
    assert targets.tolist() == [none * (size - 1) + [b, c, stop], none * size + [c, stop]]
