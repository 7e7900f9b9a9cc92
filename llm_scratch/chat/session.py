"""A conversation with a model: its messages, and the part that the model has read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Sequence
from typing import Any

from llm_scratch.chat.answering import Answer, Clock
from llm_scratch.chat.fitting import OPEN, Forgotten, NoRoomError, fit, room_for_answer
from llm_scratch.chat.options import ChatOptions, Overflow, chosen_format
from llm_scratch.chat.prefix import ReadPrefix
from llm_scratch.chat.replies import Reply, messages_as_html
from llm_scratch.chat.saved import (
    SavedChat,
    read_chat,
    restored_options,
    weights_mark,
    write_chat,
)
from llm_scratch.chat.thoughts import as_read, thoughts_of
from llm_scratch.conversations.encoding import Format, encode_prompt
from llm_scratch.conversations.formats import as_format
from llm_scratch.conversations.messages import Message
from llm_scratch.files import PathLike
from llm_scratch.generation.choosing import GREEDY, SamplingSettings
from llm_scratch.model.wrappers import context_length_of
from llm_scratch.opening import OpenModel, open_model
from llm_scratch.tokenizers.any_tokenizer import decode

MARK_IDS = 16  # ids at the end of a prompt that may hold the mark of a thought


class ChatSession:
    """A conversation with a model, which reads only the new part of each turn.

    A prompt is always the result of `encode_prompt` for the messages, so the answers equal those of
    a session that reads everything again. When a conversation outgrows the context, the oldest
    questions and answers are dropped and the reply says so; system text and newest question stay.

    Args:
        model: a language model in evaluation mode.
        tokenizer: its tokenizer.
        format: how a conversation becomes text, or the name of a built-in format.
        system: the system text; None is the format's own, "" none at all.
        settings: how each token is chosen.
        max_new_tokens: the maximum length of an answer.
        context: tokens of a prompt and its answer together; None is the model's context length.
        overflow: "drop" drops the oldest turns if they do not fit, "stop" refuses.
        seed: of the answers, each of which has its own generator; None draws one.
        name: the model's name in saved conversations; None is its class.

    Attributes:
        messages: the messages so far.
        system: the system text; may be set.
        options: the settings; `change` changes them.
        last_reply: the newest reply, None before the first.

    Raises:
        ValueError: if a setting is out of range, or the tokenizer can't write the format.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        format: Format | str,
        *,
        system: str | None = None,
        settings: SamplingSettings = GREEDY,
        max_new_tokens: int = 512,
        context: int | None = None,
        overflow: Overflow = "drop",
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.format: Format = as_format(format)
        self.name = name or type(model).__name__
        self._most = context_length_of(model)
        seeds = {} if seed is None else {"seed": seed}
        context = self._most if context is None else context
        self._options = ChatOptions(context, settings, max_new_tokens, overflow, **seeds)
        self._check_context(context)
        self._thoughts = thoughts_of(self.format)
        self.read = ReadPrefix(model)
        self.system = system
        self._turns: tuple[Message, ...] = ()
        self._answer: Answer | None = None
        self._opening = ""
        self.last_reply: Reply | None = None
        self._started = 0
        self._encode([Message("user", "?")])  # refuses a tokenizer that lacks a control token

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str] | OpenModel,
        *,
        format: Format | str | None = None,
        device: Any = None,
        dtype: Any = None,
        tokenizer: Any = None,
        **options: Any,
    ) -> ChatSession:
        """Open a model and return a session with it.

        Args:
            source: as in `open_model`, or its result.
            format: None is the model's own.
            device: as in `open_model`, like the next two.
            dtype: None keeps the file's.
            tokenizer: for a source without one.
            options: further arguments of `ChatSession`.

        Raises:
            ValueError: if the model's format is unknown; see also `open_model`.
        """
        place = {"device": device, "dtype": dtype, "tokenizer": tokenizer}
        if isinstance(source, OpenModel):
            if any(each is not None for each in place.values()):
                raise ValueError("device, dtype and tokenizer are open_model's, which was called")
            opened, name = source, type(source.model).__name__
        else:
            opened, name = open_model(source, **place), os.fspath(source)
        form = chosen_format(format, opened.format, name)
        return cls(opened.model, opened.tokenizer, form, **{"name": name, **options})

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages so far: the system text, if any is set, then questions and answers."""
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, *self._said())

    def _said(self) -> tuple[Message, ...]:
        if self._answer is None:
            return self._turns
        return (*self._turns, Message("assistant", self._opening + self._answer.text))

    @property
    def options(self) -> ChatOptions:
        """The settings."""
        return self._options

    def change(self, **values: Any) -> None:
        """Change settings by their names: `change(temperature=0.8, max_new_tokens=100)`.

        Raises:
            ValueError: if there is no such setting, or a value is out of range; nothing changes.
        """
        changed = self._options.changed(values)
        self._check_context(changed.context)
        self._options = changed

    def _check_context(self, context: int) -> None:
        if context > self._most:
            raise ValueError(
                f"context={context:,} is more than this model's {self._most:,}; leave it out to "
                "use that"
            )

    def reply(self, text: str) -> Reply:
        """Say something, and return the assistant's reply.

        Raises:
            ValueError: if the text is empty, can't be encoded, or leaves no room for an answer
                (`NoRoomError`); the conversation then stays as it was.
        """
        return self._answered((*self._said(), Message("user", text)))

    def regenerate(self) -> Reply:
        """Answer the last question again; a temperature of 0 gives the same answer.

        Raises:
            ValueError: if nothing has been asked; see also `reply`.
        """
        said = self._said()
        if not said:
            raise ValueError("there is no answer to write again; ask something first")
        return self._answered(said[:-1])

    def continue_(self) -> Reply:
        """Continue the last answer, which was stopped or reached its length.

        Raises:
            ValueError: if the answer has ended, or the context is full (`NoRoomError`).
        """
        self.stop()
        answer = self._answer
        if answer is None or answer.ended_by is not None:
            raise ValueError(
                "there is no answer to continue: the last one has ended, or came from a file"
            )
        known = len(answer.prompt) + len(answer.ids)
        if known >= self._options.context:
            raise NoRoomError(known, 1, self._options.context, OPEN)
        return self._written(answer, Forgotten())

    def undo(self) -> str:
        """Take back the last question and its answer, and return the question.

        Raises:
            ValueError: if nothing has been asked.
        """
        self.stop()
        said = self._said()
        if not said:
            raise ValueError("there is nothing to take back")
        self._turns, self._answer = said[:-2], None
        return said[-2].content

    def clear(self) -> None:
        """Forget what has been said; the system text and the settings stay."""
        self.stop()
        self._turns, self._answer = (), None

    def stop(self) -> None:
        """Stop the reply in progress, if any; the part already said stays."""
        if self.last_reply is not None:
            self.last_reply.close()

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        return encode_prompt(as_read(messages, self._thoughts), self.format, self.tokenizer)

    def _answered(self, turns: tuple[Message, ...]) -> Reply:
        """Set the turns of the conversation, and return the reply to the last one."""
        self.stop()
        options = self._options
        system = () if self.system is None else (Message("system", self.system),)
        fitted = fit(
            (*system, *turns),
            self._encode,
            context=options.context,
            room=room_for_answer(options.max_new_tokens, options.context),
            drop=options.overflow == "drop",
        )
        answer = Answer(
            self.model,
            self.tokenizer,
            fitted.ids,
            options.settings,
            options.seed + self._started,
            stop=self.format.stop_strings,
            end_ids=self.format.end_ids(self.tokenizer),
        )
        before = self._turns, self._answer, self._opening
        self._turns, self._answer = fitted.messages[len(system) :], answer
        self._opening = self._begun_thought(fitted.ids)
        self._started += 1
        return self._written(answer, fitted.forgotten, before)

    def _begun_thought(self, ids: Sequence[int]) -> str:
        """Return the mark of a thought that ends the prompt, which the answer lacks; else ""."""
        begin = self._thoughts[0] if self._thoughts else None
        if begin and decode(self.tokenizer, ids[-MARK_IDS:]).rstrip().endswith(begin):
            return f"{begin}\n"
        return ""

    def _written(self, answer: Answer, forgotten: Forgotten, before: Any = None) -> Reply:
        known = len(answer.prompt) + len(answer.ids)
        room = min(self._options.max_new_tokens, self._options.context - known)
        clock = Clock(known)
        pieces = self._pieces(answer, room, clock, before)
        thinking = bool(self._opening) and not answer.text
        self.last_reply = Reply(answer, pieces, clock, forgotten, thinking)
        return self.last_reply

    def _pieces(self, answer: Answer, room: int, clock: Clock, before: Any) -> Generator[str]:
        """Yield the pieces of an answer; an error before the first one undoes the turn."""
        try:
            yield from answer.write(self.read, room, self._options.settings, clock)
        except (ValueError, RuntimeError):
            if before is not None and not answer.ids:
                self._turns, self._answer, self._opening = before
            raise

    def save(self, path: PathLike) -> None:
        """Write the conversation to a JSON file, atomically."""
        write_chat(
            path,
            SavedChat(
                self.messages,
                {**self._options.described(), "answers": self._started},
                self.name,
                weights_mark(self.model),
                self.format.name,
            ),
        )

    def load(self, path: PathLike) -> SavedChat:
        """Continue the conversation in a file, with its settings, and return it.

        A warning says if it was held with other weights or in another format.

        Raises:
            FileNotFoundError: if there is no such file.
            ChatFileError: if it is damaged or not a saved conversation; nothing changes.
        """
        saved = read_chat(path)
        options, started = restored_options(path, saved, self._options, self._most)
        self.stop()
        has_system = saved.messages[:1] and saved.messages[0].role == "system"
        self.system = saved.messages[0].content if has_system else None
        self._turns, self._answer = saved.messages[1 if has_system else 0 :], None
        self._options, self._started = options, started
        if saved.weights_sha256 != weights_mark(self.model):
            self._warn(path, f"other weights ({saved.model}); answers may differ from those")
        if saved.format != self.format.name:
            self._warn(path, f"format {saved.format!r}, and continues in {self.format.name!r}")
        return saved

    def _warn(self, path: PathLike, difference: str) -> None:
        warnings.warn(f"{os.fspath(path)} was saved with {difference}", stacklevel=3)

    def _repr_html_(self) -> str:
        return messages_as_html(self.messages)
