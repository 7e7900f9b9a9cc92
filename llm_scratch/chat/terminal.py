"""A session in a terminal or a pipe: questions in, answers out as they come."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from llm_scratch.chat.commands import COMMANDS, LeaveError
from llm_scratch.chat.replies import Reply
from llm_scratch.chat.session import ChatSession
from llm_scratch.chat.thoughts import ThoughtSplitter, thoughts_of
from llm_scratch.chat.typed import Command, ReadLine, next_input
from llm_scratch.conversations.display import DIM, RESET, printable
from llm_scratch.tokenizers.any_tokenizer import decode

ASK, ANSWER = "You: ", "Bot:  "
AGAIN = "Ctrl-C again to leave; Ctrl-D leaves too"
DONE, FAILED, INTERRUPTED = 0, 1, 130
SHOWN_IDS = 4  # at each end of a long list


@dataclass(frozen=True)
class Screen:
    """The place where a conversation is shown.

    Args:
        out: the stream for answers, and the output of commands.
        notes: the stream for remarks about them.
        colour: whether escape sequences may be written.
        prompts: whether a person sits in front of it, so that speakers are named.
    """

    out: TextIO
    notes: TextIO
    colour: bool = False
    prompts: bool = False

    def say(self, text: str, *, dim: bool = False) -> None:
        """Show text as it is, except control characters, which a terminal would obey."""
        shown = printable(text)
        dim = dim and self.colour
        print(f"{DIM}{shown}{RESET}" if dim else shown, end="", file=self.out, flush=True)

    def raw(self, text: str) -> None:
        """Show a line that is already prepared for a terminal."""
        print(text, file=self.out, flush=True)

    def line(self, text: str) -> None:
        """Show one or more lines of output."""
        self.say(f"{text}\n")

    def note(self, text: str) -> None:
        """Show a remark about the conversation."""
        shown = printable(text)
        shown = f"{DIM}{shown}{RESET}" if self.colour and self.prompts else shown
        print(shown, file=self.notes, flush=True)


class Terminal:
    """A loop that reads inputs and answers them until one ends it.

    Args:
        session: the conversation.
        read_line: returns what is entered; raises EOFError at the end, and KeyboardInterrupt.
        screen: where everything is shown.
        debug: whether to show what the model reads and writes, including control tokens.
        stats: whether to show the time of each answer.
    """

    def __init__(
        self,
        session: ChatSession,
        read_line: ReadLine,
        screen: Screen,
        *,
        debug: bool = False,
        stats: bool = True,
    ) -> None:
        self.session, self.screen = session, screen
        self._read_line, self._debug, self._stats = read_line, debug, stats

    def run(self) -> int:
        """Talk until the end of all input, and return the exit status.

        An error with one input is shown, and the next one is read. For a pipe, the status shows
        such an error.
        """
        asked_to_leave, status = False, DONE
        while True:
            try:
                prompt = ASK if self.screen.prompts else ""
                said = next_input(self._read_line, prompt, COMMANDS)
                asked_to_leave = False
                status = max(status, self.take(said))
            except EOFError:
                if self.screen.prompts:
                    self.screen.line("")
                return DONE if self.screen.prompts else status
            except LeaveError:
                return DONE
            except KeyboardInterrupt:
                if self.screen.prompts:
                    self.screen.line("")
                if asked_to_leave or not self.screen.prompts:
                    return INTERRUPTED
                asked_to_leave = True
                self.screen.note(AGAIN)

    def take(self, said: str | Command) -> int:
        """Do what was entered and return 0; if that fails, show why and return 1."""
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                if isinstance(said, Command):
                    self._obey(said)
                elif said.strip():
                    self.answer(lambda: self.session.reply(said))
            for warning in found:
                self.screen.note(str(warning.message))
        except (ValueError, OSError, RuntimeError) as err:
            self.screen.note(f"llm-scratch: {' '.join(str(err).splitlines())}")
            return FAILED
        return DONE

    def _obey(self, command: Command) -> None:
        known = COMMANDS.get(command.name)
        if known is None:
            raise ValueError(
                f"there is no command /{command.name[:40]}, and nothing was sent; /help lists "
                "them, and // begins a message with a slash"
            )
        known.run(self, command.rest)

    def answer(self, begin: Callable[[], Reply]) -> Reply:
        """Show an answer as it comes; Ctrl-C ends only the answer."""
        reply = begin()
        if reply.forgotten.turns:
            self.screen.note(str(reply.forgotten))
        if self._debug:
            self._show_sent(reply)
        written = len(reply.ids)
        if self.screen.prompts:
            self.screen.say(ANSWER)
        stopped = self._stream(reply)
        if self._debug:
            self._show_written(reply, written)
        self._sum_up(reply, stopped)
        return reply

    def _stream(self, reply: Reply) -> bool:
        """Show the pieces, with thoughts dimmed, and return whether the user stopped them."""
        splitter = ThoughtSplitter(thoughts_of(self.session.format), reply.thinking)
        try:
            for piece in reply:
                for text, is_thought in splitter.push(piece):
                    self.screen.say(text, dim=is_thought)
            return False
        except KeyboardInterrupt:
            reply.close()
            return True
        finally:
            for text, is_thought in splitter.flush():
                self.screen.say(text, dim=is_thought)
            self.screen.line("")

    def _sum_up(self, reply: Reply, stopped: bool) -> None:
        """Say what cut an answer short, and how long it took."""
        if stopped:
            self.screen.note("[stopped; /continue]")
        elif reply.finish_reason == "length":
            self.screen.note(f"[stopped at {len(reply.ids):,} tokens; /continue]")
        elif not reply.text.strip():
            self.screen.note("[no answer]")
        if self._stats:
            self.screen.note(stats_line(reply))
        if stopped and not self.screen.prompts:
            raise KeyboardInterrupt

    def _show_sent(self, reply: Reply) -> None:
        ids = [*reply.prompt_ids, *reply.ids]  # the answer too, if it is continued
        self.screen.line(">>> sending to model")
        self.screen.line(decode(self.session.tokenizer, ids))
        self.screen.line("<<< end of send")
        self.screen.line(ids_line(ids))

    def _show_written(self, reply: Reply, known: int) -> None:
        ids = reply.ids[known:]
        self.screen.line(">>> model returns")
        self.screen.line(decode(self.session.tokenizer, ids))
        self.screen.line("<<< end model result")
        ended = f" ({reply.ended_by!r})" if reply.ended_by is not None else ""
        self.screen.line(f"{ids_line(ids)}; ended by {reply.finish_reason}{ended}")


def stats_line(reply: Reply) -> str:
    """Return the time of an answer, including reading, and the tokens read for it."""
    clock = reply.stats
    rate = clock.shown_tokens / clock.seconds if clock.seconds else 0.0
    return (
        f"{clock.shown_tokens:,} tokens in {clock.seconds:.2f}s: {rate:.2f} tokens/s, "
        f"prompt {clock.prompt_tokens:,} tokens ({clock.reused_tokens:,} reused) "
        f"in {clock.reading_seconds:.2f}s"
    )


def ids_line(ids: list[int] | tuple[int, ...]) -> str:
    """Return the number of ids, with the first and the last ones."""
    shown = [str(token_id) for token_id in ids]
    if len(shown) > 2 * SHOWN_IDS:
        shown = [*shown[:SHOWN_IDS], "...", *shown[-SHOWN_IDS:]]
    return f"{len(ids):,} ids: {' '.join(shown)}"
