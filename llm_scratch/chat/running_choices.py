"""The link between the server's event loop and the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from llm_scratch.chat.api_errors import ApiError, failed, too_many, unavailable
from llm_scratch.chat.openai_answers import (
    Answers,
    ChatAnswers,
    Choice,
    Object,
    TextAnswers,
    chunk,
    usage,
    whole_answer,
)
from llm_scratch.chat.requests import (
    ContextLengthError,
    EngineStoppedError,
    Event,
    Failed,
    Finished,
    PromptScores,
    QueueFullError,
    Request,
    TokenScore,
)
from llm_scratch.chat.served import Answering, Prepared, ServerLimits, Ticket

RETRY_SECONDS = 2
_GONE, _LATE = object(), object()
Told = tuple[int, Event]


class ClientLeftError(Exception):
    """The signal that nobody reads the answer any more."""


class RunningChoices:
    """The choices of one request in an engine.

    Only a limited number of them are in the engine at a time, so that a request for many leaves
    room for others.

    Args:
        engine: the engine that answers.
        requests: one for each choice.
        limits: how many at a time, and for how long.

    Raises:
        QueueFullError: if the engine can't take even the first choice now.
        EngineStoppedError: if it does not answer any more.
        ValueError: if it refuses the first choice.
    """

    def __init__(
        self, engine: Answering, requests: Sequence[Request], limits: ServerLimits
    ) -> None:
        self._engine, self._requests, self._limits = engine, requests, limits
        self._next, self._open = 0, len(requests)
        self._tickets: dict[int, Ticket] = {}
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._submit()
        self._fill()

    def _submit(self) -> None:
        index = self._next
        self._tickets[index] = self._engine.submit(
            self._requests[index], partial(self._hear, index)
        )  # fmt: skip
        self._next += 1

    def _hear(self, index: int, event: Event) -> None:
        """Take an event in the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody is left to receive it
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))

    def _fill(self) -> None:
        """Give the engine as many choices as it has room for; the rest wait for the next time."""
        while self._next < len(self._requests) and len(self._tickets) < self._limits.together:
            try:
                self._submit()
            except QueueFullError:
                return
            except (EngineStoppedError, ValueError) as err:
                self._queue.put_nowait((self._next, Failed(err)))
                return

    async def events(self, gone: asyncio.Future[Any]) -> AsyncGenerator[Told | None]:
        """Yield the engine's events for each choice, None when it was silent for a while.

        All choices are cancelled at the end.

        Args:
            gone: done when the client has left.

        Raises:
            ClientLeftError: when the client has left.
            EngineStoppedError: if the engine has died without an event.
        """
        gone.add_done_callback(lambda _: self._queue.put_nowait(_GONE))
        late = self._loop.call_later(self._limits.seconds, self._queue.put_nowait, _LATE)
        try:
            while self._open:
                item = await self._wait()
                if item is _GONE:
                    raise ClientLeftError
                if item is _LATE:
                    self._end_early()
                else:
                    self._note(item)
                    yield item
        finally:
            late.cancel()
            self.cancel()

    async def _wait(self) -> Any:
        try:
            return await asyncio.wait_for(self._queue.get(), self._limits.silence)
        except TimeoutError:
            if not self._engine.alive:
                raise EngineStoppedError("its thread has ended") from None
            return None

    def _note(self, item: Told | None) -> None:
        if item is not None and isinstance(item[1], Finished | Failed):
            self._tickets.pop(item[0], None)
            self._open -= 1
        self._fill()

    def _end_early(self) -> None:
        """End all choices with the text they have."""
        self.cancel()
        for index in range(self._next, len(self._requests)):
            end = Finished("interrupted", (), len(self._requests[index].ids), 0)
            self._queue.put_nowait((index, end))
        self._next = len(self._requests)

    def cancel(self) -> None:
        """Cancel the choices that have not ended."""
        for ticket in self._tickets.values():
            ticket.cancel()


def start_answering(prepared: Prepared, limits: ServerLimits) -> RunningChoices:
    """Give a request to its model's engine.

    Raises:
        ApiError: 429, if it has no place now; 503, if it does not answer; 400, if it refuses.
    """
    try:
        return RunningChoices(prepared.served.engine, prepared.requests, limits)
    except (QueueFullError, EngineStoppedError, ValueError) as err:
        raise as_api_error(err) from err


