"""Prompts in, texts out: batches of any lengths, what ends a text, and what is counted."""

from __future__ import annotations

import math

import pytest
import torch

from llm_scratch.generation import texts as generation_text
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.decoding import generate
from llm_scratch.generation.texts import (
    Generation,
    TextBatch,
    generate_text,
    pad_left,
)
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.simple import SimpleTokenizerV2, build_vocab, split_words

PROMPTS = ["One", "The clock stood still", "\u00e9 \U0001f525", "a " * 20]
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def bpe():
    return BytePairTokenizer.train("The clock stood still, and so did the tide. " * 3, 280)


@pytest.fixture
def model(bpe):
    """A model whose vocabulary is padded beyond the tokenizer's."""
    return make_model(bpe.n_vocab + 23)


def make_model(vocab_size, context_length=24):
    torch.manual_seed(5)
    config = {
        "vocab_size": vocab_size,
        "context_length": context_length,
        "emb_dim": 24,
        "n_heads": 3,
        "n_layers": 2,
        "drop_rate": 0.0,
        "qkv_bias": True,
    }
    return GPTModel(config).eval()


class Planned:
    """Writes a planned text for each prompt, whatever the prompt was."""

    def __init__(self, tokenizer, *texts):
        self.rows = [tokenizer.encode(text, allowed_special="all") for text in texts]
        self.n_vocab = tokenizer.n_vocab
        self.calls = 0

    def __call__(self, ids):
        chosen = [row[self.calls % len(row)] for row in self.rows]
        self.calls += 1
        logits = torch.nn.functional.one_hot(torch.tensor(chosen), self.n_vocab).float()
        return logits[:, None].expand(len(ids), ids.shape[1], self.n_vocab)


def written(tokenizer, text, prompt="x", new=100, **options):
    """What is made of a planned text."""
    return generate_text(
        Planned(tokenizer, text), tokenizer, prompt, new, context_size=9, **options
    )


def test_generate_text_of_a_batch_equals_single_runs(model, bpe):
    together = generate_text(model, bpe, PROMPTS, 30)
    for prompt, result in zip(PROMPTS, together, strict=True):
        alone = generate_text(model, bpe, prompt, 30)
        assert (result.text, result.ids) == (alone.text, alone.ids)
        assert result.prompt == prompt


def test_generate_text_equals_generate(model, bpe):
    ids = bpe.encode(PROMPTS[1])
    expected = generate(model, torch.tensor([ids]), 30, n_vocab=bpe.n_vocab)[0, len(ids) :]
    result = generate_text(model, bpe, PROMPTS[1], 30, eos_id=None)
    assert result.ids == expected.tolist()
    assert result.text == bpe.decode(result.ids)


def test_generate_text_sampled_rows_have_their_own_randomness(model, bpe):
    def generator(row):
        return torch.Generator().manual_seed(row)

    settings = SamplingSettings(temperature=3.0, top_p=0.95)
    generators = [generator(row) for row in range(4)]
    together = generate_text(model, bpe, PROMPTS, 20, settings, generator=generators)
    for row, result in enumerate(together):
        alone = generate_text(model, bpe, PROMPTS[row], 20, settings, generator=[generator(row)])
        assert result.ids == alone.ids


def test_generate_text_never_chooses_ids_beyond_the_tokenizer(model, bpe):
    generator = torch.Generator().manual_seed(0)
    results = generate_text(
        model, bpe, PROMPTS, 100, SamplingSettings(100.0), generator=generator, eos_id=None
    )
    assert max(max(result.ids) for result in results) < bpe.n_vocab


def test_generate_text_ends_at_the_end_of_text_and_hides_it(bpe):
    result = written(bpe, f"so it ends{END}and not here")
    assert (result.text, result.finish_reason) == ("so it ends", "eos")
    assert result.ids[-1] == bpe.eot_token
    assert result.new_tokens == len(result.ids)


