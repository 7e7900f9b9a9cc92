"""What an engine has done so far, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llm_scratch.chat.requests import Finished
from llm_scratch.generation.continuation import FinishReason


@dataclass(frozen=True)
class EngineCounters:
    """A snapshot; all but the last two only grow.

    Every request that was accepted is running, waiting, failed, or finished.

    Args:
        requests: accepted.
        refused: not accepted, since the queue was full.
        finished: answers by the reason for their end.
        failed: requests that ended with `Failed`.
        cancelled: those of the finished that nobody waited for.
        faults: steps in which the model failed.
        prompt_tokens: of the requests that have finished.
        reused_tokens: how many of them had been read before.
        new_tokens: chosen so far for requests that have finished.
        running: being read or written now.
        waiting: in the queue now.
    """

    requests: int = 0
    refused: int = 0
    finished: Mapping[FinishReason, int] = field(default_factory=dict)
    failed: int = 0
    cancelled: int = 0
    faults: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    running: int = 0
    waiting: int = 0

    def plus(self, **more: int) -> EngineCounters:
        """Return new counters with numbers added."""
        return replace(self, **{name: getattr(self, name) + n for name, n in more.items()})

    def with_finished(self, event: Finished, cancelled: bool) -> EngineCounters:
        """Return new counters with an answer added that has ended."""
        found = self.plus(
            cancelled=int(cancelled and event.reason == "interrupted"),
            prompt_tokens=event.prompt_tokens,
            reused_tokens=event.reused_tokens,
            new_tokens=len(event.ids),
        )
        count = self.finished.get(event.reason, 0) + 1
        return replace(found, finished={**self.finished, event.reason: count})
