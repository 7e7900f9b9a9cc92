"""Special tokens for vocabularies that lack them: rows, ids, files, and what is never chosen."""

from __future__ import annotations

import json

import pytest
import torch
from conversations_made import beginning_tokenizer, tokenizer_with
from torch.testing import assert_close

from llm_scratch.conversations.encoding import encode_conversation
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.messages import Message
from llm_scratch.generation.texts import generate_text
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.resizing import grow_vocabulary
from llm_scratch.opening import open_model
from llm_scratch.tokenizers.any_tokenizer import encode, fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.folder import save_model
from llm_scratch.weights.vocabulary import add_tokens

NEW = ("<|im_start|>", "<|im_end|>")
TALK = [Message("user", "What is the tide?"), Message("assistant", "The sea.")]


def model_of(size, *, tie, family=LlamaModel):
    torch.manual_seed(1)
    sizes = {"context_length": 96, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "tie_weights": tie}
    if family is GPTModel:
        return GPTModel(GPTConfig(size, **sizes)).eval()
    return LlamaModel(LlamaConfig(size, n_kv_groups=1, hidden_dim=8, **sizes)).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]))[0]


@pytest.mark.parametrize("family", [LlamaModel, GPTModel])
@pytest.mark.parametrize("tie", [True, False])
def test_rows_that_are_free_come_first(family, tie):
    tokenizer = tokenizer_with()
    model = model_of(tokenizer.n_vocab + 2, tie=tie, family=family)
    before = model.tok_emb.weight.detach().clone()
    head = model.out_head.weight.detach().clone()
    found = add_tokens(model, tokenizer, NEW)
    assert [found.special_tokens[token] for token in NEW] == [330, 331]
    assert model.cfg.vocab_size == model.tok_emb.num_embeddings == 332
    assert torch.equal(model.tok_emb.weight[:330], before[:330])
    assert_close(model.tok_emb.weight[330:], before[:330].mean(0).expand(2, -1))
    assert_close(model.out_head.weight[330:], head[:330].mean(0).expand(2, -1))
    assert (model.out_head.weight is model.tok_emb.weight) == tie


@pytest.mark.parametrize("family", [LlamaModel, GPTModel])
@pytest.mark.parametrize("tie", [True, False])
def test_vocabulary_grows_beyond_them_to_a_multiple_of_64(family, tie):
    tokenizer = tokenizer_with()
    model = model_of(tokenizer.n_vocab + 1, tie=tie, family=family)
    ids = encode(tokenizer, "The tide is the sea.")
    text = logits(model, ids)
    known = model.tok_emb.weight[:330].mean(0)
    found = add_tokens(model, tokenizer, NEW)
    assert [found.special_tokens[token] for token in NEW] == [330, 331]
    assert model.cfg.vocab_size == model.out_head.out_features == 384
    assert model.tok_emb.weight.shape == model.out_head.weight.shape == (384, 8)
    assert (model.out_head.weight is model.tok_emb.weight) == tie
    assert_close(logits(model, ids)[:, :330], text[:, :330])
    assert_close(model.tok_emb.weight[[330, 331]], known.expand(2, -1))
    loss = model(torch.tensor([[331, 5]])).sum()
    loss.backward()
    assert model.tok_emb.weight.grad[331].abs().sum() > 0


def test_gaps_between_ids_are_free_too():
    gap = BytePairTokenizer([], {"<|endoftext|>": 300})
    assert gap.unused_ids == tuple(range(256, 300))
    model = model_of(301, tie=True)
    found = add_tokens(model, gap, NEW)
    assert [found.special_tokens[token] for token in NEW] == [256, 257]
    assert model.cfg.vocab_size == 301
    assert encode(found, "abc<|endoftext|>") == encode(gap, "abc<|endoftext|>")


def test_ids_without_a_token_are_never_written():
    gap = BytePairTokenizer([], {"<|endoftext|>": 300})
    model = model_of(320, tie=False)
    with torch.no_grad():  # the ids without a token are the likeliest by far
        model.out_head.weight.zero_()
        model.out_head.weight[[*range(256, 300), *range(301, 320)]] = 50.0
        model.tok_emb.weight.fill_(1.0)
    written = generate_text(model, gap, "abc", 6)
    assert len(written.ids) == 6
    assert all(i < 256 for i in written.ids)


def own():
    return tokenizer_with()


def foreign():
    return beginning_tokenizer()


def wrapped():
    tokenizers = pytest.importorskip("tokenizers")
    from llm_scratch.tokenizers.wrapped import WrappedTokenizer

    letters = ["<unk>", "</s>", *(chr(i) for i in range(32, 127))]
    vocab = {token: i for i, token in enumerate(letters)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="<unk>"))
    made.add_special_tokens(["</s>"])
    return WrappedTokenizer(made.to_str().encode(), "letters", {"eos_token_id": 1})


