"""Loading GPT-2 in our, transformers' and the book's way, and ours from every kind of file.

    python benchmarks/weights.py                     124M, about 10 minutes on two cores
    python benchmarks/weights.py --rounds 1 --small

First, files of GPT-2's size with random numbers are made in a temporary folder (2.5 GB). Every turn
has its own process. The turns alternate, and what counts are ratios within one run.

- load and first pass: seconds from the call that loads to the first logits, without imports;
- peak: the most resident memory in that time, without the imports', relative to the file's size;
- cold start to first token: seconds of the whole process, imports and all.
"""

from __future__ import annotations

import argparse
import json
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import record

ROOT = Path(__file__).resolve().parents[1]
WRITER = ROOT / "tests" / "fixtures" / "tensorflow" / "bundle_writer.py"
PEERS = {"ours": "hub", "transformers": "hub", "the book's way": "hub"}
OURS = {
    "ours, safetensors": "hub",
    "ours, safetensors in shards": "sharded",
    "ours, pytorch_model.bin": "bin",
    "ours, OpenAI's checkpoint": "openai",
    "ours, the book's .pth": "book.pth",
    "ours, a folder of save_model": "own",
    "ours, bfloat16 safetensors": "bfloat16",
}
SIZES = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
SMALL = {**SIZES, "n_embd": 64, "n_head": 4, "n_layer": 3}
IDS = [6109, 3626, 6100, 345]  # "Every effort moves you"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--files", help="keep the files in this folder and reuse them")
    parser.add_argument("--peers-only", action="store_true", help="skip the table of files")
    parser.add_argument("--turn", nargs=2, metavar=("WHO", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(take_turn(*args.turn)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.files or temporary)
        if not (folder / "own").is_dir():
            make_files(folder, SMALL if args.small else SIZES)
        turns = {who: (who, file) for who, file in PEERS.items()}
        if not args.peers_only:
            turns |= {name: ("ours", file) for name, file in OURS.items()}
        report(run_rounds(folder, turns, args.rounds))


def make_files(folder: Path, sizes: dict[str, int]) -> None:
    """Write the same model in every format; transformers writes its own."""
    import torch
    import transformers

    from llm_scratch.weights.folder import save_model
    from llm_scratch.weights.gpt2 import load_gpt2

    folder.mkdir(parents=True, exist_ok=True)
    print(f"writing files to {folder}", flush=True)
    torch.manual_seed(0)
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    config = transformers.GPT2Config(**dict(zip(names, sizes.values(), strict=True)))
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder / "hub")
    model.save_pretrained(folder / "sharded", max_shard_size="200MB")
    config.save_pretrained(folder / "bin")
    state = model.transformer.state_dict()
    torch.save(state, folder / "bin" / "pytorch_model.bin")
    arrays = {openai_name(name): openai_array(name, t) for name, t in state.items()}
    (folder / "openai").mkdir(exist_ok=True)
    runpy.run_path(str(WRITER))["write_bundle"](folder / "openai" / "model.ckpt", arrays)
    (folder / "openai" / "hparams.json").write_text(json.dumps(sizes), encoding="utf-8")
    model.to(torch.bfloat16).save_pretrained(folder / "bfloat16")
    ours = load_gpt2(folder / "hub")
    save_model(ours, folder / "own")
    book = ours.state_dict()
    for block in range(sizes["n_layer"]):  # the book's files hold the mask and an untied head
        mask = torch.triu(torch.ones(sizes["n_ctx"], sizes["n_ctx"]), diagonal=1)
        book[f"trf_blocks.{block}.att.mask"] = mask
    book["out_head.weight"] = book["out_head.weight"].clone()
    (folder / "book.json").write_text(json.dumps(dict(ours.cfg)), encoding="utf-8")
    torch.save(book, folder / "book.pth")


def openai_name(name: str) -> str:
    parts = name.replace("h.", "h", 1).split(".") if name.startswith("h.") else name.split(".")
    if parts[0] in ("wte", "wpe"):
        return f"model/{parts[0]}"
    weight = "g" if parts[-2].startswith("ln_") else "w"
    return "/".join(["model", *parts[:-1], {"weight": weight, "bias": "b"}[parts[-1]]])


def openai_array(name: str, tensor):
    is_matrix = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
    return tensor.numpy()[None] if is_matrix else tensor.numpy()


def run_rounds(folder: Path, turns: dict, n_rounds: int) -> dict[str, list[dict]]:
    """Return the results of all turns; rounds start with different ways."""
    results: dict[str, list[dict]] = {name: [] for name in turns}
    names = list(turns)
    for number in range(n_rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            who, file = turns[name]
            begin = time.perf_counter()
            command = [sys.executable, __file__, "--turn", who, str(folder / file)]
            child = subprocess.run(command, capture_output=True, encoding="utf-8")
            if child.returncode:
                sys.exit(f"{name} failed:\n{child.stderr}")
            result = json.loads(child.stdout.splitlines()[-1])
            result["process"] = time.perf_counter() - begin
            results[name].append(result)
            print(f"round {number + 1}: {name:28} {result['total']:.3f} s", flush=True)
    return results


def report(results: dict[str, list[dict]]) -> None:
    """Print and record medians, and the ratios that matter."""
    import torch

    table = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
    }
    print(
        f"\n{platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}, "
    )
    print(f"{torch.get_num_threads()} threads; medians of {len(results['ours'])} rounds\n")
    print("| | file MB | load s | load + first pass s | peak / file | cold start s |")
    print("|---|---|---|---|---|---|")
    for name, row in table.items():
        print(
            f"| {name} | {row['file'] / 1e6:,.0f} | {row['load']:.3f} | {row['total']:.3f} "
            f"| {row['peak'] / row['file']:.2f} | {row['process']:.2f} |"
        )
    ours, peer, book = (table[name] for name in PEERS)
    print(f"\nload + first pass: {peer['total'] / ours['total']:.2f} times as fast as transformers")
    print(f"                   {book['total'] / ours['total']:.1f} times as fast as the book's way")
    print(f"cold start:        {ours['process'] / peer['process']:.2f} of transformers' time")
    print(f"peak:              {ours['peak'] / ours['file']:.3f} times the file")
    names = ("ours", "transformers", "the book's way")
    rounds = len(results["ours"])
    for what, key, unit in (("loading GPT-2 and a first pass", "total", "s"),
                            ("loading GPT-2, peak of memory", "peak", "MB"),
                            ("cold start to GPT-2's first token", "process", "s")):  # fmt: skip
        scale = 1e6 if unit == "MB" else 1
        rows = zip(names, (ours, peer, book), strict=True)
        found = {name: row[key] / scale for name, row in rows}
        pairs = [("ours", name) for name in names[1:]]
        record(what, found, pairs, unit=unit, rounds=rounds, less=True)


def take_turn(who: str, file: str) -> dict[str, float]:
    """Load and run one pass in this process; return times, peak and file size."""
    import torch

    ids = torch.tensor([IDS])
    path = Path(file)
    load = {"ours": ours_loader, "transformers": transformers_loader}.get(who, book_loader)(path)
    with torch.inference_mode():
        torch.ones(64, 64) @ torch.ones(64, 64)  # starts the threads
        base = peak_memory()
        start = time.perf_counter()
        model = load()
        loaded = time.perf_counter()
        logits = model(ids)
        int(getattr(logits, "logits", logits)[0, -1].argmax())
        end = time.perf_counter()
    return {
        "load": loaded - start,
        "total": end - start,
        "peak": peak_memory() - base,
        "file": sum(f.stat().st_size for f in files_of(path) if f.stat().st_size > 100_000),
    }


def files_of(path: Path) -> list[Path]:
    return [f for f in path.iterdir() if f.is_file()] if path.is_dir() else [path]


def ours_loader(path: Path):
    from llm_scratch.weights.folder import load_model
    from llm_scratch.weights.gpt2 import load_gpt2

    if path.name == "own":
        return lambda: load_model(path)[0]
    config = None
    if path.suffix == ".pth":
        config = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        config["tie_weights"] = False
    return lambda: load_gpt2(path, config=config)


def transformers_loader(path: Path):
    import transformers

    transformers.logging.disable_progress_bar()
    kind = transformers.GPT2LMHeadModel  # outside the timing: transformers imports lazily
    return lambda: kind.from_pretrained(path)


def book_loader(path: Path):
    """Return a loader in the book's way, as a yardstick.

    It makes a model with random weights, holds all arrays in memory, and copies each into a new
    parameter."""
    import torch
    from safetensors.torch import load_file

    from llm_scratch.model.gpt import GPTModel
    from llm_scratch.model.linear import Linear

    sizes = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config = {
        "vocab_size": sizes["vocab_size"],
        "context_length": sizes["n_positions"],
        "emb_dim": sizes["n_embd"],
        "n_heads": sizes["n_head"],
        "n_layers": sizes["n_layer"],
        "drop_rate": 0.0,
        "qkv_bias": True,
    }

    def load():
        model = GPTModel(config)
        for part in model.modules():
            if isinstance(part, Linear):  # the book's layers are PyTorch's
                part.__class__ = torch.nn.Linear
        tensors = load_file(path / "model.safetensors")
        fill(model, {name.removeprefix("transformer."): t for name, t in tensors.items()})
        return model.eval()

    return load


def fill(model, tensors) -> None:
    import torch

    def new(right):
        return torch.nn.Parameter(right.clone().detach())

    model.pos_emb.weight = new(tensors["wpe.weight"])
    model.tok_emb.weight = new(tensors["wte.weight"])
    for number, block in enumerate(model.trf_blocks):
        prefix = f"h.{number}."
        projections = (block.att.W_query, block.att.W_key, block.att.W_value)
        weights = torch.chunk(tensors[f"{prefix}attn.c_attn.weight"], 3, dim=-1)
        biases = torch.chunk(tensors[f"{prefix}attn.c_attn.bias"], 3, dim=-1)
        for layer, weight, bias in zip(projections, weights, biases, strict=True):
            layer.weight, layer.bias = new(weight.T), new(bias)
        for name, layer in (
            ("attn.c_proj", block.att.out_proj),
            ("mlp.c_fc", block.ff.layers[0]),
            ("mlp.c_proj", block.ff.layers[2]),
        ):
            layer.weight = new(tensors[f"{prefix}{name}.weight"].T)
            layer.bias = new(tensors[f"{prefix}{name}.bias"])
        for name, norm in (("ln_1", block.norm1), ("ln_2", block.norm2)):
            norm.scale = new(tensors[f"{prefix}{name}.weight"])
            norm.shift = new(tensors[f"{prefix}{name}.bias"])
    model.final_norm.scale = new(tensors["ln_f.weight"])
    model.final_norm.shift = new(tensors["ln_f.bias"])
    model.out_head.weight = new(tensors["wte.weight"])


def peak_memory() -> float:
    """Return the most resident memory that this process has had, in bytes."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    import resource

    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` starts at what the parent held
        line = next(li for li in status.read_text(encoding="utf-8").splitlines() if "VmHWM" in li)
        return 1024.0 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


if __name__ == "__main__":
    main()