def test_generate_text_can_go_on_past_the_end_of_text(bpe):
    result = written(bpe, f"a{END}b", new=3, eos_id=None)
    assert (result.text, result.finish_reason) == (f"a{END}b", "length")


@pytest.mark.parametrize("stop", [".\n", ["zzz", ".\n"], [".\n", "\nno"]])
def test_generate_text_cuts_at_a_stop_string(bpe, stop):
    result = written(bpe, "the tide.\nno more", stop=stop)
    assert (result.text, result.finish_reason) == ("the tide", "stop")
    assert bpe.decode(result.ids).startswith("the tide.\n")


def test_generate_text_stops_at_a_stop_id_and_hides_it(bpe):
    stop_id = bpe.encode("!")[0]
    result = written(bpe, "so!no", stop_ids=[stop_id])
    assert (result.text, result.finish_reason, result.ids[-1]) == ("so", "stop", stop_id)


def test_generate_text_shows_what_only_began_like_a_stop_string(bpe):
    result = written(bpe, "x STO", new=5, stop="STOP")
    assert (result.text, result.finish_reason) == ("x STO", "length")


def test_generate_text_rows_end_each_by_its_own_reason(model, bpe):
    texts = [f"end{END}" + "x" * 9, "go stop here", "a" * 20]
    plan = Planned(bpe, *texts)
    model.__class__ = type("Told", (GPTModel,), {"forward": lambda self, ids, **_: plan(ids)})
    results = generate_text(model, bpe, ["1", "22", "333"], 9, stop=" stop")
    assert [(r.text, r.finish_reason) for r in results] == [
        ("end", "eos"),
        ("go", "stop"),
        ("a" * 9, "length"),
    ]


def test_generate_text_stops_reading_when_every_row_has_its_stop_string(bpe):
    plan = Planned(bpe, "one.two three")
    generate_text(plan, bpe, "x", 100, context_size=9, stop=".")
    assert plan.calls == len(bpe.encode("one.")) < len(bpe.encode("one.two three"))


def test_generate_text_counts_tokens_and_rates(model, bpe):
    results = generate_text(model, bpe, ["One two", "x"], 7, eos_id=None)
    assert [r.prompt_tokens for r in results] == [len(bpe.encode("One two")), 1]
    assert [r.new_tokens for r in results] == [7, 7]
    assert all(r.prefill_tokens_per_second > 0 for r in results)
    assert all(r.decode_tokens_per_second > 0 for r in results)


def test_generate_text_rates_are_tokens_by_seconds(model, bpe, monkeypatch):
    ticks = iter(range(100))  # each look at the clock is a second after the last
    monkeypatch.setattr(generation_text.time, "perf_counter", lambda: float(next(ticks)))
    first, second = generate_text(model, bpe, ["abc", "x"], 5, eos_id=None)
    assert first.prefill_tokens_per_second == second.prefill_tokens_per_second == 4.0
    assert first.decode_tokens_per_second == 8 / 5  # two rows of four, and the step that ends it


def test_generate_text_of_one_token_has_no_decode_rate(model, bpe):
    assert generate_text(model, bpe, "One", 1).decode_tokens_per_second is None


def test_generate_text_nothing_is_an_empty_text(model, bpe):
    result = generate_text(model, bpe, "One", 0)
    assert (result.text, result.ids, result.finish_reason) == ("", [], "length")
    assert result.prompt_tokens == len(bpe.encode("One"))


def test_generate_text_of_no_prompts_is_an_empty_list(model, bpe):
    assert generate_text(model, bpe, [], 5) == []


def test_generate_text_refuses_negative_length_and_wrong_prompts(model, bpe):
    with pytest.raises(ValueError, match="max_new_tokens=-1 must be 0 or more"):
        generate_text(model, bpe, "One", -1)
    with pytest.raises(TypeError, match="a prompt is a text, or a list of ids, got int"):
        generate_text(model, bpe, ["One", 2], 3)
    with pytest.raises(ValueError, match="stop strings must not be empty"):
        generate_text(model, bpe, "One", 3, stop=["a", ""])
    with pytest.raises(ValueError, match="1 generators for 2 rows"):
        generate_text(model, bpe, ["a", "b"], 3, generator=[torch.Generator()])
    with pytest.raises(TypeError, match="top_q"):
        generate_text(model, bpe, "One", 3, top_q=1)


