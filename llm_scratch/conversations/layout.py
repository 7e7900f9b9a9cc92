"""The layout of a format: the texts around what system, user and assistant say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from llm_scratch.conversations.encoding import Segment, control_ids
from llm_scratch.conversations.messages import Message, check_turns
from llm_scratch.tokenizers.any_tokenizer import begin_of_text_id, decode, end_of_text_id

Kind = Literal["text", "control", "hole"]
HOLES = ("{text}", "{system}", "{bos}", "{eos}")


@dataclass(frozen=True)
class ConversationFormat:
    """A layout of conversations: the texts around what is said.

    In these texts, `{text}` is what is said. `{eos}` is the tokenizer's end-of-text token, and
    `{bos}` its begin-of-text token, if it puts one in front of texts.

    Args:
        name: the name of the format.
        user: a user's turn. The system text takes the place of `{system}`, in the first turn.
        header: what comes before an answer; a prompt ends with it.
        answer: an answer with its end; all of it is learned.
        after: what comes after an answer.
        system: the system text, and what is around it.
        begin: the beginning of a conversation.
        controls: the special tokens in these texts, except `{bos}` and `{eos}`.
        default_system: the system text if no message gives one; a system message without text
            means none.
        strip: whether white space around what is said is dropped.
        stop_strings: texts that end an answer if a model writes them instead of the end token.
        more_ends: further special tokens that end an answer, if the vocabulary has them.
        before_input: what separates an instruction from its input.
        input_system: the default system text of an instruction with input, if it is a different
            one.
        thoughts: the marks around a thought, for models that think before they answer.
    """

    name: str
    user: str
    header: str = ""
    answer: str = "{text}{eos}"
    after: str = ""
    system: str = "{text}\n\n"
    begin: str = "{bos}"
    controls: tuple[str, ...] = ()
    default_system: str = ""
    strip: bool = True
    stop_strings: tuple[str, ...] = ()
    more_ends: tuple[str, ...] = ()
    before_input: str = "\n\n"
    input_system: str | None = None
    thoughts: tuple[str, str] | None = None

    def segments(
        self, messages: Sequence[Message], tokenizer: Any, *, prompt: bool = False
    ) -> list[Segment]:
        """Return the pieces of a conversation's text.

        Args:
            messages: an optional system text, then user and assistant in turn.
            tokenizer: the tokenizer whose control tokens are used.
            prompt: whether the text ends where an answer starts.

        Raises:
            ValueError: if the turns are out of order or empty, or the tokenizer lacks a control
                token.
        """
        check_turns(messages, prompt=prompt)
        self.check(tokenizer)
        marks = self.marks(tokenizer)
        return [piece for piece in self._pieces(messages, marks, prompt) if piece.text]

    def plain_text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Return a conversation's text without begin-of-text and end-of-text tokens."""
        marks = {"{bos}": "", "{eos}": ""}
        return "".join(piece.text for piece in self._pieces(messages, marks, prompt))

    def _pieces(
        self, messages: Sequence[Message], marks: dict[str, str], prompt: bool
    ) -> Iterator[Segment]:
        first, system = messages[0], Message("system", self.default_system)
        turns = messages
        if first.role == "system":
            system, turns = first, messages[1:]
        has_system = bool(system.content.strip())
        folded = "{system}" in self.user
        yield from self._filled(self.begin, marks)
        if has_system and not folded:
            yield from self._filled(self.system, marks, system)
        for number, message in enumerate(turns):
            if message.role == "user":
                inner = system if has_system and folded and not number else None
                yield from self._filled(self.user, marks, message, inner)
                continue
            yield from self._filled(self.header, marks)
            starts = True
            for piece in self._filled(self.answer, marks, message, whole=True):
                yield Segment(piece.text, piece.control, piece.learned, starts)
                starts = False
            yield from self._filled(self.after, marks)
        if prompt:
            yield from self._filled(self.header, marks)

    def _filled(
        self,
        template: str,
        marks: dict[str, str],
        message: Message | None = None,
        system: Message | None = None,
        *,
        whole: bool = False,
    ) -> Iterator[Segment]:
        """Yield the pieces of a filled-in text; with `whole`, all are learned if the message is."""
        said = message is not None and message.is_learned
        for kind, text in self.parts(template):
            if kind == "control" or text in marks:
                yield Segment(marks.get(text, text), control=True, learned=whole and said)
            elif kind == "text":
                yield Segment(text, learned=whole and said)
            elif text == "{system}" and system is not None:
                yield from self._filled(self.system, marks, system)
            elif text == "{text}" and message is not None:
                yield Segment(self.trimmed(message.content), learned=said)

    def trimmed(self, content: str) -> str:
        """Return the content of a message as the format writes it."""
        return content.strip() if self.strip else content

    def parts(self, template: str) -> Iterator[tuple[Kind, str]]:
        """Yield a text's parts: ("text", ...), ("control", "<|end|>"), ("hole", "{text}")."""
        for i, part in enumerate(self._splitter.split(template)):
            if part:
                kind: Kind = "text" if i % 2 == 0 else "hole" if part in HOLES else "control"
                yield kind, part

    @cached_property
    def _splitter(self) -> re.Pattern[str]:
        marks = sorted((*HOLES, *self.controls), key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, marks)) + ")")

    def marks(self, tokenizer: Any) -> dict[str, str]:
        """Return the texts of `{bos}` and `{eos}`; one that the tokenizer does not use is ""."""
        begin, end = begin_of_text_id(tokenizer), end_of_text_id(tokenizer)
        return {
            "{bos}": "" if begin is None else decode(tokenizer, [begin]),
            "{eos}": "" if end is None else decode(tokenizer, [end]),
        }

    def jinja(self, tokenizer: Any = None) -> str:
        """Return the format as the Jinja text that other programs read.

        Args:
            tokenizer: the one whose begin-of-text and end-of-text tokens it writes; None leaves
                them to the program, as `bos_token` and `eos_token`.
        """
        from llm_scratch.conversations.jinja_text import jinja_of

        return jinja_of(self, None if tokenizer is None else self.marks(tokenizer))

    def check(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that can't write this format.

        Raises:
            ValueError: naming the special tokens that it lacks, and the way out.
        """
        known = control_ids(self.controls, tokenizer)
        if missing := [token for token in self.controls if token not in known]:
            names = " ".join(missing)
            raise ValueError(
                f"the tokenizer has no special token {names}, which format {self.name!r} writes; "
                f"add_tokens(model, tokenizer, {missing}) (--add-tokens) gives them to the model, "
                "or use a plain-text format such as 'guanaco-llama2'"
            )
        if "{eos}" in self.answer and end_of_text_id(tokenizer) is None:
            raise ValueError(
                f"the tokenizer has no end-of-text token, which ends an answer in format "
                f"{self.name!r}; use a tokenizer that has one, or a format with an end of its own"
            )

    def end_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Return the ids that end an answer: the format's end first, then the tokenizer's."""
        ends = [text for kind, text in self.parts(self.answer) if kind == "control"]
        ids = list(control_ids((*ends, *self.more_ends), tokenizer).values())
        if (end := end_of_text_id(tokenizer)) is not None:
            ids.append(end)
        return tuple(dict.fromkeys(ids))