def as_api_error(error: Exception) -> ApiError:
    """Return the error that a client gets for an engine's error."""
    line = " ".join(str(error).split())
    if isinstance(error, QueueFullError):
        return too_many(f"{line}; try again in {RETRY_SECONDS} seconds", RETRY_SECONDS)
    if isinstance(error, EngineStoppedError):
        return unavailable(f"the model does not answer: {line}", "engine_stopped")
    if isinstance(error, ContextLengthError):
        return ApiError(400, line, code="context_length_exceeded")
    if isinstance(error, ValueError):
        return ApiError(400, f"the request can't be answered: {line}")
    return failed()


async def answer_whole(
    running: RunningChoices, prepared: Prepared, gone: asyncio.Future[Any]
) -> Object:
    """Return the whole answer to a request.

    Raises:
        ApiError: if it fails midway.
        ClientLeftError: if nobody waits for it any more.
    """
    answers, choices = _answers(prepared), _choices(prepared)
    try:
        async for told in running.events(gone):
            if told is not None:
                _take(choices[told[0]], told[1], prepared)
    except EngineStoppedError as err:
        raise as_api_error(err) from err
    return whole_answer(answers, choices, prepared.asked.n)


async def answer_stream(
    running: RunningChoices, prepared: Prepared, gone: asyncio.Future[Any]
) -> AsyncGenerator[Object | None]:
    """Yield the events of a stream, None for a mere sign of life.

    Raises:
        ApiError: as `answer_whole`.
        ClientLeftError: the same.
    """
    answers, choices = _answers(prepared), _choices(prepared)
    more: Object = {"usage": None} if prepared.asked.include_usage else {}
    for index, choice in enumerate(choices):
        if (opening := answers.opening(index, choice)) is not None:
            yield chunk(answers, [opening], **more)
    try:
        async for told in running.events(gone):
            if told is None:
                yield None
                continue
            index, choice = told[0], choices[told[0]]
            if (piece := _take(choice, told[1], prepared)) is not None:
                yield chunk(answers, [answers.piece(index, *piece)], **more)
            if choice.finished is not None:
                yield chunk(answers, [answers.ending(index, choice)], **more)
    except EngineStoppedError as err:
        raise as_api_error(err) from err
    if prepared.asked.include_usage:
        yield chunk(answers, [], usage=usage(choices, prepared.asked.n))


def _answers(prepared: Prepared) -> Answers:
    kind = ChatAnswers if prepared.chat else TextAnswers
    scored = prepared.asked.top_logprobs is not None
    return kind(prepared.served.name, prepared.served.engine.tokenizer, scored)


def _choices(prepared: Prepared) -> list[Choice]:
    n = prepared.asked.n
    return [Choice(prepared.prompts[i // n]) for i in range(len(prepared.requests))]


def _take(
    choice: Choice, event: Event, prepared: Prepared
) -> tuple[str, Sequence[TokenScore]] | None:
    """Add an event to its choice, and return the part to show: a text and tokens."""
    nothing_new = prepared.asked.max_tokens == 0  # only the prompt; an engine writes at least one
    if isinstance(event, Failed):
        raise _failure(event.error, prepared)
    if isinstance(event, Finished):
        if event.reason == "interrupted" and not prepared.served.engine.alive:
            raise unavailable("the server is stopping, which ends the answer", "engine_stopped")
        if event.reason == "interrupted" and not event.ids:
            raise unavailable("no text of the answer came in time; try again later", "timeout")
        choice.finished = replace(event, ids=(), reason="length") if nothing_new else event
        return None
    if isinstance(event, PromptScores):
        choice.scores += event.tokens
        return choice.prompt, event.tokens
    if nothing_new or not (event.text or event.tokens):
        return None
    choice.text += event.text
    choice.scores += event.tokens
    return event.text, event.tokens


def _failure(error: Exception, prepared: Prepared) -> ApiError:
    """Return the client's error for a failed request, and write the details to the log."""
    if isinstance(error, EngineStoppedError | ContextLengthError):
        return as_api_error(error)
    prepared.log(f"a request to {prepared.served.name} failed: {type(error).__name__}: {error}")
    return failed()