def test_generate_text_of_an_empty_prompt_begins_with_the_end_of_text(model, bpe):
    result = generate_text(model, bpe, "", 6, eos_id=None)
    expected = generate(model, torch.tensor([[bpe.eot_token]]), 6, n_vocab=bpe.n_vocab)
    assert result.ids == expected[0, 1:].tolist()


def test_generate_text_refuses_an_empty_prompt_without_an_end_of_text():
    tokenizer = BytePairTokenizer([], special_tokens=())
    with pytest.raises(ValueError, match="an empty prompt, and this tokenizer has no"):
        generate_text(make_model(256), tokenizer, "", 3)


def test_generate_text_reads_a_special_token_of_the_user_as_text(model, bpe):
    counts = [
        generate_text(model, bpe, f"a{END}", 1, special=special).prompt_tokens
        for special in ("text", "allow")
    ]
    assert counts == [len(bpe.encode_ordinary(f"a{END}")), 2]


def test_generate_text_goes_past_the_window_like_generate(model, bpe):
    prompt = "The tide. " * 12
    result = generate_text(model, bpe, [prompt, "One"], 40, eos_id=None)
    ids = torch.tensor([bpe.encode(prompt)])
    assert ids.shape[1] > 24
    expected = generate(model, ids, 40, n_vocab=bpe.n_vocab, use_cache=False)
    assert result[0].ids == expected[0, ids.shape[1] :].tolist()
    assert result[1].ids == generate_text(model, bpe, "One", 40, eos_id=None).ids


def test_generate_text_of_any_callable_runs_prompts_one_by_one(model, bpe):
    def plain(ids):
        return model(ids)

    found = generate_text(plain, bpe, PROMPTS, 20, context_size=24)
    assert [r.ids for r in found] == [r.ids for r in generate_text(model, bpe, PROMPTS, 20)]


def test_generate_text_with_a_tokenizer_of_words_keeps_the_blanks():
    text = "the clock stood still , and the tide came in"
    words = SimpleTokenizerV2(build_vocab(split_words(text), special_tokens=(END, "<|unk|>")))
    model = make_model(len(words.str_to_int))
    result = generate_text(model, words, "the clock", 12, eos_id=None)
    whole = words.decode([*words.encode("the clock"), *result.ids])
    assert result.prompt + result.text == whole


def test_generate_text_leaves_mode_and_random_state(model, bpe):
    model.train()
    before = torch.get_rng_state()
    generate_text(model, bpe, PROMPTS, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in model.modules())


def test_generate_text_names_the_step_of_a_nan(model, bpe):
    with torch.no_grad():
        model.pos_emb.weight[4] = math.nan
    with pytest.raises(ValueError, match="logits of step 5 are NaN"):
        generate_text(model, bpe, "x", 9, eos_id=None)


def test_generation_is_a_plain_record(model, bpe):
    result = generate_text(model, bpe, "One", 2)
    assert isinstance(result, Generation)
    with pytest.raises(AttributeError):
        result.text = "another"


def test_text_batch_tells_what_there_is_before_its_end(model, bpe):
    batch = TextBatch(model, bpe, ["One", "x"], 9, eos_id=None)
    pieces = [step for _, step in zip(range(4), batch, strict=False)]
    results = batch.results()
    assert [r.finish_reason for r in results] == ["interrupted"] * 2
    assert [r.new_tokens for r in results] == [4, 4]
    assert [r.text for r in results] == ["".join(row) for row in zip(*pieces, strict=True)]


def test_pad_left_marks_the_padding():
    ids, mask = pad_left([[1], [2, 3, 4]], pad_id=9)
    assert ids.tolist() == [[9, 9, 1], [2, 3, 4]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]