@pytest.mark.parametrize("kind", [own, foreign, wrapped, GPT2Tokenizer])
def test_tokenizers_of_every_kind_take_more_tokens_and_keep_their_ids(kind):
    tokenizer = kind()
    model = model_of(tokenizer.n_vocab, tie=True)
    found = add_tokens(model, tokenizer, NEW)
    text = "What is the tide? <|im_end|>"
    assert encode(found, text, "text") == encode(tokenizer, text, "text")
    assert encode(found, "".join(NEW)) == [tokenizer.n_vocab, tokenizer.n_vocab + 1]
    assert found.decode(encode(found, NEW[0])) == NEW[0]
    assert found.eot_token == tokenizer.eot_token
    assert found.begin_of_text_id == getattr(tokenizer, "begin_of_text_id", None)
    assert fingerprint(found) != fingerprint(tokenizer)
    encode_conversation(TALK, find_format("chatml"), found)


@pytest.mark.parametrize("kind", [own, foreign])
@pytest.mark.parametrize("tie", [True, False])
def test_added_tokens_are_saved_and_exported(kind, tie, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = model_of(kind().n_vocab, tie=tie)
    tokenizer = add_tokens(model, kind(), NEW)
    chatml = find_format("chatml")
    ids = list(encode_conversation(TALK, chatml, tokenizer).ids)
    save_model(model, tmp_path / "saved", tokenizer, chat_format=chatml)
    export_huggingface(model, tmp_path / "exported", tokenizer, chat_format=chatml)
    for folder in ("saved", "exported"):
        opened = open_model(tmp_path / folder)
        assert opened.model.cfg.vocab_size == 384
        assert list(encode_conversation(TALK, opened.format, opened.tokenizer).ids) == ids
        assert torch.equal(logits(opened.model, ids), logits(model, ids))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    said = [{"role": each.role, "content": each.content} for each in TALK]
    text = theirs.apply_chat_template(said, tokenize=False)
    assert theirs(text, add_special_tokens=False).input_ids == ids
    config = json.loads((tmp_path / "exported" / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 384


def test_ids_in_gaps_are_those_of_other_programs_too(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    BytePairTokenizer([], {"<|endoftext|>": 300}).to_tokenizer_json(tmp_path / "tokenizer.json")
    foreign = BytePairTokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    found = add_tokens(model_of(301, tie=True), foreign, NEW)
    found.save(tmp_path / "grown.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "grown.json"))
    text = f"a{NEW[0]}b{NEW[1]}<|endoftext|>"
    assert theirs.encode(text).ids == encode(found, text)
    assert encode(found, NEW[0]) == [256]


def test_tokens_that_are_there_change_nothing():
    tokenizer = tokenizer_with(NEW)
    model = model_of(tokenizer.n_vocab, tie=True)
    before = model.tok_emb.weight
    assert add_tokens(model, tokenizer, [*NEW, NEW[0]]) is tokenizer
    assert model.tok_emb.weight is before


def test_what_can_not_be_added_is_refused():
    tokenizer = tokenizer_with()
    model = model_of(tokenizer.n_vocab, tie=True)
    with pytest.raises(TypeError, match="tokens is one text; give a list"):
        add_tokens(model, tokenizer, "<|end|>")
    with pytest.raises(ValueError, match="special token ' ' is empty"):
        add_tokens(model, tokenizer, [" "])
    words = BytePairTokenizer([], ("<|endoftext|>",), added_words={"<think>": 257})
    with pytest.raises(ValueError, match="'<think>' is already a word of the vocabulary"):
        add_tokens(model, words, ["<think>"])
    with pytest.raises(ValueError, match="they do not belong together"):
        add_tokens(model_of(100, tie=True), tokenizer, NEW)
    with pytest.raises(ValueError, match="is not above the model's vocab_size of 330"):
        grow_vocabulary(model, 330)
    assert model.cfg.vocab_size == 330


def test_models_with_lora_or_classes_are_refused():
    tokenizer = tokenizer_with()
    model = model_of(tokenizer.n_vocab, tie=False)
    model.out_head = torch.nn.Linear(8, 2)
    with pytest.raises(ValueError, match="plain language model"):
        add_tokens(model, tokenizer, NEW)
    model = model_of(tokenizer.n_vocab, tie=False)
    replace_linear_with_lora(model, 2, 2, targets="trf_blocks", freeze_base=True)
    with pytest.raises(ValueError, match="LoRA"):
        add_tokens(model, tokenizer, NEW)
