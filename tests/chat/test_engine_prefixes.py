"""What was read for one request serves the next: fewer tokens read, the same ids."""

from __future__ import annotations

import pytest
import torch
from engines import CONTEXT, Asked, alone, byte_level, tiny_gpt, tiny_llama

from llm_scratch.chat.engine import Engine
from llm_scratch.chat.pool import PrefixPool
from llm_scratch.chat.prefix import ReadPrefix
from llm_scratch.chat.requests import Request
from llm_scratch.generation.choosing import SamplingSettings


@pytest.fixture(scope="module", params=[tiny_gpt, tiny_llama])
def model(request):
    return request.param()


def tokens_read(model):
    """A list that grows by the number of tokens of each prompt's chunk."""
    read = []
    handle = model.tok_emb.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    return read, handle


def test_next_turn_reads_only_what_is_new(model):
    first = tuple(range(40, 50))
    with Engine(model, byte_level()) as engine:
        answer = Asked(engine, Request(first, 8)).finished().ids
        second = (*first, *answer, 1, 2, 3)
        read, handle = tokens_read(model)
        last = Asked(engine, Request(second, 8)).finished()
        handle.remove()
        assert last.ids == alone(model, second, 8)
        assert last.reused_tokens == 10 + 8 - 1  # the last id was chosen and never read
        assert read[0] == len(second) - 17
        assert engine.counters.reused_tokens == 17
        assert engine.counters.prompt_tokens == 10 + 21


def test_identical_prompts_are_read_once_and_drawn_apart(model):
    ids, settings = tuple(range(40, 70)), SamplingSettings(temperature=1.5)
    with Engine(model, byte_level()) as engine:
        requests = [Request(ids, 9, settings, seed=seed) for seed in range(5)]
        found = [each.finished() for each in [Asked(engine, request) for request in requests]]
    assert [each.ids for each in found] == [alone(model, ids, 9, settings, n) for n in range(5)]
    assert [each.reused_tokens for each in found] == [0, 29, 29, 29, 29]
    assert len({each.ids for each in found}) > 1


def test_another_conversation_with_the_same_beginning_takes_nothing_away(model):
    system, long = tuple(range(10)), tuple(range(60, 100))
    with Engine(model, byte_level()) as engine:
        one, other = (*system, *long), (*system, 200, 201)
        Asked(engine, Request(one, 4)).finished()
        found = Asked(engine, Request(other, 4)).finished()
        assert (found.reused_tokens, found.ids) == (10, alone(model, other, 4))
        again = Asked(engine, Request((*one, 7), 4)).finished()
        assert (again.reused_tokens, again.ids) == (50, alone(model, (*one, 7), 4))


def test_nothing_is_kept_where_none_is_asked_for(model):
    with Engine(model, byte_level(), kept=0) as engine:
        for _ in range(2):
            assert Asked(engine, Request((1, 2, 3, 4), 4)).finished().reused_tokens == 0


def test_memory_of_what_is_kept_is_bounded(model):
    with Engine(model, byte_level(), kept=3, rows=2) as engine:
        for n in range(12):
            Asked(engine, Request((100 + n, *range(20)), 4)).finished()
            assert len(engine._pool) <= 3
        assert len(engine._pool) == 3
        assert engine._pool.num_bytes <= 3 * model.new_cache(1).num_bytes
        # The least recently used ones went.
        reused = [
            Asked(engine, Request((100 + n, *range(20)), 4)).finished().reused_tokens
            for n in (11, 10, 9, 8)
        ]
    assert reused == [20, 20, 20, 0]


def read_prefix(model, ids):
    prefix = ReadPrefix(model)
    prefix.prepare(ids, 1)
    with torch.no_grad():
        model(torch.tensor([ids]), cache=prefix.cache)
    prefix.note(ids)
    return prefix


def test_pool_takes_the_longest_beginning(model):
    pool = PrefixPool(model, 3)
    short, long, strange = (read_prefix(model, ids) for ids in ([1, 2], [1, 2, 3, 4], [5, 6]))
    for each in (short, long, strange):
        pool.give_back(each)
    assert pool.take([1, 2, 3, 4, 9]) is long
    assert pool.take([1, 2, 3, 4, 9]) is short
    assert pool.take([1, 2, 3, 4, 9]).length == 0
    assert len(pool) == 1


def test_pool_copies_where_more_than_half_would_be_lost(model):
    pool = PrefixPool(model, 2)
    kept, other = read_prefix(model, list(range(20))), read_prefix(model, [50, 51])
    pool.give_back(kept)
    pool.give_back(other)
    copied = pool.take([0, 1, 2, 3, 99])
    assert (copied.length, copied.cache.length, len(pool)) == (4, 4, 2)
    copied.prepare([0, 1, 99, 98], 4)
    assert (kept.length, kept.cache.length) == (20, 20)
    pool.give_back(read_prefix(model, [70, 71]))  # `other` is the one used longest ago
    assert pool.take(range(21)) is kept


def test_pool_copies_what_is_in_use(model):
    pool, used = PrefixPool(model, 2), read_prefix(model, [1, 2, 3, 4])
    copied = pool.take([1, 2, 3, 4], [used])
    assert copied is not used
    assert (copied.length, used.length, used.cache.length) == (3, 4, 4)
    keys, own = (each.cache.next_places()[0][2][0, :, :3] for each in (used, copied))
    assert torch.equal(keys, own)


def test_pool_forgets_all_when_it_is_cleared(model):
    pool = PrefixPool(model, 2)
    pool.give_back(read_prefix(model, [1, 2]))
    pool.clear()
    assert (len(pool), pool.num_bytes) == (0, 0)
    pool.give_back(ReadPrefix(model))  # which holds nothing
    assert len(pool) == 0


def test_full_contexts_are_reused_too(model):
    ids = tuple(n % 200 for n in range(CONTEXT - 2))
    with Engine(model, byte_level(), prefill_chunk=9) as engine:
        answers = [Asked(engine, Request(ids, 2)).finished() for _ in range(2)]
    assert [answer.ids for answer in answers] == [alone(model, ids, 2)] * 2
    assert answers[1].reused_tokens == CONTEXT - 3
