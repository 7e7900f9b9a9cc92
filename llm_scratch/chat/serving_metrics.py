"""The counters of the server and its engines, as the text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from llm_scratch.chat.served import ServedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTED = {
    "requests": "Answers that the engine was asked for.",
    "refused": "Answers refused because the queue was full.",
    "failed": "Answers that ended with an error.",
    "faults": "Steps in which the model failed.",
    "cancelled": "Answers that were cancelled, such as when a client left.",
    "prompt_tokens": "Tokens of prompts.",
    "reused_tokens": "Tokens of prompts that had been read for an earlier request.",
    "new_tokens": "Tokens written.",
}
MEASURED = {
    "running": "Answers that are being written.",
    "waiting": "Answers that wait for their turn.",
}
Sample = tuple[dict[str, str], float]


def metrics_text(models: Mapping[str, ServedModel], statuses: Mapping[int, int]) -> str:
    """Return all counters and gauges.

    Args:
        models: the served models, by name.
        statuses: the number of responses by HTTP status.
    """
    counters = {name: served.engine.counters for name, served in models.items()}
    lines: list[str] = []
    for name, about in COUNTED.items():
        samples = [({"model": m}, getattr(c, name)) for m, c in counters.items()]
        lines += _metric(f"{name}_total", "counter", about, samples)
    finished = [
        ({"model": m, "reason": reason}, count)
        for m, c in counters.items()
        for reason, count in sorted(dict(c.finished).items())
    ]
    lines += _metric("finished_total", "counter", "Answers that ended, by reason.", finished)
    for name, about in MEASURED.items():
        samples = [({"model": m}, getattr(c, name)) for m, c in counters.items()]
        lines += _metric(name, "gauge", about, samples)
    alive = [({"model": m}, float(served.engine.alive)) for m, served in models.items()]
    lines += _metric("engine_alive", "gauge", "1 while the model answers.", alive)
    answered = [({"status": str(s)}, count) for s, count in sorted(statuses.items())]
    lines += _metric("http_responses_total", "counter", "Responses by status.", answered)
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, about: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Yield the lines of one metric."""
    whole = f"llm_scratch_{name}"
    yield f"# HELP {whole} {about}"
    yield f"# TYPE {whole} {kind}"
    for labels, value in samples:
        named = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{whole}{{{named}}} {value:g}" if value < 1e6 else f"{whole}{{{named}}} {int(value)}"


def _escaped(text: str) -> str:
    r"""Return a label's value as the format has it: \ and " and line ends escaped."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
