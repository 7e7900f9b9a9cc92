"""A model of Llama's family on the CPU: ours, transformers' and llama.cpp's, in one run.

    llm-scratch fetch smollm2
    pip install -e '.[test,peers]'
    python benchmarks/families.py                     everything, about 25 minutes on two cores
    python benchmarks/families.py decode prefill      single parts
    python benchmarks/families.py --rounds 1 --new 8 decode

All use the same weights of SmolLM2-135M-Instruct, read from its file and written as a folder for
transformers and as GGUF files of each type for llama.cpp. Parts: `decode` (one row, tokens per
second after the prompt), `steps` (where the time of one token goes), `prefill` (512 tokens),
`batch` (eight rows of different lengths, padded on the left for both; only the written tokens
count), `training` (a step of 4 x 256 in float32 with fused AdamW, each in its own process, with its
peak memory), `quality` (perplexity on 20,000 tokens of this project's English).

All cases of a part take turns within each round, and each round starts with a different one. What
counts are the ratios of their medians. "memory alone" is the limit set by memory: PyTorch sums as
many bytes as the float32 weights have. llama.cpp reports its own times, without overhead around it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from generation import alternate, report
from results import record
from training_step import peak_memory

import llm_scratch as ls

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fixtures"))
PARTS = ("decode", "steps", "prefill", "batch", "training", "quality")
TYPES = ("f32", "f16", "q8_0")
Case = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=128, help="new tokens in decode")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], choices=("transformers", "llama.cpp"))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.step:
        print(json.dumps(training_steps(args.step)))
        return
    torch.set_grad_enabled(False)
    print(f"{platform.machine()}, PyTorch {torch.__version__}, {args.threads} threads")
    runs = {
        "decode": decode, "steps": steps, "prefill": prefill, "batch": batch,
        "training": training, "quality": quality,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        opened = ls.open_model("smollm2")
        for part in args.parts or PARTS:
            print(f"\n## {part}", flush=True)
            runs[part](opened, Path(folder), args)


def peer(opened: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Return the model opened by transformers, with its attention by PyTorch and its cache."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not (folder / "hub").exists():
        ls.export_huggingface(opened.model, folder / "hub", opened.tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder / "hub", dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def llama_cpp(opened: Any, folder: Path, threads: int, what: str, *given: Any) -> dict[str, Case]:
    """Return a case for each type of file that this library writes and llama.cpp opens.

    Each file is opened only for its turn, because llama.cpp's idle threads keep polling for work.

    Args:
        opened: the model.
        folder: where the files go.
        threads: the number of threads for llama.cpp.
        what: the method of `LlamaCpp` that returns the time that something takes.
        given: the arguments of that method.
    """
    from llama_cpp import LlamaCpp

    def case(dtype: str) -> float:
        path = folder / f"{dtype}.gguf"
        if not path.exists():
            ls.export_gguf(opened.model, path, opened.tokenizer, tensor_type=dtype)
        with LlamaCpp(path, n_threads=threads, context=1024, exact=False) as model:
            getattr(model, what)(*given)  # the first time warms up
            return getattr(model, what)(*given)

    return {f"llama.cpp, {dtype}": lambda dtype=dtype: case(dtype) for dtype in TYPES}


def variants(model: Any) -> dict[str, Any]:
    """Return our model in three precisions."""
    half = ls.LlamaModel.empty(model.cfg).bfloat16()
    half.load_state_dict(model.state_dict())
    return {"float32": model, "bfloat16": half.eval(), "int8": ls.quantize_int8(model)}


def prompt(length: int, rows: int = 1) -> torch.Tensor:
    return torch.randint(49152, (rows, length), generator=torch.Generator().manual_seed(1))


def decode(opened: Any, folder: Path, args: argparse.Namespace) -> None:
    """Measure tokens per second for one row, after a prompt of 8 tokens."""
    ids, new = prompt(8), args.new
    cases: dict[str, Case] = {}
    if "transformers" not in args.without:
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            theirs = peer(opened, folder, dtype)
            cases[f"transformers, {name}"] = lambda model=theirs: model.generate(
                ids, max_new_tokens=new, do_sample=False
            )
    for name, model in variants(opened.model).items():
        cases[f"ours, {name}"] = lambda model=model: ls.generate(model, ids, new)
    if "llama.cpp" not in args.without:
        cases |= llama_cpp(opened, folder, args.threads, "decoding_seconds", ids[0].tolist(), new)
    weights = torch.randn(opened.model.num_parameters())
    cases["memory alone, float32"] = lambda: [weights.sum() for _ in range(new)]
    note("SmolLM2-135M writes, one row", alternate(cases, args.rounds), new, args,
         "memory alone, float32")  # fmt: skip


def steps(opened: Any, folder: Path, args: argparse.Namespace) -> None:
    """Print where the time of one token goes, with 64 to 128 tokens in the cache."""
    from llm_scratch.generation import flat_llama
    from llm_scratch.generation.single_token import FlatModel

    names = {"_norm1": "norms", "_norm2": "norms", "_qkv": "q, k, v", "_project": "output",
             "_gate_and_up": "gate and up", "_down": "down"}  # fmt: skip
    attention = torch.nn.functional.scaled_dot_product_attention
    for name, model in variants(opened.model).items():
        spent: dict[str, float] = {}
        flat = FlatModel.of(model, 1)
        for block in flat._blocks:
            for attribute, part in names.items():
                setattr(block, attribute, timed(getattr(block, attribute), part, spent))
        flat._head = timed(flat._head, "head", spent)
        flat_llama.F.scaled_dot_product_attention = timed(attention, "attention", spent)
        cache, ids, tokens = model.new_cache(1, 128), prompt(1), 64 * args.rounds
        model(prompt(64), cache=cache)
        for step in range(-8, tokens):  # the first steps warm up
            if step == 0:
                spent.clear()
                started = time.perf_counter()
            if cache.length == cache.capacity:
                cache.truncate(64)
            flat(ids, cache)
        total = time.perf_counter() - started
        flat_llama.F.scaled_dot_product_attention = attention
        print(f"\n{name}: {total / tokens * 1e3:.2f} ms per token\n| part | ms |\n|---|---|")
        for part, seconds in {**spent, "all else": total - sum(spent.values())}.items():
            print(f"| {part} | {seconds / tokens * 1e3:.2f} |", flush=True)


def timed(call: Callable, part: str, spent: dict[str, float]) -> Callable:
    """Return a function that calls another and adds the time to a part's."""

    def run(*given: Any, **more: Any) -> Any:
        start = time.perf_counter()
        made = call(*given, **more)
        spent[part] = spent.get(part, 0.0) + time.perf_counter() - start
        return made

    return run


