"""`llm-scratch finetune chat`, as a user calls it."""

from __future__ import annotations

import json

import pytest
import torch

from llm_scratch.cli import main
from llm_scratch.lora.layers import lora_layers
from llm_scratch.model.llama import LlamaModel
from llm_scratch.opening import open_model
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.weights.folder import save_model

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = BytePairTokenizer.train("a bowl of soup. " * 3, 262, special_tokens=SPECIAL)
    torch.manual_seed(0)
    sizes = {"vocab_size": tokenizer.n_vocab, "context_length": 256, "emb_dim": 32, "n_heads": 4}
    model = LlamaModel({**sizes, "n_layers": 2, "hidden_dim": 48, "n_kv_groups": 2})
    return str(save_model(model, tmp_path_factory.mktemp("base"), tokenizer))


@pytest.fixture
def data(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"Soup {i}?"},
                      {"role": "assistant", "content": "A bowl."}]}
        for i in range(30)
    ]  # fmt: skip
    write(tmp_path / "talks.jsonl", rows)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def words(base, data, *more):
    fixed = ["finetune", "chat", base, "--data", data / "talks.jsonl", "--out", data / "run",
             "--device", "cpu", "--sample-tokens", "4"]  # fmt: skip
    return list(map(str, [*fixed, *more]))


@pytest.mark.parametrize(
    "more", [[], ["--lora", "2"], ["--packing"], ["--preset", "final-tune", "--epochs", "1"]]
)
def test_finetune_chat_trains_samples_and_measures(base, data, capsys, more):
    assert main(words(base, data, "--format", "chatml", *more)) == 0
    out = capsys.readouterr().out
    assert "30 rows (messages), 30 kept" in out
    assert out.count("train: ") == out.count("(24 rows") == 1
    assert "of 3 answers ended by themselves" in out  # after an epoch
    assert "of 3 test answers ended by themselves" in out
    assert bool(lora_layers(open_model(data / "run").model)) == ("--lora" in more)
    evaluations = [line["step"] for line in read_metrics(data / "run") if "val_loss" in line]
    rows = {"--packing": 1, "--preset": 2}.get(more[0] if more else "", 8)
    assert evaluations[0] == {1: 1, 2: 12, 8: 3}[rows]


def test_finetune_chat_adds_the_tokens_of_a_format(base, data, capsys):
    assert main(words(base, data, "--format", "llama3", "--add-tokens", "--steps", "2")) == 0
    model, tokenizer = opened = open_model(data / "run")
    assert "<|eot_id|>" in tokenizer.special_tokens
    assert len(tokenizer.encode("<|eot_id|>", allowed_special="all")) == 1
    assert model.cfg.vocab_size == 320  # 262 and some more, in steps of 64
    assert opened.format.name == "llama3"
    again = ["--format", "llama3", "--add-tokens", "--steps", "4", "--resume"]
    assert main(words(base, data, *again)) == 0
    assert "continuing after step 2" in capsys.readouterr().out
    more = ["--format", "llama3", "--add-tokens", "--lora", "2"]
    assert main(words(base, data, *more)) == 2
    assert "leave --lora out" in capsys.readouterr().err


def test_a_model_knows_the_format_that_it_learned(base, data, capsys):
    for more in ([], ["--lora", "2"]):
        run = data / f"run{len(more)}"
        first = words(base, data, "--format", "chatml", "--steps", "1", *more)
        first[first.index("--out") + 1] = str(run)
        assert main(first) == 0
        assert open_model(run).format.name == "chatml"
        second = words(run, data, "--steps", "1")
        second[second.index("--out") + 1] = str(data / f"again{len(more)}")
        assert main(second) == 0


def test_finetune_chat_counts_epochs_in_packs(base, data, capsys):
    assert main(words(base, data, "--format", "chatml", "--packing", "--micro-batch", "1")) == 0
    out = capsys.readouterr().out
    packs = 24 * 30 // 256 + 1  # about 30 tokens each
    steps = int(out.split(" steps; best")[0].split()[-1])
    assert abs(steps - 3 * packs) <= 3


def test_finetune_chat_resumes(base, data, capsys):
    more = ["--format", "chatml", "--steps", "4", "--save-every", "2"]
    assert main(words(base, data, *more)) == 0
    assert main(words(base, data, *more)) == 2  # not empty
    assert "--resume" in capsys.readouterr().err
    assert main(words(base, data, *more, "--resume")) == 0
    assert len([line for line in read_metrics(data / "run") if "loss" in line]) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "does not say how a conversation becomes text for it; give --format: "),
        (["--format", "esperanto"], "no format is called 'esperanto'; use one of"),
        (["--format", "llama3"], "the tokenizer has no special token <|begin_of_text|>"),
    ],
)
def test_finetune_chat_says_what_is_missing(base, data, capsys, more, message):
    assert main(words(base, data, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (data / "run").exists()


def test_finetune_chat_leaves_bad_rows_out_on_request(base, data, capsys):
    path = data / "talks.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"messages": [{"role": "robot", "content": "Beep."}]}) + "\n")
    more = ["--format", "chatml", "--steps", "1", "--samples", "0"]
    assert main(words(base, data, *more)) == 2
    assert "row 31" in (error := capsys.readouterr().err) or "line 31" in error
    assert main(words(base, data, *more, "--skip-bad")) == 0
    assert "31 rows (messages), 30 kept" in (out := capsys.readouterr().out)
    assert "of 3 answers" not in out
