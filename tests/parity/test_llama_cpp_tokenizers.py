"""Vocabularies and templates in files written here: llama.cpp's ids are ours."""

from __future__ import annotations

import json

import pytest
from llama_cpp import LlamaCpp, llama_cpp_or_skip
from published_vocabularies import published_file

from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.opening import open_model
from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gguf_tokenizer import KEY, SPLITS
from llm_scratch.weights.gguf_export import export_gguf

llama_cpp_or_skip()
jinja2 = pytest.importorskip("jinja2.sandbox")
pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

# In the form NFC, into which llama.cpp brings no text.
TEXTS = (
    "The keeper's clock DIDN'T stop; it'll run, I'VE heard.",
    "def f(x, *, n=10):\n    return {'a': x[0] ** n}  # why?\n\n\tpass\r\n",
    "1 12 123 1234 12345 1,234.5 2024-11-26 3e-5 \u0663\u0664 \u00bd \u2167 x2y",
    "   two\t\ttabs \n\n\n lines \r\n\r\n  end   ",
    *("\n", " ", "  ", "a ", "\u00a0x\u3000y \u2028z"),
    "\U0001f525 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1e9\U0001f1ea!!! ?!",
    "\u00dcber na\u00efve \u0141\u00f3d\u017a \u0394\u03ad\u03bb\u03c4\u03b1 "
    "\u041f\u0440\u0438\u0432\u0435\u0442",
    "\u6f22\u5b57\u3068\u304b\u306a \u4f60\u597d\uff0c\u4e16\u754c\uff01 "
    "\uc548\ub155\ud558\uc138\uc694",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd "
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "<|endoftext|> a <|im_start|>user\nhi<|im_end|>\n<|eot_id|><think>x</think> <|no_token|>",
)
TALK = [
    {"role": "system", "content": "Answer in one line."},
    {"role": "user", "content": "How high is the tide?"},
    {"role": "assistant", "content": "2 metres,  it\u2019s rising."},
    {"role": "user", "content": " And at 12:30?\nThanks!"},
]


def trained(rule=None):
    """A vocabulary that is trained here, split by a rule of llama.cpp's."""
    bpe = BytePairTokenizer.train(load_text("the-tide-clock"), 600, progress=False)
    if rule is None:
        return bpe
    return BytePairTokenizer.from_gguf({**bpe.to_gguf(600), KEY + "pre": rule})


def published(name):
    """A published tokenizer, its template, and what stands for the marks in that."""
    bpe = BytePairTokenizer.from_bytes(published_file(name, "tokenizer.json"))
    config = json.loads(published_file(name, "tokenizer_config.json"))
    return bpe, config["chat_template"], {key: config[key] for key in ("bos_token", "eos_token")}


def smollm2():
    try:
        opened = open_model("smollm2")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return opened.tokenizer, opened.chat_template, {}


VOCABULARIES = {
    "gpt2": lambda: (BytePairTokenizer.gpt2(), None, {}),
    "trained": lambda: (trained(), None, {}),
    "smollm2": smollm2,
    "llama3": lambda: published("llama3"),
    "qwen3": lambda: published("qwen3"),
}


def asked(bpe, path, template=None):
    """llama.cpp with a model of this vocabulary that knows nothing, and has some rows more."""
    sizes = {"vocab_size": bpe.n_vocab + 7, "context_length": 64, "emb_dim": 32, "hidden_dim": 32}
    cfg = LlamaConfig(**sizes, n_heads=2, n_layers=1, tie_weights=True)
    return LlamaCpp(export_gguf(LlamaModel(cfg), path, bpe, chat_template=template))


def rendered(template, marks):
    """The talk as a template makes it, by the rules that transformers renders with."""
    environment = jinja2.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    talk = {"messages": TALK, "add_generation_prompt": True}
    return environment.from_string(template).render(**talk, **marks)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_and_prompts_equal_llama_cpp(name, tmp_path):
    bpe, template, marks = VOCABULARIES[name]()
    with asked(bpe, tmp_path / "m.gguf", template) as theirs:
        for text in (*TEXTS, load_text("the-tide-clock")):
            for special in ("allow", "text"):
                expected = encode(bpe, text, special)
                assert theirs.encode(text, special=special == "allow") == expected, text
        if template is not None:
            # llama.cpp puts the mark in front of a text itself, if the file asks for one.
            prompt = theirs.encode(theirs.rendered(TALK), marks=True)
            assert prompt == encode(bpe, rendered(template, marks))


@pytest.mark.parametrize("rule", SPLITS)
def test_llama_cpp_knows_every_rule_by_its_name(rule, tmp_path):
    bpe = trained(rule)
    with asked(bpe, tmp_path / "m.gguf") as theirs:
        for text in (*TEXTS, load_text("the-tide-clock")[:5000]):
            assert theirs.encode(text) == encode(bpe, text), text


def test_ids_without_a_token_are_never_read(tmp_path):
    bpe = trained()
    with asked(bpe, tmp_path / "m.gguf") as theirs:
        text = "[PAD600] a [PAD601]"
        assert theirs.encode(text) == encode(bpe, text)