def prefill(opened: Any, folder: Path, args: argparse.Namespace) -> None:
    """Time reading a prompt of 512 tokens, with one new token."""
    ids, cases = prompt(512), {}
    if "transformers" not in args.without:
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            theirs = peer(opened, folder, dtype)
            cases[f"transformers, {name}"] = lambda model=theirs: model.generate(
                ids, max_new_tokens=1, do_sample=False
            )
    for name, model in variants(opened.model).items():
        cases[f"ours, {name}"] = lambda model=model: ls.generate(model, ids, 1)
    if "llama.cpp" not in args.without:
        cases |= llama_cpp(opened, folder, args.threads, "reading_seconds", ids[0].tolist())
    note("SmolLM2-135M reads 512 tokens", alternate(cases, args.rounds, turns=3), 512, args)


def batch(opened: Any, folder: Path, args: argparse.Namespace) -> None:
    """Measure tokens per second for eight rows with prompts of 8 to 64 tokens."""
    from llm_scratch.generation.texts import pad_left

    rows = [prompt(64, 8)[row, : 8 * (row + 1)].tolist() for row in range(8)]
    ids, mask = pad_left(rows)
    new, cases = 64, {}
    if "transformers" not in args.without:
        theirs = peer(opened, folder, torch.float32)
        cases["transformers, float32"] = lambda: theirs.generate(
            ids, attention_mask=mask.long(), max_new_tokens=new, do_sample=False
        )
    for name, model in variants(opened.model).items():
        cases[f"ours, {name}"] = lambda model=model: ls.generate(
            model, ids, new, attention_mask=mask
        )
    note(
        "SmolLM2-135M, eight rows of different lengths",
        alternate(cases, args.rounds),
        8 * new,
        args,
    )


