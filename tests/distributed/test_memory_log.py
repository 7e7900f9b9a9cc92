"""Two processes log their memory, and are measured together."""

from __future__ import annotations

import json
from pathlib import Path

from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.run_folder import read_metrics

SIZES = {"vocab_size": 61, "context_length": 64, "emb_dim": 32, "n_heads": 2, "n_layers": 2}


def test_a_run_of_two_logs_the_memory_of_both(server, tmp_path: Path) -> None:
    data, run = tmp_path / "tide.bin", tmp_path / "run"
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    write_tokens(data, "the tide comes in and goes out. " * 40, tokenizer, progress=False)
    words = ["--emb-dim", "16", "--n-heads", "2", "--n-layers", "1", "--context-length", "16",
             "--steps", "2", "--shard", "full", "--device", "cpu", "--log-memory"]  # fmt: skip
    ended = server.run(2, "command", "pretrain", "--data", str(data), "--out", str(run), *words)
    assert ended.codes == [0, 0], ended.outputs
    logged = [line["memory"] for line in read_metrics(run) if "loss" in line]
    assert [[rank["rank"] for rank in line] for line in logged] == [[0, 1], [0, 1]]
    for line in logged:
        for rank in line:
            assert len(rank["marks"]) == 6
            assert all(mark["resident"] > 0 for mark in rank["marks"])
        assert line[0]["marks"] != line[1]["marks"]  # numbers of two processes


def test_two_processes_are_measured_together(server, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SIZES), encoding="utf-8")
    words = ["memory", "measure", str(path), "--shard", "optimizer", "--steps", "1", "--batch", "3",
             "--device", "cpu", "--json"]  # fmt: skip
    ended = server.run(2, "command", *words)
    assert ended.codes == [0, 0], ended.outputs
    found = json.loads(ended.outputs[0][ended.outputs[0].index("{") :])
    assert (found["state"], found["ranks"], found["shard"]) == ("ok", "2", "optimizer")
    samples = float(found["samples_per_s"]) * float(found["seconds_per_step"])
    assert round(samples) == 2 * 3
    sizes = [int(found[f"resident_{of}"]) for of in ("min", "mean", "max")]
    assert sizes == sorted(sizes)
