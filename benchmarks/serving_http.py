"""The server over loopback, against a session in one process and `transformers serve`.

    llm-scratch fetch smollm2
    pip install -e '.[test,serve]'
    python benchmarks/serving_http.py                        about ten minutes on two cores
    pip install fastapi && python benchmarks/serving_http.py --peer    with transformers serve

All use SmolLM2-135M in float32 from one exported folder, and give greedy answers of a limited
length to different questions. What counts are tokens per second, from the first request to the last
answer, and their ratios within one run. The servers run one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from results import record

import llm_scratch as ls

TOPICS = ("the sea", "old maps", "bread", "glass", "bees", "clocks", "rivers", "paper")
PORT = 8765


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=64, help="most tokens per answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help="measure transformers serve too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{platform.machine()}, PyTorch {torch.__version__}, {args.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        opened = ls.open_model("smollm2", dtype=torch.float32)
        ls.export_huggingface(opened.model, folder, opened.tokenizer, chat_format=opened.format)
        # One server at a time has the machine; its first answer warms it up.
        found = measured_here(folder, args)
        servers = {"ours": own_server(folder)}
        if args.peer:
            servers["transformers"] = peer(folder)
        for name, (words, model) in servers.items():
            with running(words, args.threads) as url:
                ask = partial(post, url, model, args.new)
                ask(TOPICS[0])
                for count in (1, len(TOPICS)):
                    rates = [rate(ask, TOPICS[:count]) for _ in range(args.rounds)]
                    found[f"{name}, {count} at once"] = statistics.median(rates)
    report(found, args.rounds)


def measured_here(folder: str, args: argparse.Namespace) -> dict[str, float]:
    """Return tokens per second of a session, one question after another."""
    session = ls.ChatSession.open(Path(folder), max_new_tokens=args.new)

    def ask(topic: str) -> int:
        session.clear()
        reply = session.reply(question(topic))
        return len(str(reply)) and len(reply.ids)

    ask(TOPICS[0])
    rates = [rate(ask, TOPICS[:1]) for _ in range(args.rounds)]
    return {"a session": statistics.median(rates)}


def question(topic: str) -> str:
    return f"Write a long story about {topic}, with many details."


def own_server(folder: str) -> tuple[list[str], str]:
    words = [sys.executable, "-m", "llm_scratch", "serve", folder, "--port", str(PORT)]
    return [*words, "--precision", "float32"], Path(folder).name


def peer(folder: str) -> tuple[list[str], str]:
    program = str(Path(sys.executable).with_name("transformers"))
    words = [program, "serve", "--port", str(PORT), "--device", "cpu", "--dtype", "float32"]
    return words, folder


@contextmanager
def running(words: list[str], threads: int) -> Iterator[str]:
    """Start a server, yield its address once it answers, and stop it at the end."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the server
    process = subprocess.Popen(words, stdout=log, stderr=log, env=env)
    url = f"http://127.0.0.1:{PORT}"
    try:
        for _ in range(120):
            time.sleep(1)
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).read()
                break
            except OSError:
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(log.read().decode(errors="replace"))
        yield url
    finally:
        process.terminate()
        process.wait(60)


def post(url: str, model: str, new: int, topic: str) -> int:
    """Ask a question; return the number of tokens of the answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question(topic)}],
        "max_tokens": new,
        "temperature": 0,
        "stream": False,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return int(json.load(answer)["usage"]["completion_tokens"])


def rate(ask: Callable[[str], int], topics: tuple[str, ...]) -> float:
    """Return tokens per second of questions asked at the same time."""
    start = time.perf_counter()
    with ThreadPoolExecutor(len(topics)) as pool:
        tokens = sum(pool.map(ask, topics))
    return tokens / (time.perf_counter() - start)


def report(found: dict[str, float], rounds: int) -> None:
    print("\n| case | tokens/s |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.1f} |")
    eight = f"{len(TOPICS)} at once"
    print(f"\nserver over session: {found['ours, 1 at once'] / found['a session']:.2f}")
    print(f"{eight} over one: {found[f'ours, {eight}'] / found['ours, 1 at once']:.2f}")
    for count in ("1 at once", eight):
        if f"transformers, {count}" in found:
            ratio = found[f"ours, {count}"] / found[f"transformers, {count}"]
            print(f"{count}, over transformers serve: {ratio:.2f}")
    pairs = [("ours, 1 at once", "a session"), (f"ours, {eight}", "ours, 1 at once")]
    pairs += [(f"ours, {count}", f"transformers, {count}") for count in ("1 at once", eight)]
    record("SmolLM2-135M over HTTP", found, pairs, unit="tokens/s", rounds=rounds)


if __name__ == "__main__":
    main()
