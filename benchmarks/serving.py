"""Many requests at once against one request at a time, in one run.

    pip install -e .
    llm-scratch fetch smollm2
    python benchmarks/serving.py                      everything, about eight minutes on two cores
    python benchmarks/serving.py engine --rounds 3    single parts
    python benchmarks/serving.py --tiny --rounds 1    a tiny model, to try the script

Parts: `engine` (tokens per second of 1, 2, 4 and 8 concurrent requests of different lengths,
relative to one), `overhead` (one request to the engine, relative to `TextStream`), `long` (how
answers continue while a long prompt is read).

All cases of a part take turns within each round, and each round starts with a different one. What
counts are the ratios of their medians. Answers are greedy and have a fixed number of tokens.
Nothing is reused from earlier ones.
"""

from __future__ import annotations

import argparse
import platform
import queue
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from results import record

from llm_scratch.chat.engine import Engine
from llm_scratch.chat.requests import Failed, Finished, Piece, Request
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.texts import TextStream
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.tokenizers.any_tokenizer import end_of_text_id
from llm_scratch.tokenizers.bpe import BytePairTokenizer

Case = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"engine": engine, "overhead": overhead, "long": long}
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{platform.machine()}, PyTorch {torch.__version__}, {args.threads} threads")
    model, tokenizer = open_model(args)
    for part in args.parts or parts:
        print(f"\n## {part}", flush=True)
        parts[part](model, tokenizer, args)


def open_model(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return SmolLM2-135M in float32, or a tiny Llama with a byte vocabulary."""
    if not args.tiny:
        from llm_scratch.opening import open_model

        opened = open_model("smollm2", dtype=torch.float32)
        return opened.model.eval(), opened.tokenizer
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "context_length": 1024, "emb_dim": 64, "n_layers": 2}
    heads = {"n_heads": 4, "n_kv_groups": 2, "hidden_dim": 128}
    return LlamaModel(LlamaConfig(**sizes, **heads)).eval(), BytePairTokenizer(
        [], special_tokens=()
    )


def prompts(count: int, shortest: int = 16) -> list[tuple[int, ...]]:
    """Return prompts of different lengths, of ids that every vocabulary has."""
    generator = torch.Generator().manual_seed(1)
    lengths = [shortest + 4 * n for n in range(count)]
    return [tuple(torch.randint(100, 200, (n,), generator=generator).tolist()) for n in lengths]


class Client:
    """A client that asks an engine and notes when text arrives."""

    def __init__(self, engine: Engine, ids: tuple[int, ...], new: int) -> None:
        self.times: list[float] = []
        self._end: queue.Queue[Finished | Failed] = queue.Queue()
        settings = greedy_without_end(engine.tokenizer)
        engine.submit(Request(ids, new, settings), self._hear)

    def _hear(self, event: Any) -> None:
        if isinstance(event, Piece):
            self.times.append(time.perf_counter())
        elif isinstance(event, Finished | Failed):
            self._end.put(event)

    def tokens(self) -> int:
        """Wait for the end of the answer and return its number of tokens."""
        end = self._end.get()
        if isinstance(end, Failed):
            raise end.error
        return len(end.ids)


def greedy_without_end(tokenizer: Any) -> SamplingSettings:
    """Return greedy settings without the end-of-text token, so that answers have equal length."""
    end = end_of_text_id(tokenizer)
    return SamplingSettings(banned=() if end is None else (end,))


def by_engine(engine: Engine, asked: list[tuple[int, ...]], new: int) -> float:
    """Return tokens per second of all clients together, including reading their prompts."""
    start = time.perf_counter()
    clients = [Client(engine, ids, new) for ids in asked]
    tokens = sum(client.tokens() for client in clients)
    return tokens / (time.perf_counter() - start)


def by_stream(model: Any, tokenizer: Any, ids: tuple[int, ...], new: int) -> float:
    """Return tokens per second of the same request without an engine."""
    start = time.perf_counter()
    stream = TextStream(model, tokenizer, ids, new, greedy_without_end(tokenizer))
    for _ in stream:
        pass
    return stream.result().new_tokens / (time.perf_counter() - start)


def engine(model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Measure tokens per second of several requests at once, relative to one."""
    with Engine(model, tokenizer, rows=max(args.clients), kept=0) as running:
        asked = prompts(max(args.clients))
        cases: dict[str, Case] = {
            f"{n} concurrent": partial(by_engine, running, asked[:n], args.new)
            for n in args.clients
        }
        report(alternate(cases, args.rounds), f"{args.clients[0]} concurrent", args)


def overhead(model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Measure one request to the engine, relative to `TextStream`."""
    ids = prompts(1, 64)[0]
    with Engine(model, tokenizer, kept=0) as running:
        cases: dict[str, Case] = {
            "TextStream": partial(by_stream, model, tokenizer, ids, args.new),
            "engine": partial(by_engine, running, [ids], args.new),
        }
        report(alternate(cases, args.rounds), "TextStream", args)


def long(model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Print an answer's longest pause while a prompt of 900 tokens is read, by chunk size."""
    asked, prompt = prompts(1)[0], prompts(1, 900)[0]
    print("| chunk | longest pause, s | the long prompt's first text, s |\n|---|---|---|")
    for chunk in (32, 128, 256, 1024):
        with Engine(model, tokenizer, kept=0, prefill_chunk=chunk) as running:
            first = Client(running, asked, 2 * args.new)
            while len(first.times) < 3:
                time.sleep(0.001)
            start, second = time.perf_counter(), Client(running, prompt, 2)
            first.tokens()
            second.tokens()
        silences = [b - a for a, b in zip(first.times, first.times[1:], strict=False)]
        print(f"| {chunk} | {max(silences):.2f} | {second.times[0] - start:.2f} |", flush=True)


def alternate(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Return every case's number in each round; rounds start with different cases."""
    for case in cases.values():
        case()  # the first call warms up
    found: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            found[name].append(cases[name]())
        print(f"round {turn + 1}", *(f"{each[-1]:.1f}" for each in found.values()), flush=True)
    return found


def report(found: dict[str, list[float]], base: str, args: argparse.Namespace) -> None:
    """Print and record median tokens per second, and their ratio to one case."""
    medians = {name: statistics.median(each) for name, each in found.items()}
    print(f"\n| case | tokens/s | x {base} |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.1f} | {median / medians[base]:.2f} |")
    pairs = [(name, base) for name in medians if name != base]
    record("SmolLM2-135M, the engine of the server", medians, pairs, unit="tokens/s",
           rounds=args.rounds)  # fmt: skip


if __name__ == "__main__":
    main()
