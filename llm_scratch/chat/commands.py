"""The commands of a conversation in a terminal: /help and the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_scratch.conversations.display import show_conversation
from llm_scratch.conversations.encoding import EncodedConversation

if TYPE_CHECKING:
    from llm_scratch.chat.replies import Reply
    from llm_scratch.chat.session import ChatSession

WHOLE = ("top_k", "max_new_tokens", "context", "seed")
NO_LIMIT = ("all", "none")
UNSHOWN = ("banned", "n_vocab", "logit_bias")
PARTS = ("settings", "history", "prompt", "tokens")


class LeaveError(Exception):
    """The signal that the user has ended the conversation."""


class Asked(NamedTuple):
    """A command: its usage, its description, and the function that runs it."""

    usage: str
    about: str
    run: Callable[[Any, str], None]


def _help(terminal: Any, rest: str) -> None:
    width = max(len(each.usage) for each in COMMANDS.values())
    for each in COMMANDS.values():
        terminal.screen.line(f"{each.usage:<{width}}  {each.about}")
    terminal.screen.line(
        '""" begins a message of several lines and ends it; // begins one with a slash.\n'
        "Ctrl-C stops an answer, Ctrl-D leaves."
    )


def _continue(terminal: Any, rest: str) -> None:
    terminal.answer(terminal.session.continue_)


def _clear(terminal: Any, rest: str) -> None:
    terminal.session.clear()
    terminal.screen.note("forgot what was said; system text and settings stay")


def _system(terminal: Any, rest: str) -> None:
    if rest:
        terminal.session.system = "" if rest == '""' else rest
        return
    system = terminal.session.system
    terminal.screen.line("the format's own, if it has one" if system is None else system or '""')


def _set(terminal: Any, rest: str) -> None:
    name, _, text = rest.partition(" ")
    known = settings_of(terminal.session)
    if name not in known or not text.strip():
        raise ValueError(f"/set NAME VALUE sets one of {', '.join(known)}")
    terminal.session.change(**{name: _value(name, text.strip())})
    if name in ("top_k", "top_p", "min_p") and terminal.session.options.settings.temperature == 0:
        terminal.screen.note(f"{name} changes nothing at a temperature of 0")


def _value(name: str, text: str) -> Any:
    """Return a setting's value from its text."""
    if name == "overflow":
        return text
    if text.lower() in NO_LIMIT:
        return None
    kind: type[int] | type[float] = int if name in WHOLE else float
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {wanted}, not {text[:40]!r}") from None


def settings_of(session: ChatSession) -> dict[str, Any]:
    """Return the settings that people change, by name."""
    described = session.options.described()
    return {name: value for name, value in described.items() if name not in UNSHOWN}


def _show(terminal: Any, rest: str) -> None:
    part, session, line = rest or "settings", terminal.session, terminal.screen.line
    if part not in PARTS:
        raise ValueError(f"/show {part[:40]} is unknown; there are {', '.join(PARTS)}")
    if part == "settings":
        values = {"model": session.name, "format": session.format.name, **settings_of(session)}
        for name, value in values.items():
            line(f"{name:<20} {'all' if value is None else value}")
        return
    if part == "history":
        for message in session.messages:
            line(f"{message.role}: {message.content}")
        return
    _show_read(terminal, with_ids=part == "tokens")


def _show_read(terminal: Any, with_ids: bool) -> None:
    """Show what the model last read, and what it wrote after that."""
    reply: Reply | None = terminal.session.last_reply
    if reply is None:
        raise ValueError("nothing has been sent to the model yet")
    ids = (*reply.prompt_ids, *reply.ids)
    learned = (False,) * len(reply.prompt_ids) + (True,) * len(reply.ids)
    encoded, colour = EncodedConversation(ids, learned), terminal.screen.colour
    shown = show_conversation(encoded, terminal.session.tokenizer, color=colour, ids=with_ids)
    terminal.screen.raw(shown)
    terminal.screen.line(
        f"{len(reply.prompt_ids):,} tokens read, {len(reply.ids):,} written, "
        f"context {terminal.session.options.context:,}"
    )


def _regen(terminal: Any, rest: str) -> None:
    terminal.answer(terminal.session.regenerate)
    if terminal.session.options.settings.temperature == 0:
        terminal.screen.note("a temperature of 0 writes the same again; /set temperature 0.8")


def _undo(terminal: Any, rest: str) -> None:
    taken = terminal.session.undo()
    shown = taken if len(taken) <= 60 else f"{taken[:60]}..."
    terminal.screen.note(f"took back: {' '.join(shown.split())}")


def _save(terminal: Any, rest: str) -> None:
    path = _path(rest)
    terminal.session.save(path)
    terminal.screen.note(f"saved {len(terminal.session.messages)} messages in {path}")


def _load(terminal: Any, rest: str) -> None:
    path = _path(rest)
    terminal.session.load(path)
    terminal.screen.note(f"{len(terminal.session.messages)} messages from {path}")


def _path(rest: str) -> Path:
    if not rest:
        raise ValueError("name a file: /save FILE, /load FILE")
    return Path(rest).expanduser()


def _multi(terminal: Any, rest: str) -> None:
    """Do nothing: `next_input` takes the lines itself."""


def _exit(terminal: Any, rest: str) -> None:
    raise LeaveError


COMMANDS = {
    "help": Asked("/help", "show this", _help),
    "continue": Asked("/continue", "continue an answer that was stopped", _continue),
    "clear": Asked("/clear", "forget what was said", _clear),
    "system": Asked("/system [TEXT]", "show the system text, or set it", _system),
    "set": Asked("/set NAME VALUE", "change a setting, such as /set temperature 0.8", _set),
    "show": Asked("/show [PART]", f"show {', '.join(PARTS)}", _show),
    "regen": Asked("/regen", "have the last question answered again", _regen),
    "undo": Asked("/undo", "take back the last question and its answer", _undo),
    "save": Asked("/save FILE", "write the conversation to a file", _save),
    "load": Asked("/load FILE", "continue the conversation in a file", _load),
    "multi": Asked("/multi [END]", "a message up to a line that is /end, or END", _multi),
    "exit": Asked("/exit", "leave", _exit),
}
"""All commands by name."""
