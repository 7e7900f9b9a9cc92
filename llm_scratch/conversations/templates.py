"""The Jinja template in a model's files, as a format of conversations.

What people say stays text. The template is also filled with private marks in place of the
messages, which tells its own text from theirs: only in its own are control tokens recognised.
"""

from __future__ import annotations

import functools
import itertools
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm_scratch.conversations.encoding import Segment, control_ids
from llm_scratch.conversations.formats import FORMATS
from llm_scratch.conversations.layout import ConversationFormat
from llm_scratch.conversations.messages import Message, Role, check_turns
from llm_scratch.conversations.places import Pieces
from llm_scratch.tokenizers.any_tokenizer import (
    any_of,
    decode,
    end_of_text_id,
    special_tokens_of,
)
from llm_scratch.tokenizers.simple import END_OF_TEXT

if TYPE_CHECKING:
    from llm_scratch.conversations.sandbox import Template


def _without_thought(text: str) -> str:
    return text.split("</think>")[-1].lstrip("\n") if "</think>" in text else text


# What templates do to the content of messages, the likeliest first.
_CHANGES: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    _without_thought,
    str.rstrip,
    str.lstrip,
)
_EXAMPLE = [Message("user", "1"), Message("assistant", "2"), Message("user", "3")]


@dataclass(frozen=True)
class TemplateFormat:
    """A format given by a Jinja text. It writes prompts; whether a model can learn from it varies.

    Args:
        template: the Jinja text.
        name: the name of the format.
        stop_strings: texts that also end an answer.
        before_input: what separates an instruction from its input.
        input_system: the system text of an instruction with input.
    """

    template: str
    name: str = "template"
    stop_strings: tuple[str, ...] = ()
    before_input: str = "\n\n"
    input_system: str | None = None

    def render(
        self,
        messages: Sequence[Message],
        tokenizer: Any,
        *,
        prompt: bool = False,
        **variables: Any,
    ) -> str:
        """Return a conversation's text, as transformers renders it.

        Args:
            messages: the conversation.
            tokenizer: the source of the special tokens that the template refers to.
            prompt: whether the assistant is to speak next.
            variables: further variables that the template reads, such as `enable_thinking=False`.

        Raises:
            ValueError: if the template is not a Jinja text, or refuses the conversation.
        """
        said = [{"role": each.role, "content": each.content} for each in messages]
        marks = special_variables(tokenizer)
        options = {"tools": None, "documents": None, **marks, **variables}
        return self._template.render({"messages": said, "add_generation_prompt": prompt, **options})

    @cached_property
    def _template(self) -> Template:
        from llm_scratch.conversations.sandbox import Template

        return Template(self.template)

    def segments(
        self, messages: Sequence[Message], tokenizer: Any, *, prompt: bool = False
    ) -> list[Segment]:
        """Return the pieces of a conversation's text; see `ConversationFormat.segments`.

        Raises:
            ValueError: if the template refuses the conversation; if it changes messages so that
                control tokens in them can't be told from its own; or, for a whole conversation, if
                a model can't learn from it. The last two name the format to use.
        """
        check_turns(messages, prompt=prompt)
        prompts = {
            i: self._pieces(messages[:i], tokenizer, True)
            for i, message in enumerate(messages)
            if message.role == "assistant"
        }
        pieces = Pieces(self._pieces(messages, tokenizer, prompt))
        for before in map(Pieces, prompts.values()):
            if pieces.text.startswith(before.text):
                pieces.cut(len(before.text))
        if not prompt:
            self._learn(messages, pieces, prompts, tokenizer)
        return pieces.segments

    def _pieces(self, messages: Sequence[Message], tokenizer: Any, prompt: bool) -> list[Segment]:
        """Return the text as control tokens and text, all not learned yet.

        A message that the template changes in an unknown way still counts as text if it holds no
        control token.
        """
        specials = frozenset(special_tokens_of(tokenizer))
        text = self.render(messages, tokenizer, prompt=prompt)
        everything = range(len(messages))
        risky = [i for i in everything if specials and any_of(specials).search(messages[i].content)]
        own: list[Segment] | None = None
        for hidden in (everything, risky):
            form, found = self._told_apart(messages, hidden, tokenizer, prompt, text)
            controls = [p for part in form for p in _marked(part, specials) if p.control]
            own = controls if own is None else own
            if found is not None and controls == own:
                return [
                    piece
                    for part, is_said in found
                    for piece in _marked(part, frozenset() if is_said else specials)
                ]
        raise ValueError(
            "the template changes a message that holds a control token, which can't then be told "
            f"from the template's own; use {self._instead(tokenizer)}"
        )

    def _told_apart(
        self,
        messages: Sequence[Message],
        hidden: Sequence[int],
        tokenizer: Any,
        prompt: bool,
        text: str,
    ) -> tuple[list[str], list[tuple[str, bool]] | None]:
        """Put marks in place of some messages, and tell the template's text from theirs.

        Returns:
            The template's text between the marks; and the whole text in parts, each with whether it
            is one of these messages, or None if the messages are not found in the text.
        """
        marks = {f"\ue0f1{secrets.token_hex(16)}\ue0f2": messages[i] for i in hidden}
        by_place = dict(zip(hidden, marks, strict=True))
        masked = [
            Message(m.role, by_place[i]) if i in by_place else m for i, m in enumerate(messages)
        ]
        form = self.render(masked, tokenizer, prompt=prompt)
        parts = re.split("(" + "|".join(marks) + ")", form) if marks else [form]
        between = [part for part in parts if part not in marks]
        for change in _ways(list(marks.values())):
            said = {mark: change(message) for mark, message in marks.items()}
            filled = [(said.get(part, part), part in said) for part in parts]
            if "".join(part for part, _ in filled) == text:
                return between, filled
        return between, None

    def _learn(
        self,
        messages: Sequence[Message],
        pieces: Pieces,
        prompts: dict[int, list[Segment]],
        tokenizer: Any,
    ) -> None:
        """Mark the assistant's answers as learned, each with its end.

        Raises:
            ValueError: naming the format to use, if a prompt is not a prefix or an answer has no
                end.
        """
        places: list[int] = []
        for i, segments in prompts.items():
            before = Pieces(segments)
            for place in places:
                before.cut(place)
            start = len(before.text)
            if pieces.up_to(start) != before.up_to(start):
                raise self._unlearnable("writes the past differently from a prompt", tokenizer)
            until = self.render(messages[: i + 1], tokenizer)
            if not pieces.text.startswith(until):
                raise self._unlearnable("changes an answer once others follow", tokenizer)
            end = pieces.learn(start, messages[i].is_learned)
            if end is None or not start < end.start <= len(until):
                raise self._unlearnable("does not end an answer with a control token", tokenizer)
            if pieces.text[start : end.start].strip() != messages[i].content.strip():
                raise self._unlearnable("adds text to an answer that nobody said", tokenizer)
            rest = until if i < len(messages) - 1 else pieces.text
            if rest[end.stop :].strip():
                raise self._unlearnable("continues after the end of an answer", tokenizer)
            places.append(start)

    def _unlearnable(self, what: str, tokenizer: Any) -> ValueError:
        return ValueError(
            f"the template {what}, so a model would not learn what a prompt asks for; it can write "
            f"prompts, but to train use {self._instead(tokenizer)}"
        )

    def _instead(self, tokenizer: Any) -> str:
        """Return how to ask for the built-in format nearest to the template."""
        found = nearest_format(self, tokenizer)
        name = "guanaco-llama2" if found is None else found.name
        return f"format {name!r} (--format {name})"

    def end_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Return the ids that end an answer: the control token that the template writes after one.

        End-of-text tokens, the tokenizer's included, end it too.
        """
        found: list[int] = []
        try:
            pieces = self._pieces(_EXAMPLE, tokenizer, prompt=True)
        except ValueError:  # reported when a conversation is written
            pieces = []
        texts = [piece.text.strip() for piece in pieces]
        if "2" in texts:
            after = (piece for piece in pieces[texts.index("2") + 1 :] if piece.text.strip())
            end = next(after, None)
            if end is not None and end.control:
                found += control_ids([end.text], tokenizer).values()
        found += control_ids([END_OF_TEXT], tokenizer).values()
        if (last := end_of_text_id(tokenizer)) is not None:
            found.append(last)
        return tuple(dict.fromkeys(found))

    def jinja(self, tokenizer: Any = None) -> str:
        """Return the template."""
        return self.template


def _ways(messages: Sequence[Message]) -> Iterator[Callable[[Message], str]]:
    """Yield what a template may do to messages: the same to all, or one thing to each role."""
    roles = list(dict.fromkeys(message.role for message in messages))
    ways = itertools.product(_CHANGES, repeat=len(roles))
    for changes in sorted(ways, key=lambda way: len(set(way))):
        yield functools.partial(_changed, dict(zip(roles, changes, strict=True)))


def _changed(changes: dict[Role, Callable[[str], str]], message: Message) -> str:
    return changes[message.role](message.content)


def _marked(text: str, specials: frozenset[str]) -> Iterator[Segment]:
    """Yield the parts of a text: control tokens, and the text between them."""
    parts = any_of(specials).split(text) if specials else [text]
    for i, part in enumerate(parts):
        if part:
            yield Segment(part, control=i % 2 == 1)


def special_variables(tokenizer: Any) -> dict[str, str]:
    """Return the special tokens of a tokenizer by the names that templates use for them."""
    names = ("bos_token", "eos_token", "pad_token")
    ids = {name: getattr(tokenizer, f"{name}_id", None) for name in names}
    ids["eos_token"] = end_of_text_id(tokenizer)
    return {name: decode(tokenizer, [i]) for name, i in ids.items() if isinstance(i, int)}


def nearest_format(format: TemplateFormat, tokenizer: Any) -> ConversationFormat | None:
    """Return the built-in format that writes the same prompt as a template, None if none does."""
    try:
        text = format.render(_EXAMPLE[:1], tokenizer, prompt=True)
    except ValueError:
        return None
    found = []
    for each in FORMATS.values():
        try:
            pieces = each.segments(_EXAMPLE[:1], tokenizer, prompt=True)
        except ValueError:  # the tokenizer lacks special tokens
            continue
        if "".join(piece.text for piece in pieces) == text:
            found.append(each)
    thinking = (each for each in found if each.thoughts and each.thoughts[1] in format.template)
    return next(thinking, found[0] if found else None)
