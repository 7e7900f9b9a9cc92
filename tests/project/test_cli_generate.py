"""`llm-scratch generate`: prompts from anywhere, text as it comes, one line on how fast."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
import torch

from llm_scratch.cli import main
from llm_scratch.cli.generation import read_prompts_file
from llm_scratch.cli.options import standard_input
from llm_scratch.generation.choosing import GREEDY, SamplingSettings
from llm_scratch.generation.texts import TextBatch, TextStream, generate_text
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.weights.folder import load_model, save_model

PROMPT = "The clock"
CONFIG = {
    "context_length": 48,
    "emb_dim": 24,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = BytePairTokenizer.train("The clock stood still. " * 4, 270, progress=False)
    torch.manual_seed(4)
    model = GPTModel({**CONFIG, "vocab_size": tokenizer.n_vocab + 8})
    return save_model(model, tmp_path_factory.mktemp("saved"), tokenizer)


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Run the command with these words and give exit code, output and errors."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def call(*words, model=folder):
        code = main(["generate", str(model), *words, "--max-new-tokens", "12"])
        return code, *capsys.readouterr()

    return call


def expected_text(folder, prompt=PROMPT, settings=GREEDY, **options):
    result = generate_text(*load_model(folder), prompt, 12, settings, **options)
    return result.prompt + result.text


def test_generate_prints_prompt_and_text_then_the_rates(run, folder):
    code, out, err = run("--prompt", PROMPT)
    assert code == 0
    assert out == expected_text(folder) + "\n"
    pattern = (
        r"\d+ prompt tokens, 12 new, ended by length, "
        r"prefill [\d,]+ tokens/s, decode [\d,.]+ tokens/s\n"
    )
    assert re.fullmatch(pattern, err)


def test_generate_without_streaming_prints_the_same(run, folder):
    code, out, _ = run("--prompt", PROMPT, "--no-stream")
    assert (code, out) == (0, expected_text(folder) + "\n\n")


def test_generate_reads_the_prompt_from_standard_input(run, folder, monkeypatch):
    for words in ([], ["--prompt", "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
        assert run(*words)[1] == expected_text(folder) + "\n"


def test_generate_asks_a_person_for_the_prompt(run, monkeypatch):
    typed = io.StringIO(PROMPT)
    typed.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", typed)
    assert run()[2].startswith("Type the prompt, then end of file")


@pytest.mark.parametrize("size", ["1", "2", "8"])
def test_generate_of_a_file_prints_each_text_whatever_the_batch(run, folder, tmp_path, size):
    prompts = ["One", PROMPT, "\u00e9 \U0001f525"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n\n".join(prompts) + "\n", encoding="utf-8")
    code, out, err = run("--prompts-file", str(file), "--batch-size", size)
    assert code == 0
    assert out == "".join(expected_text(folder, prompt) + "\n\n" for prompt in prompts)
    assert "36 new, prefill" in err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "One\u2028two\r\n\r\n[INST] three\n"),
        ("p.jsonl", '{"prompt": "One\u2028two"}\n\n{"Prompt": "[INST] three"}\n'),
        ("p.JSON", '["One\u2028two", {"prompt": "[INST] three", "id": 2}]'),
        ("p.csv", "id,prompt\n1,One\u2028two\n2,[INST] three\n"),
    ],
)
def test_prompts_file_gives_its_prompts_in_every_form(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8-sig", newline="")
    assert read_prompts_file(str(path)) == ["One\u2028two", "[INST] three"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"}', "line 2 has no text under 'prompt'; it has 'text'"),
        ('{"prompt": " "}', "line 2 has an empty prompt; leave the row out"),
    ],
)
def test_generate_names_the_row_without_a_prompt(run, tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "One"}\n' + line, encoding="utf-8")
    code, _, err = run("--prompts-file", str(path))
    assert (code, message in err) == (2, True)


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"caf\xc3\xa9\r\n", "caf\u00e9\n"), (b"\xef\xbb\xbfa\xe2\x80\xa8b", "a\u2028b")],
)
def test_standard_input_is_utf8_whatever_the_system_has(monkeypatch, data, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="cp1252"))
    assert standard_input() == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a".encode("utf-16"), "standard input: is UTF-16"),
        (b"a\n\xe9", "0xe9 at position 0 of line 2"),
    ],
)
def test_standard_input_of_another_encoding_is_named(monkeypatch, data, message):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    with pytest.raises(ValueError, match=message):
        standard_input()


def test_generate_sampled_repeats_with_the_seed_that_it_showed(run, folder):
    words = ["--prompt", PROMPT, "--temperature", "2", "--top-k", "40"]
    _, first, err = run(*words)
    seed = re.search(r"seed (\d+)$", err).group(1)
    assert run(*words, "--seed", seed)[1] == first
    assert run(*words)[1] != first
    generator = torch.Generator().manual_seed(int(seed))
    settings = SamplingSettings(temperature=2.0, top_k=40)
    assert first == expected_text(folder, settings=settings, generator=generator) + "\n"


def test_generate_sampled_prompts_do_not_depend_on_the_batch(run):
    words = ["--prompt", "One", "--prompt", PROMPT, "--temperature", "2", "--seed", "5"]
    assert run(*words, "--batch-size", "1")[1] == run(*words, "--batch-size", "2")[1]


def test_generate_passes_every_setting_on(run, folder):
    settings = SamplingSettings(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.7)
    text = expected_text(folder, settings=settings)
    words = ["--prompt", PROMPT, "--repetition-penalty", "1.5", "--presence-penalty", "0.5"]
    assert run(*words, "--frequency-penalty", "0.7")[1] == text + "\n"
    words = ["--prompt", PROMPT, "--temperature", "1", "--seed", "3", "--top-p", "0.5"]
    settings = SamplingSettings(temperature=1.0, top_p=0.5, min_p=0.1)
    generator = torch.Generator().manual_seed(3)
    text = expected_text(folder, settings=settings, generator=generator)
    assert run(*words, "--min-p", "0.1")[1] == text + "\n"


def test_generate_stops_at_a_text(run, folder):
    stop = expected_text(folder)[len(PROMPT) + 4 :][:3]
    _, out, err = run("--prompt", PROMPT, "--stop", stop)
    assert out == expected_text(folder, stop=stop) + "\n"
    assert "ended by stop" in err


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_generate_runs_in_every_precision(run, precision):
    code, out, _ = run("--prompt", PROMPT, "--precision", precision, "--device", "cpu")
    assert code == 0
    assert out.startswith(PROMPT)


def test_generate_interrupted_ends_with_what_was_written(run, folder, monkeypatch):
    original = TextStream.__next__
    left = iter(range(5))

    def interrupted(self):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(TextStream, "__next__", interrupted)
    code, out, err = run("--prompt", PROMPT)
    assert code == 130
    assert expected_text(folder).startswith(out.removesuffix("\n"))
    assert len(out) > len(PROMPT) + 1
    assert re.search(r", [5-9] new, ended by interrupted, ", err)
    assert err.count("\n") == 1


def test_generate_interrupted_in_a_batch_prints_what_there_is(run, folder, monkeypatch):
    original, whole = TextBatch.__iter__, expected_text(folder)

    def interrupted(self):
        for step, pieces in enumerate(original(self)):
            if step == 4:
                raise KeyboardInterrupt
            yield pieces

    monkeypatch.setattr(TextBatch, "__iter__", interrupted)
    code, out, err = run(
        "--prompt", PROMPT, "--prompt", "One", "--prompt", "x", "--batch-size", "2"
    )
    assert code == 130
    first, second, rest = out.split("\n\n", maxsplit=2)
    assert whole.startswith(first)
    assert second.startswith("One")
    assert rest == ""
    assert "10 new" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-p", "0.5"], "--top-p changes nothing at a temperature of 0"),
        (["--seed", "1"], "--seed changes nothing at a temperature of 0"),
        (["--temperature", "-1"], "temperature=-1.0 must be 0 or more"),
        (["--temperature", "1", "--top-k", "-1"], "top_k=-1 must be 0 or more"),
        (["--batch-size", "0"], "--batch-size=0 must be 1 or more"),
        (["--prompt", "b", "--stream"], "--stream shows one text as it is written, not 2"),
        (["--device", "quantum"], "'quantum' is not a device"),
        (["--prompts-file", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_generate_says_what_is_wrong_in_one_line(run, words, message):
    code, out, err = run("--prompt", "a", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_generate_refuses_a_file_without_prompts(run, tmp_path):
    file = tmp_path / "empty.txt"
    file.write_text("\n \n", encoding="utf-8")
    code, _, err = run("--prompts-file", str(file))
    assert code == 2
    assert "holds no prompt" in err


def test_generate_refuses_a_model_without_tokenizer_or_without_text(run, folder, tmp_path):
    model, tokenizer = load_model(folder)
    save_model(model, tmp_path / "bare")
    code, _, err = run("--prompt", "a", model=tmp_path / "bare")
    assert code == 2
    assert "--tokenizer gpt2" in err
    tokenizer.save(tmp_path / "own.json")
    given = ["--tokenizer", str(tmp_path / "own.json")]
    code, out, _ = run("--prompt", PROMPT, *given, model=tmp_path / "bare")
    assert (code, out) == (0, expected_text(folder) + "\n")
    model.out_head = torch.nn.Linear(24, 2)
    save_model(model, tmp_path / "classes", tokenizer)
    code, _, err = run("--prompt", "a", model=tmp_path / "classes")
    assert code == 2
    assert "sorts texts into 2 classes" in err


def test_generate_names_a_missing_model(run, tmp_path):
    code, _, err = run("--prompt", "a", model=tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in err


def test_generate_streams_through_a_pipe(folder):
    words = [sys.executable, "-m", "llm_scratch", "generate", str(folder), "--max-new-tokens", "12"]
    child = subprocess.run(words, input=PROMPT.encode(), capture_output=True, timeout=120)
    assert child.returncode == 0, child.stderr.decode()
    assert child.stdout.decode("utf-8").replace("\r\n", "\n") == expected_text(folder) + "\n"
    assert b"tokens/s" in child.stderr.splitlines()[-1]
