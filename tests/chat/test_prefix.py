"""What was read before is not read again."""

import pytest
import torch

from llm_scratch.chat.prefix import ROUND, ReadPrefix
from llm_scratch.generation.decoding import generate
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig

CFG = LlamaConfig(
    vocab_size=97, context_length=600, emb_dim=32, n_layers=2, n_heads=4, n_kv_groups=2,
    hidden_dim=48,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaModel(CFG).eval()


def write(model, read, prompt, new):
    """The ids written after a prompt with what was read before, and how much of it that was."""
    kept = read.prepare(prompt, new)
    ids = generate(model, torch.tensor([prompt]), new, cache=read.cache)[0].tolist()
    read.note(ids)
    return ids, kept


def test_a_second_turn_reads_only_what_is_new_and_writes_the_same(model):
    read = ReadPrefix(model)
    first, kept = write(model, read, [5, 6, 7], 8)
    assert kept == 0
    longer = [*first, 9, 10]
    second, kept = write(model, read, longer, 8)
    assert kept == len(first) - 1  # the last one was chosen and never read
    assert second == generate(model, torch.tensor([longer]), 8)[0].tolist()


def test_a_changed_past_is_read_again_from_where_it_differs(model):
    read = ReadPrefix(model)
    ids, _ = write(model, read, [5, 6, 7, 8, 9, 10], 4)
    changed = [*ids[:4], 50, *ids[5:]]
    written, kept = write(model, read, changed, 4)
    assert kept == 4
    assert written == generate(model, torch.tensor([changed]), 4)[0].tolist()


def test_the_same_prompt_again_leaves_its_last_token_to_be_read(model):
    read = ReadPrefix(model)
    once, _ = write(model, read, [5, 6, 7], 4)
    again, kept = write(model, read, [5, 6, 7], 4)
    assert (kept, again) == (2, once)


def test_room_grows_with_the_conversation_up_to_the_context(model):
    read = ReadPrefix(model)
    ids, _ = write(model, read, [5] * 200, 20)
    assert read.cache.capacity == ROUND
    ids, kept = write(model, read, [*ids, *[6] * 200], 20)
    assert (read.cache.capacity, kept) == (2 * ROUND, 219)
    _, kept = write(model, read, [*ids, *[7] * 120], 30)
    assert (read.cache.capacity, kept) == (CFG.context_length, 439)


def test_a_forgotten_prefix_is_read_again(model):
    read = ReadPrefix(model)
    ids, _ = write(model, read, [5, 6, 7], 4)
    read.forget()
    assert read.cache is None
    assert read.shared_with(ids) == 0


def test_nothing_shared_keeps_nothing(model):
    read = ReadPrefix(model)
    write(model, read, [5, 6, 7], 4)
    assert read.prepare([8, 9], 4) == 0
    assert read.cache.length == 0


def test_copy_of_the_first_tokens_leaves_the_rest_alone(model):
    read = ReadPrefix(model)
    ids, _ = write(model, read, [5, 6, 7, 8, 9], 6)
    copied = read.first(4)
    assert (copied.length, copied.cache.length, copied.cache.capacity) == (4, 4, ROUND)
    other, kept = write(model, copied, [*ids[:4], 60, 61], 6)
    assert kept == 4
    assert other == generate(model, torch.tensor([[*ids[:4], 60, 61]]), 6)[0].tolist()
    again, kept = write(model, read, [*ids, 9], 6)
    assert kept == len(ids) - 1
    assert again == generate(model, torch.tensor([[*ids, 9]]), 6)[0].tolist()


def test_cache_with_room_takes_no_more_than_there_is(model):
    cache = model.new_cache(1, 9)
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7]]), cache=cache)
    assert [cache.with_room(5, n).length for n in (0, 2, 3)] == [0, 2, 3]
    with pytest.raises(ValueError, match="cannot take 4 of 3 tokens"):
        cache.with_room(9, 4)
    with pytest.raises(ValueError, match="3 tokens do not fit a cache made for 2"):
        cache.with_room(2)
