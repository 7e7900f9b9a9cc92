"""What leaves, fails or stops: the others go on, and everybody is told."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from engines import PATIENCE, Asked, Gate, alone, byte_level, text_of, tiny_llama

from llm_scratch.chat import engine as engine_module
from llm_scratch.chat.engine import Engine
from llm_scratch.chat.requests import (
    EngineStoppedError,
    Failed,
    Finished,
    QueueFullError,
    Request,
)
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.ragged import RaggedReader


@pytest.fixture
def model():
    return tiny_llama()


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_queue_that_is_full_refuses_at_once_and_goes_on(model):
    gate = Gate(model)
    with Engine(model, byte_level(), rows=1, waiting=2) as engine:
        first = Asked(engine, Request((1, 2), 1))
        gate.reached()  # it left the queue
        others = [Asked(engine, Request((3, 4), 1)) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests are waiting"):
            Asked(engine, Request((5,), 1))
        counters = engine.counters
        assert (counters.running, counters.waiting, counters.refused) == (1, 2, 1)
        gate.let_go(3)
        assert [each.finished().reason for each in (first, *others)] == ["length"] * 3
        assert engine.counters.requests == 3


def test_cancelled_row_is_freed_before_the_next_step(model):
    gate = Gate(model)
    with Engine(model, byte_level(), rows=2) as engine:
        left = Asked(engine, Request((1, 2), 40))
        gate.reached()
        stays = Asked(engine, Request((3, 4), 3))
        waits = Asked(engine, Request((5, 6), 1))
        gate.let_go()  # the first prompt is read
        gate.reached()
        gate.let_go()
        gate.reached()
        left.ticket.cancel()
        gate.let_go(100)
        last = left.finished()
        assert last.reason == "interrupted"
        assert len(last.ids) == 2
        assert stays.finished().ids == alone(tiny_llama(), (3, 4), 3)
        assert waits.finished().ids == alone(tiny_llama(), (5, 6), 1)
        counters = engine.counters
        assert (counters.cancelled, counters.running) == (1, 0)
        assert counters.finished == {"interrupted": 1, "length": 2}


def test_request_that_is_cancelled_while_it_waits_is_never_read(model):
    gate = Gate(model)
    with Engine(model, byte_level(), rows=1) as engine:
        first = Asked(engine, Request((1, 2), 2))
        gate.reached()
        waits = Asked(engine, Request((3, 4), 2))
        waits.ticket.cancel()
        gate.let_go(2)
        assert waits.all() == [Finished("interrupted", (), 2, 0)]
        first.finished()
        assert gate.calls == 2


def test_request_that_is_cancelled_while_it_is_read_ends_there(model):
    gate = Gate(model)
    with Engine(model, byte_level(), prefill_chunk=4) as engine:
        asked = Asked(engine, Request(tuple(range(40)), 5))
        gate.reached()
        asked.ticket.cancel()
        gate.let_go()
        assert asked.all() == [Finished("interrupted", (), 40, 0)]
        assert gate.calls == 1
        # What was read of it serves the next one.
        again = Asked(engine, Request(tuple(range(40)), 1))
        gate.let_go(9)
        assert again.finished().reused_tokens == 4


def test_answers_go_on_while_a_long_prompt_is_read(model):
    order = []
    with Engine(model, byte_level(), prefill_chunk=4) as engine:
        gate = Gate(model)
        short = engine.submit(Request((1, 2), 8), lambda event: order.append("short"))
        gate.reached()
        done = threading.Event()

        def tell(event):
            order.append("long")
            if isinstance(event, Finished):
                done.set()

        engine.submit(Request(tuple(range(40)), 1), tell)
        gate.let_go(100)
        assert done.wait(PATIENCE)
    assert not short.cancelled
    assert order.index("long") >= 8  # ten chunks were read meanwhile
    assert order.count("short") >= 8


def test_chunk_is_shared_by_the_prompts_of_a_step(model):
    read, gate = [], Gate(model)
    model.tok_emb.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    with Engine(model, byte_level(), prefill_chunk=8) as engine:
        first = Asked(engine, Request((1, 2), 6))
        gate.reached()
        others = [Asked(engine, Request(tuple(range(n, n + 6)), 3)) for n in (10, 20, 30)]
        gate.let_go(100)
        for each in (first, *others):
            each.finished()
    steps = [[2, 1], [6, 2, 1, 1], [4, 4, 1, 1, 1], [2, 1, 1, 1]]  # prompts, then one token per row
    assert read[: len(sum(steps, []))] == sum(steps, [])


BAD = (
    SamplingSettings(banned=[999]),
    SamplingSettings(logit_bias={300: 1.0}),
    SamplingSettings(banned=range(256)),
)


@pytest.mark.parametrize("settings", BAD)
def test_settings_that_do_not_fit_fail_their_request_alone(model, settings):
    with Engine(model, byte_level()) as engine:
        good = Asked(engine, Request((1, 2, 3), 9))
        bad = Asked(engine, Request((1, 2, 3), 9, settings))
        assert isinstance(bad.error(), ValueError)
        assert good.finished().ids == alone(model, (1, 2, 3), 9)
        assert (engine.counters.failed, engine.alive) == (1, True)


def test_damaged_logits_of_a_row_fail_that_row_alone(model, monkeypatch):
    original = RaggedReader.next_logits

    def damaged(self, ids, caches):
        logits = original(self, ids, caches)
        for row, cache in zip(logits, caches, strict=True):
            if cache.length == 12:
                row[7] = torch.nan
        return logits

    monkeypatch.setattr(RaggedReader, "next_logits", damaged)
    with Engine(model, byte_level()) as engine:
        good, bad = (Asked(engine, Request(tuple(range(n)), 6)) for n in (3, 9))
        with pytest.raises(ValueError, match="logits of step 4 are NaN"):
            raise bad.error()
        assert good.finished().ids == alone(model, (0, 1, 2), 6)


def test_step_that_fails_fails_its_rows_and_the_engine_goes_on(model, monkeypatch):
    original, calls = RaggedReader.next_logits, []

    def failing(self, ids, caches):
        calls.append(len(ids))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return original(self, ids, caches)

    monkeypatch.setattr(RaggedReader, "next_logits", failing)
    gate = Gate(model)
    with Engine(model, byte_level()) as engine:
        asked = [Asked(engine, Request((n, 2), 9)) for n in (1, 5)]
        gate.let_go(100)
        assert [str(each.error()) for each in asked] == ["out of memory"] * 2
        assert engine.alive
        assert Asked(engine, Request((8, 2), 5)).finished().ids == alone(tiny_llama(), (8, 2), 5)
        counters = engine.counters
        assert (counters.failed, counters.faults, counters.running) == (2, 1, 0)


def test_fault_while_a_prompt_is_read_fails_that_request_alone(model):
    def failing(embedding, args):
        if 99 in args[0]:
            raise RuntimeError("a fault")

    with Engine(model, byte_level()) as engine:
        model.tok_emb.register_forward_pre_hook(failing)
        good, bad = (Asked(engine, Request((first, 2), 6)) for first in (1, 99))
        assert str(bad.error()) == "a fault"
        assert good.finished().ids == alone(tiny_llama(), (1, 2), 6)


class PlantedFault(BaseException):
    """Not an exception that the engine catches."""


@pytest.fixture
def quiet_threads(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)


@pytest.mark.usefixtures("quiet_threads")
@pytest.mark.parametrize("where", ["in the model", "outside"])
def test_engine_whose_thread_has_died_tells_everybody(model, monkeypatch, where):
    def fault(*_):
        raise PlantedFault

    gate = Gate(model)
    engine = Engine(model, byte_level(), rows=1)
    engine.start()
    running = Asked(engine, Request((1, 2), 9))
    gate.reached()
    waiting = Asked(engine, Request((3, 4), 9))
    if where == "outside":
        monkeypatch.setattr(engine, "_write", fault)
    else:
        model.final_norm.register_forward_hook(fault)
    gate.let_go(9)
    for asked in (running, waiting):
        with pytest.raises(EngineStoppedError, match="thread has ended: PlantedFault"):
            raise asked.error()
    wait_for(lambda: not engine.alive)
    with pytest.raises(EngineStoppedError, match="is not running"):
        engine.submit(Request((1,), 1), print)
    assert (engine.counters.failed, engine.counters.running, engine.counters.waiting) == (2, 0, 0)
    engine.stop()


def test_listener_that_fails_is_cancelled_alone(model, capsys):
    calls = []

    def failing(event):
        calls.append(event)
        raise RuntimeError("the client is gone")

    with Engine(model, byte_level()) as engine:
        engine.submit(Request((1, 2), 40), failing)
        good = Asked(engine, Request((3, 4), 6))
        assert good.finished().ids == alone(model, (3, 4), 6)
        wait_for(lambda: engine.counters.running == 0)
        assert engine.alive
        assert len(calls) == 1
        assert engine.counters.finished == {"length": 1, "interrupted": 1}
        assert engine.counters.cancelled == 1
        engine.submit(Request((5,), 1), failing)  # fails at the piece, which is the last
        assert Asked(engine, Request((3, 4), 6)).finished().reason == "length"


def test_stop_interrupts_what_runs_and_what_waits(model):
    gate = Gate(model)
    engine = Engine(model, byte_level(), rows=1)
    engine.start()
    running, waiting = (Asked(engine, Request((n, 2), 40)) for n in (1, 3))
    gate.let_go(3)
    pieces = [running.next() for _ in range(2)]
    for _ in range(4):
        gate.reached()
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    wait_for(lambda: not engine.alive)
    gate.let_go()
    stopping.join(PATIENCE)
    events = [*pieces, *running.all()]
    assert events[-1].reason == "interrupted"
    assert len(events[-1].ids) == 4
    assert len(text_of(events)) >= 1
    assert waiting.all() == [Finished("interrupted", (), 2, 0)]
    with pytest.raises(EngineStoppedError):
        engine.submit(Request((1,), 1), print)
    with pytest.raises(EngineStoppedError, match="make another one"):
        engine.start()


def test_engine_can_be_stopped_by_what_it_tells(model):
    told, engine = [], Engine(model, byte_level())

    def stopping(event):
        told.append(event)
        engine.stop()

    engine.start()
    engine.submit(Request((1, 2), 40), stopping)
    wait_for(lambda: any(isinstance(event, Finished | Failed) for event in told))
    assert told[-1].reason == "interrupted"
    assert not engine.alive


def test_engine_that_was_not_started_accepts_nothing(model):
    engine = Engine(model, byte_level())
    assert not engine.alive
    with pytest.raises(EngineStoppedError, match="is not running"):
        engine.submit(Request((1,), 1), print)


def test_engine_whose_step_does_not_end_is_not_alive(model, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(engine_module.time, "monotonic", lambda: now[0])
    gate = Gate(model)
    with Engine(model, byte_level(), stalled_after=30) as engine:
        now[0] += 1000
        assert engine.alive  # there is nothing to do
        asked = Asked(engine, Request((1, 2), 1))
        gate.reached()
        now[0] += 29
        assert engine.alive
        assert engine.stalled(20)
        now[0] += 2
        assert not engine.alive
        gate.let_go()
        asked.finished()
        monkeypatch.undo()
    assert not engine.stalled(0)


def test_engine_sleeps_while_there_is_nothing_to_do(model):
    with Engine(model, byte_level()) as engine:
        Asked(engine, Request((1, 2), 3)).finished()
        steps, original = [], engine._step
        engine._step = lambda: steps.append(1) or original()
        time.sleep(0.05)
        assert steps == []
        Asked(engine, Request((1, 2), 3)).finished()
        assert len(steps) <= 3


def test_engine_leaves_the_models_modes_as_it_found_them(model):
    model.train()
    model.trf_blocks[0].eval()
    modes = [part.training for part in model.modules()]
    with Engine(model, byte_level()) as engine:
        Asked(engine, Request((1, 2), 3)).finished()
    assert [part.training for part in model.modules()] == modes
    assert torch.is_grad_enabled()
