"""The counters of an engine: what it has done so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llm_scratch.chat.requests import Finished
from llm_scratch.generation.continuation import FinishReason


@dataclass(frozen=True)
class EngineCounters:
    """A snapshot of the counters; all but the last two only grow.

    Every accepted request is running, waiting, failed or finished.

    Args:
        requests: requests accepted.
        refused: requests refused because the queue was full.
        finished: answers by the reason for their end.
        failed: requests that ended with `Failed`.
        cancelled: finished answers that nobody waited for.
        faults: steps in which the model failed.
        prompt_tokens: prompt tokens of finished requests.
        reused_tokens: how many of them had been read before.
        new_tokens: tokens chosen for finished requests.
        running: requests being read or written now.
        waiting: requests in the queue now.
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
        """Return new counters with these numbers added."""
        return replace(self, **{name: getattr(self, name) + n for name, n in more.items()})

    def with_finished(self, event: Finished, cancelled: bool) -> EngineCounters:
        """Return new counters that include an answer that has ended."""
        found = self.plus(
            cancelled=int(cancelled and event.reason == "interrupted"),
            prompt_tokens=event.prompt_tokens,
            reused_tokens=event.reused_tokens,
            new_tokens=len(event.ids),
        )
        count = self.finished.get(event.reason, 0) + 1
        return replace(found, finished={**self.finished, event.reason: count})