def training(opened: Any, folder: Path, args: argparse.Namespace) -> None:
    """Measure seconds and peak memory of a step of 4 x 256, each model in its own process."""
    names = [n for n in ("transformers", "ours") if n not in args.without]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(args.rounds):
        for name in names if turn % 2 else names[::-1]:
            command = [sys.executable, __file__, "--threads", str(args.threads), "--step", name]
            child = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
            results[name].append(json.loads(child.stdout.splitlines()[-1]))
            print(f"round {turn + 1}, {name}: {results[name][-1]}", flush=True)
    print("\n| case | seconds/step | peak MB | loss |\n|---|---|---|---|")
    medians = {
        key: {
            name: statistics.median(each[key] for each in found) for name, found in results.items()
        }
        for key in ("seconds", "peak", "loss")
    }
    for name in results:
        seconds, peak, loss = (medians[key][name] for key in medians)
        print(f"| {name} | {seconds:.2f} | {peak:,.0f} | {loss:.4f} |")
    pairs = [("ours", "transformers")]
    work = "training step of SmolLM2-135M, 4 x 256, float32"
    record(work, medians["seconds"], pairs, unit="s", rounds=args.rounds, less=True)
    record(
        f"{work}, peak of memory", medians["peak"], pairs, unit="MB", rounds=args.rounds, less=True
    )


PAIRS = (
    ("ours, float32", "transformers, float32"),
    ("ours, bfloat16", "transformers, bfloat16"),
    ("ours, int8", "transformers, float32"),
    ("ours, float32", "llama.cpp, f32"),
    ("ours, bfloat16", "llama.cpp, f16"),
    ("ours, int8", "llama.cpp, q8_0"),
)


def note(
    work: str,
    times: dict[str, list[float]],
    tokens: int,
    args: argparse.Namespace,
    limit: str | None = None,
) -> None:
    """Print the table of a part, and record ours against the peers."""
    rates = report(times, tokens, next(iter(times)), limit)
    record(work, rates, PAIRS, unit="tokens/s", rounds=args.rounds)


def training_steps(name: str) -> dict[str, float]:
    """Time three training steps after one for warm-up."""
    from llm_scratch.training.allocator import keep_freed_memory
    from llm_scratch.training.head_loss import chunked_head_loss

    cfg = ls.open_model("smollm2", need_tokenizer=False).model.cfg
    torch.manual_seed(123)
    if name == "ours":
        keep_freed_memory()
        model: Any = ls.LlamaModel(cfg)

        def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            hidden = model.hidden_states(inputs)
            head = model.out_head.weight
            return chunked_head_loss(hidden, head, targets, divisor=targets.numel())

    else:
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=cfg.vocab_size, hidden_size=cfg.emb_dim, num_hidden_layers=cfg.n_layers,
                intermediate_size=cfg.hidden_dim, num_attention_heads=cfg.n_heads,
                num_key_value_heads=cfg.n_kv_heads, max_position_embeddings=cfg.context_length,
                rope_theta=cfg.rope_base, tie_word_embeddings=True, use_cache=False,
                attn_implementation="sdpa",
            )
        )  # fmt: skip

        def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            logits = model(inputs).logits.flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, targets.flatten())

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(cfg.vocab_size, (4, 4, 257))
    seconds = []
    for batch in ids:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": sorted(seconds[1:])[1], "peak": peak_memory(), "loss": loss.item()}


def quality(opened: Any, folder: Path, args: argparse.Namespace) -> None:
    """Print the perplexity on 20,000 tokens of English in three precisions."""
    from llm_scratch.training.losses import next_token_loss

    ids = torch.tensor(opened.tokenizer.encode(english())[: 40 * 500 + 1])
    inputs, targets = ids[:-1].view(40, 500), ids[1:].view(40, 500)
    print("| case | perplexity | change from float32 |\n|---|---|---|")
    first = None
    for name, model in variants(opened.model).items():
        total = sum(
            float(next_token_loss(model, inputs[n : n + 4], targets[n : n + 4])[0])
            for n in range(0, 40, 4)
        )
        perplexity = math.exp(total / targets.numel())
        first = first or perplexity
        print(f"| {name} | {perplexity:.4f} | {perplexity / first - 1:+.3%} |", flush=True)


def english() -> str:
    """Return this project's story and conversations as one text."""
    data = Path(__file__).parents[1] / "data"
    lines = (data / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [message["content"] for line in lines for message in json.loads(line)["messages"]]
    return "\n\n".join([(data / "the-tide-clock.txt").read_text(encoding="utf-8"), *texts])


if __name__ == "__main__":
    main()
