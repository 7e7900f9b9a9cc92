"""A later turn of a conversation against reading all of it again, in one run.

    llm-scratch fetch smollm2
    python benchmarks/chat_turns.py                      about two minutes on two cores
    python benchmarks/chat_turns.py --rounds 1 --history 400

A session with SmolLM2 has about 1,500 tokens of history in its cache and gets a question of about
40 tokens. Then it gets the same question with its cache cleared. What counts is the ratio of the
median times to the first token. The two ways take turns in going first, and their ids must be
equal. The bar is 0.15.
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
    """The answer to one question: its ids, the tokens read for it, and the time for reading."""

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
    print(f"time to the first token: {times[0]:.3f} s with the cache, {times[1]:.3f} s without")
    print(f"ratio {times[0] / times[1]:.3f} (at most 0.15)")
    found = dict(zip(("ours", "the whole conversation read again"), times, strict=True))
    record(f"first token of a later turn after {args.history} tokens", found, [tuple(found)],
           unit="s", rounds=args.rounds, less=True)  # fmt: skip


def with_history(tokens: int) -> ls.ChatSession:
    """Return a session whose model has read about `tokens` tokens."""
    session = ls.ChatSession.open(MODEL, max_new_tokens=16)
    size = len(session.tokenizer.encode(SENTENCE))
    str(session.reply(SENTENCE * (tokens // size)))
    return session


def turn(session: ls.ChatSession, forgets: bool) -> Turn:
    """Ask the question, time it, and take it back."""
    str(session.regenerate())  # leaves only the history in the cache
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
