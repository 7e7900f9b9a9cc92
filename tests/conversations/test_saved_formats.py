"""Formats stay with their models: saved, trained, exported, and opened again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conversations_made import tokenizer_with

from llm_scratch.conversations.encoding import encode_prompt
from llm_scratch.conversations.formats import FORMATS, find_format
from llm_scratch.conversations.messages import Message
from llm_scratch.conversations.saved_formats import describe_format, described_format
from llm_scratch.conversations.templates import TemplateFormat
from llm_scratch.finetuning.instruction_tuning import finetune_instructions
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.opening import open_model
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.training.config import TrainConfig
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.folder import save_model

TOKENS = ("<|im_start|>", "<|im_end|>")
FOREIGN = TemplateFormat("{{ messages[0].content }}<|im_end|>", stop_strings=("Stop",))
OWN = replace(find_format("transcript"), name="mine", user="Q: {text}\n")
ASKED = [Message("user", "What is the tide?")]


def small_model(tokenizer, vocab_size=None):
    torch.manual_seed(3)
    sizes = {"context_length": 128, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8}
    size = vocab_size or tokenizer.n_vocab
    return LlamaModel(LlamaConfig(size, n_kv_groups=1, tie_weights=True, **sizes))


@pytest.mark.parametrize("format", [*FORMATS.values(), FOREIGN, OWN], ids=lambda each: each.name)
def test_described_formats_are_themselves_again(format):
    content = json.loads(json.dumps(describe_format(format)))
    found = described_format(content)
    assert found == format
    assert (found is format) == (format.name in FORMATS)


def test_format_that_was_changed_under_its_name_stays_as_it_was_saved():
    older = replace(find_format("vicuna"), default_system="Another text.")
    found = described_format(describe_format(older))
    assert found == older
    assert found != find_format("vicuna")


def test_descriptions_are_checked():
    with pytest.raises(ValueError, match="has no surprise"):
        described_format({"name": "a", "user": "{text}", "surprise": 1})
    with pytest.raises(ValueError, match="is incomplete"):
        described_format({"name": "a"})
    with pytest.raises(TypeError, match="chat_format is a str; a ConversationFormat"):
        describe_format("chatml")
    assert described_format(describe_format(None)) is None


@pytest.mark.parametrize("format", [find_format("chatml"), FOREIGN, OWN], ids=lambda f: f.name)
def test_saved_model_gives_its_format_back(format, tmp_path):
    tokenizer = tokenizer_with(TOKENS)
    save_model(small_model(tokenizer), tmp_path, tokenizer, chat_format=format)
    opened = open_model(tmp_path)
    assert opened.format == format
    assert opened.chat_template == format.jinja(tokenizer)
    file = open_model(tmp_path / "model.safetensors")
    assert file.format == format


def test_saved_model_without_a_format_has_none(tmp_path):
    tokenizer = tokenizer_with(TOKENS)
    save_model(small_model(tokenizer), tmp_path, tokenizer)
    assert open_model(tmp_path).format is None
    assert open_model(tmp_path).chat_template is None


def test_damaged_format_is_named(tmp_path, monkeypatch):
    tokenizer = tokenizer_with(TOKENS)
    monkeypatch.setattr("llm_scratch.weights.folder.describe_format", lambda _: {"name": 3})
    save_model(small_model(tokenizer), tmp_path, tokenizer)
    with pytest.raises(WeightsError, match="its format of conversations can't be read"):
        open_model(tmp_path)


def test_adapter_has_its_own_format_or_its_bases(tmp_path):
    tokenizer = tokenizer_with(TOKENS)
    base = tmp_path / "base"
    save_model(small_model(tokenizer), base, tokenizer, chat_format=find_format("chatml"))
    model = open_model(base).model
    replace_linear_with_lora(model, 2, 2, targets="trf_blocks", freeze_base=True)
    save_adapter(model, tmp_path / "plain", tokenizer, base=base)
    save_adapter(model, tmp_path / "own", tokenizer, base=base, chat_format=find_format("qwen3"))
    assert open_model(tmp_path / "plain").format is find_format("chatml")
    assert open_model(tmp_path / "own").format is find_format("qwen3")


@pytest.mark.parametrize("lora", [False, True])
def test_run_keeps_the_format_of_its_data(lora, tmp_path):
    tokenizer = tokenizer_with(TOKENS)
    model, options = small_model(tokenizer), {}
    base = save_model(model, tmp_path / "base", tokenizer)
    if lora:
        replace_linear_with_lora(model, 2, 2, targets="trf_blocks", freeze_base=True)
        from functools import partial

        options["save_best"] = partial(save_adapter, base=base)
    data = [{"instruction": "What is the tide?", "output": "The rise of the sea."}] * 4
    config = TrainConfig(steps=1, micro_batch=2, eval_every=1, save_every=1)
    finetune_instructions(
        model, tokenizer, data, data, config, format=find_format("chatml"),
        folder=tmp_path / "run", log=lambda _: None, **options,
    )  # fmt: skip
    assert open_model(tmp_path / "run").format is find_format("chatml")
    if not lora:
        newest = next((tmp_path / "run" / "checkpoints").glob("step-*"))
        assert open_model(newest).format is find_format("chatml")


@pytest.mark.parametrize("name", ["chatml", "guanaco-llama2"])
def test_export_has_the_template_and_the_ends_of_an_answer(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer, format = tokenizer_with(TOKENS), find_format(name)
    export_huggingface(small_model(tokenizer), tmp_path, tokenizer, chat_format=format)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    said = [{"role": each.role, "content": each.content} for each in ASKED]
    text = theirs.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    ids = theirs(text, add_special_tokens=False).input_ids
    assert ids == encode_prompt(ASKED, format, tokenizer)
    config = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    ends = config["eos_token_id"]
    assert (ends if isinstance(ends, list) else [ends]) == list(format.end_ids(tokenizer))
    opened = open_model(tmp_path)
    assert opened.format is format
    assert encode_prompt(ASKED, opened.format, opened.tokenizer) == ids


def test_export_refuses_two_templates_and_a_format_without_a_tokenizer(tmp_path):
    tokenizer, format = tokenizer_with(TOKENS), find_format("chatml")
    model = small_model(tokenizer)
    for given in ({}, {"tokenizer": tokenizer, "chat_template": "a"}):
        with pytest.raises(ValueError, match="chat_format= needs the tokenizer"):
            export_huggingface(model, tmp_path, chat_format=format, **given)
    assert not list(tmp_path.iterdir())


def test_template_of_a_folder_is_found_in_each_of_its_places(tmp_path):
    tokenizer = tokenizer_with(TOKENS)
    export_huggingface(small_model(tokenizer), tmp_path, tokenizer, chat_template="{{ 1 }}")
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert open_model(tmp_path).format == TemplateFormat("{{ 1 }}")
    named = [
        {"name": "tool_use", "template": "{{ 2 }}"},
        {"name": "default", "template": "{{ 3 }}"},
    ]
    path.write_text(json.dumps({**config, "chat_template": named}), encoding="utf-8")
    assert open_model(tmp_path).format == TemplateFormat("{{ 3 }}")
    (tmp_path / "chat_template.jinja").write_text("{{ 4 }}", encoding="utf-8")
    assert open_model(tmp_path).format == TemplateFormat("{{ 4 }}")


def test_ends_of_a_text_are_read_beside_the_tokenizer(tmp_path):
    tokenizer = tokenizer_with(TOKENS)
    export_huggingface(small_model(tokenizer), tmp_path, tokenizer)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>", "pad_token": 3}
    path.write_text(json.dumps(config), encoding="utf-8")
    found = open_model(tmp_path).tokenizer
    assert found.eos_token_id == tokenizer.special_tokens["<|im_end|>"]
    assert found.bos_token_id == tokenizer.special_tokens["<|im_start|>"]
    assert found.begin_of_text_id is None
