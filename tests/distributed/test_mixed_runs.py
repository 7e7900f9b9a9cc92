"""Two processes that train on a mixture of corpora read what one reads, and resume bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_cases import outcome

from llm_scratch.cli import main
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer

pytestmark = pytest.mark.slow
SIZES = ["--context-length", "16", "--emb-dim", "16", "--n-heads", "2", "--n-layers", "1"]
SETTINGS = ["--steps", "12", "--save-every", "3", "--keep-last", "9", "--eval-every", "4"]
NUMBERS = ["--precision", "float32", "--drop-rate", "0.1", "--seed", "3"]


def words_of(folder: Path, rows: int, dropout: float = 0.1) -> list[str]:
    mix = [f"{folder}/{name}.bin:{share}" for name, share in (("a", 0.5), ("b", 0.4), ("c", 0.1))]
    words = ["pretrain", *SIZES, *SETTINGS, *NUMBERS, "--drop-rate", str(dropout)]
    return [*words, "--micro-batch", str(rows), "--mix", *mix]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with three token files, the last of which is small."""
    folder = tmp_path_factory.mktemp("files")
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    texts = {"a": "the tide comes in. " * 90, "b": "a clock counts. " * 70, "c": "0123456789" * 18}
    for name, text in texts.items():
        write_tokens(folder / f"{name}.bin", text, tokenizer, progress=False)
    return folder


def cut(whole: Path, target: Path) -> Path:
    """Copy a run as it was after step 6, with what it had logged of step 7 and later."""
    shutil.copytree(whole, target)
    for step in (9, 12):
        shutil.rmtree(target / "checkpoints" / f"step-{step:08d}")
    (target / "model.safetensors").unlink()
    return target


def test_mixed_run_of_two_processes_resumes_to_the_bit(server, folder, tmp_path):
    whole = tmp_path / "whole"
    words = words_of(folder, 3)
    assert server.run(2, "command", *words, "--out", str(whole)).codes == [0, 0]
    again = cut(whole, tmp_path / "again")
    ended = server.run(2, "command", *words, "--out", str(again), "--resume")
    assert ended.codes == [0, 0], ended.outputs
    assert "continuing after step 6" in ended.outputs[0]
    assert outcome(whole) == outcome(again)
    assert len(outcome(again)["losses"]) == 12
    last = Path("checkpoints") / "step-00000012" / "model.safetensors"
    assert (whole / last).read_bytes() == (again / last).read_bytes()


def test_mixed_run_of_two_processes_has_the_losses_of_one(server, folder, tmp_path):
    two = [*words_of(folder, 3, 0.0), "--out", str(tmp_path / "two")]
    assert server.run(2, "command", *two).codes == [0, 0]
    assert main([*words_of(folder, 6, 0.0), "--out", str(tmp_path / "one")]) == 0
    one, other = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    for name in ("losses", "validation"):
        assert one[name] == pytest.approx(other[name], abs=1e-5)
