"""A later turn of a conversation against reading all of it anew, in one run.

    llm-scratch fetch smollm2
    python benchmarks/chat_turns.py                      about two minutes on two cores
    python benchmarks/chat_turns.py --rounds 1 --history 400

A session with SmolLM2 has some 1,500 tokens of history in its cache and gets a question of some 40
tokens; then it has forgotten what it has read and gets the same. What counts is the time to the
first token, as the ratio of the medians, each way in turn first; the ids of both must be equal. The
bar is 0.15.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass

import torch
from results import record

import llm_scratch as ls

MODEL = "smollm2"
SENTENCE = "The tide rises and falls twice a day, and the clock of the harbour follows it. "
QUESTION = (
    "In one sentence, what does all of this say about the tide, the harbour, its clock and me?"
)


@dataclass
class Turn:
    """One question's answer: its ids, what was read for it, and how long that took."""

    ids: tuple[int, ...]
    read: int
    new: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--history", type=int, default=1500, help="tokens before the question")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    session = with_history(args.history)
    kept: list[Turn] = []
    anew: list[Turn] = []
    for number in range(args.rounds):
        for forgets in (False, True) if number % 2 else (True, False):
            (anew if forgets else kept).append(turn(session, forgets))
    assert all(one.ids == other.ids for one, other in zip(kept, anew, strict=True)), "ids differ"
    times = [statistics.median(each.seconds for each in turns) for turns in (kept, anew)]
    print(f"prompt {kept[0].read:,} tokens, {kept[0].new} of them new; ids equal")
    print(f"time to the first token: {times[0]:.3f} s with what was read, {times[1]:.3f} s anew")
    print(f"ratio {times[0] / times[1]:.3f} (at most 0.15)")
    found = dict(zip(("ours", "the whole conversation read anew"), times, strict=True))
    record(f"first token of a later turn after {args.history} tokens", found, [tuple(found)],
           unit="s", rounds=args.rounds, less=True)  # fmt: skip


def with_history(tokens: int) -> ls.ChatSession:
    """A session whose model has read about so many tokens."""
    session = ls.ChatSession.open(MODEL, max_new_tokens=16)
    size = len(session.tokenizer.encode(SENTENCE))
    str(session.reply(SENTENCE * (tokens // size)))
    return session


def turn(session: ls.ChatSession, forgets: bool) -> Turn:
    """Ask, and take the question back."""
    str(session.regenerate())  # leaves the history alone in the cache
    if forgets:
        session.read.forget()
    reply = session.reply(QUESTION)
    str(reply)
    stats = reply.stats
    session.undo()
    new = stats.prompt_tokens - stats.reused_tokens
    return Turn(reply.ids, stats.prompt_tokens, new, stats.reading_seconds)


if __name__ == "__main__":
    main()
