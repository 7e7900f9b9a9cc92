"""One thread that owns a model and answers many requests of any length at once.

Requests join and leave between two steps. A step reads new prompts, up to a chunk of tokens, and
gives every answer in progress its next token, so the weights are read once for all of them. Each
request has its own settings, generator and cache, so its answer does not depend on the others.

Memory is bounded by `rows` + `kept` caches, each of one context, beside the model.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

import torch

from llm_scratch.chat.counters import EngineCounters
from llm_scratch.chat.pool import PrefixPool
from llm_scratch.chat.prefix import ReadPrefix
from llm_scratch.chat.requests import (
    ContextLengthError,
    EngineStoppedError,
    Event,
    Failed,
    Finished,
    OnEvent,
    QueueFullError,
    Request,
)
from llm_scratch.chat.rows import Row, Ticket
from llm_scratch.checks import check_count, is_number
from llm_scratch.generation.ending import StopStrings
from llm_scratch.generation.ragged import RaggedReader
from llm_scratch.model.families import passes_cache
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import context_length_of, unwrapped

LOG = logging.getLogger(__name__)


class Engine:
    """An engine that answers many requests at once, in a thread of its own.

    From `start` to `stop` the model belongs to the thread, in evaluation mode; no other code may
    run or change it. As a context manager, the engine starts and stops itself.

    Args:
        model: a language model that takes a cache.
        tokenizer: the one that it was trained with; its end-of-text token ends answers.
        rows: the number of requests that run at once.
        waiting: how many more may wait.
        prefill_chunk: the number of prompt tokens read between two tokens of the answers.
        kept: the number of prompts and answers whose caches are kept, for requests that begin
            alike.
        stalled_after: `alive` is False if there is work and no step has ended for this many
            seconds; choose it longer than the longest step on a slow machine.

    Attributes:
        model: the model.
        tokenizer: the tokenizer.

    Raises:
        TypeError: if the model takes no cache.
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        rows: int = 8,
        waiting: int = 64,
        prefill_chunk: int = 256,
        kept: int = 8,
        stalled_after: float = 300.0,
    ) -> None:
        for name, value, least in (
            ("rows", rows, 1),
            ("waiting", waiting, 1),
            ("prefill_chunk", prefill_chunk, 1),
            ("kept", kept, 0),
        ):
            check_count(name, value, least)
        if not is_number(stalled_after, 0):
            raise ValueError(f"{stalled_after=} must be 0 or more seconds")
        if not passes_cache(unwrapped(model)):
            raise TypeError(f"an engine needs a model that takes a cache, got {type(model)}")
        self.model, self.tokenizer = model, tokenizer
        self._inner = unwrapped(model)
        self._most_rows, self._most_waiting = rows, waiting
        self._chunk, self._stalled_after = prefill_chunk, stalled_after
        self._pool = PrefixPool(self._inner, kept)
        self._reader = RaggedReader(self._inner)
        self._changed = threading.Condition()  # guards the fields below
        self._waiting: deque[Ticket] = deque()
        self._rows: list[Row] = []
        self._counters = EngineCounters()
        self._beat = time.monotonic()
        self._stopping = self._closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Engine:
        """Start the engine."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the engine."""
        self.stop()

    def start(self) -> None:
        """Start the thread.

        Raises:
            EngineStoppedError: if it was started before; an engine runs only once.
        """
        with self._changed:
            if self._thread is not None or self._stopping:
                raise EngineStoppedError("this engine was started before; make another one")
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after its current step; open requests are interrupted.

        Args:
            timeout: seconds to wait for the thread. A longer step ends later, with its events.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def submit(self, request: Request, on_event: OnEvent) -> Ticket:
        """Accept a request, to be answered by events.

        Args:
            request: the prompt and how it is answered.
            on_event: called in the engine's thread, which waits for it, with `PromptScores` if
                asked for, then pieces, then one `Finished` or `Failed`. If it raises, its request
                is cancelled and gets no more events.

        Raises:
            ContextLengthError: if the prompt leaves no room for an answer.
            ValueError: if the request is invalid, or does not fit the model.
            QueueFullError: if too many requests are waiting.
            EngineStoppedError: if the engine is not running.
        """
        check_request(request, self.model)
        ticket = Ticket(request, on_event)
        with self._changed:
            if self._closed or self._stopping or self._thread is None:
                raise EngineStoppedError("the engine is not running; start another one")
            if len(self._waiting) >= self._most_waiting:
                self._counters = self._counters.plus(refused=1)
                raise QueueFullError(f"{self._most_waiting} requests are waiting; try again later")
            if not self._waiting and not self._rows:
                self._beat = time.monotonic()  # nothing was due before
            self._waiting.append(ticket)
            self._counters = self._counters.plus(requests=1)
            self._changed.notify_all()
        return ticket

    @property
    def alive(self) -> bool:
        """Whether the thread runs, accepts requests, and completes its steps."""
        running = self._thread is not None and self._thread.is_alive()
        return running and not self._stopping and not self.stalled(self._stalled_after)

    def stalled(self, seconds: float) -> bool:
        """Return whether there is work, but no step has ended for this many seconds."""
        busy = bool(self._rows or self._waiting)
        return busy and time.monotonic() - self._beat > seconds

    @property
    def counters(self) -> EngineCounters:
        """The counters so far."""
        with self._changed:
            return replace(self._counters, running=len(self._rows), waiting=len(self._waiting))

    # The methods below run in the engine's thread.

    def _run(self) -> None:
        try:
            with torch.no_grad(), evaluation_mode(self._inner):
                while self._has_work():
                    self._step()
        finally:
            self._close(sys.exception())

    def _has_work(self) -> bool:
        """Wait until there is something to do; return False when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting or self._rows)
            return not self._stopping

    def _step(self) -> None:
        """Let requests leave and join, read prompts, and give every answer its next token."""
        self._drop_cancelled()
        self._admit()
        self._read_prompts()
        self._drop_cancelled()
        self._write([row for row in self._rows if row.written])

    def _drop_cancelled(self) -> None:
        with self._changed:
            waiting = [Row(ticket) for ticket in self._waiting if ticket.cancelled]
            self._waiting = deque(each for each in self._waiting if not each.cancelled)
        for row in [*self._rows, *waiting]:
            if row.ticket.cancelled:
                self._interrupt(row)

    def _admit(self) -> None:
        with self._changed:
            while self._waiting and len(self._rows) < self._most_rows:
                self._rows.append(Row(self._waiting.popleft()))

    def _read_prompts(self) -> None:
        """Read up to a chunk of prompts, the oldest first."""
        left = self._chunk
        for row in list(self._rows):
            if not row.written and left and self._guarded(row, partial(self._begin, row)):
                tokens = min(left, row.unread)
                left -= tokens
                self._guarded(row, partial(row.read, tokens))
                self._beat = time.monotonic()

    def _begin(self, row: Row) -> list[Event]:
        """Give a row, at its first turn, the part of its prompt that was read before."""
        if not row.begun:
            if row.request.score_prompt:
                prefix = ReadPrefix(self._inner)
            else:
                in_use = [other.prefix for other in self._rows if other.begun]
                prefix = self._pool.take(row.request.ids, in_use)
            row.begin(self._inner, self.tokenizer, prefix)
        return []

    def _write(self, rows: list[Row]) -> None:
        """Give every answer its next token."""
        if not rows:
            return
        try:
            newest, caches = [row.written[-1] for row in rows], [row.cache for row in rows]
            logits = self._reader.next_logits(newest, caches)  # (B, V)
        except Exception as err:  # of any kind: these requests end, the engine continues
            LOG.exception("a step for %d requests failed", len(rows))
            self._reader = RaggedReader(self._inner)
            self._count(faults=1)
            for row in rows:
                self._fail(row, err)
        else:
            for row, own in zip(rows, logits.split(1), strict=True):
                self._guarded(row, partial(row.take, own))
        self._beat = time.monotonic()

    def _guarded(self, row: Row, work: Callable[[], Iterable[Event]]) -> bool:
        """Do a row's work and report its events; a fault ends only this row.

        Returns:
            Whether the row continues.
        """
        try:
            events = work()
        except Exception as err:  # of any kind: this request ends, the others go on
            self._fail(row, err)
            return False
        self._tell(row.ticket, events)
        if row.ended:
            self._end(row, row.finished(), row.given_back())
        return not row.ended

    def _fail(self, row: Row, error: Exception) -> None:
        if not isinstance(error, ValueError):  # perhaps out of memory: free what can be spared
            self._pool.clear()
        self._end(row, Failed(error))

    def _interrupt(self, row: Row) -> None:
        self._tell(row.ticket, row.interrupt())
        self._end(row, row.finished(), row.given_back())

    def _end(self, row: Row, event: Finished | Failed, prefix: ReadPrefix | None = None) -> None:
        """Free a row, count it, and report how it ended."""
        if prefix is not None:
            self._pool.give_back(prefix)
        with self._changed:
            self._rows = [other for other in self._rows if other is not row]
            if isinstance(event, Failed):
                self._counters = self._counters.plus(failed=1)
            else:
                self._counters = self._counters.with_finished(event, row.ticket.cancelled)
        self._tell(row.ticket, [event])

    def _tell(self, ticket: Ticket, events: Iterable[Event]) -> None:
        try:
            for event in events:
                if not ticket.deaf:
                    ticket.on_event(event)
        except Exception:  # of any kind: the fault is the caller's, and other requests go on
            LOG.exception("a request is cancelled, since its on_event failed")
            ticket.deaf = True
            ticket.cancel()

    def _count(self, **more: int) -> None:
        with self._changed:
            self._counters = self._counters.plus(**more)

    def _close(self, error: BaseException | None) -> None:
        """End all open requests, since no answer will come."""
        with self._changed:
            self._closed = True
            rows = [*self._rows, *map(Row, self._waiting)]
            self._waiting.clear()
        for row in rows:
            if error is None:
                self._interrupt(row)
            else:
                stopped = EngineStoppedError(f"the engine's thread has ended: {error!r}")
                stopped.__cause__ = error
                self._end(row, Failed(stopped))
        self._pool.clear()


def check_request(request: Request, model: Any) -> None:
    """Refuse a request that a model can't answer, before it waits.

    Raises:
        ContextLengthError: if the prompt leaves no room for an answer.
        ValueError: if the prompt is empty, has unknown ids, or a number is out of range.
    """
    if not request.ids:
        raise ValueError("the prompt is empty; give at least one id")
    V, most = unwrapped(model).cfg.vocab_size, context_length_of(model)
    wrong = [i for i in request.ids if not isinstance(i, Integral) or not 0 <= i < V]
    if wrong:
        raise ValueError(f"id {wrong[0]} of the prompt is not in the vocabulary, 0 to {V - 1}")
    check_count("max_new_tokens", request.max_new_tokens)
    if len(request.ids) >= most:
        raise ContextLengthError(len(request.ids), most)
    if len(request.ids) + request.max_new_tokens > most:
        raise ValueError(
            f"max_new_tokens={request.max_new_tokens} does not fit a context of {most} tokens "
            f"after a prompt of {len(request.ids)}; ask for at most {most - len(request.ids)}"
        )
    StopStrings(request.stop)
    if request.seed is not None:
        check_count("seed", request.seed, -(2**63))
        if request.seed >= 2**64:
            raise ValueError(f"seed={request.seed} must be below 2**64")
    if request.top_logprobs is not None:
        check_count("top_logprobs", request.top_logprobs, 0)
