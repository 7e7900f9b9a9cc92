"""Names of models on the hub, and which files of a repository are needed."""

from __future__ import annotations

import pytest

from llm_scratch.weights.hub_files import Needed, needed_files
from llm_scratch.weights.hub_names import (
    HubName,
    hub_name_of,
    is_hub_name,
    is_safe,
    parse_hub_name,
)

NAMES = {
    "hub:org/name": HubName("org/name"),
    "hub:Org-1/a.b_c@v1.0": HubName("Org-1/a.b_c", revision="v1.0"),
    "hub:org/name@refs/pr/3": HubName("org/name", revision="refs/pr/3"),
    "hub:org/name/m-Q4_K.gguf": HubName("org/name", "m-Q4_K.gguf"),
    "hub:org/name/sub/m.gguf@main": HubName("org/name", "sub/m.gguf", "main"),
}


@pytest.mark.parametrize("text", NAMES)
def test_parse_hub_name_reads_what_it_writes(text):
    assert is_hub_name(text)
    assert parse_hub_name(text) == NAMES[text]
    assert str(NAMES[text]) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hub:", "the forms are hub:ORG/NAME"),
        ("hub:name", "does not name a model on the hub"),
        ("hub:org/", "does not name a model"),
        ("hub:/name", "does not name a model"),
        ("hub:org/na me", "does not name a model"),
        ("hub:org/../name", "does not name a model"),
        ("hub:../name", "does not name a model"),
        ("hub:org/a--b", "does not name a model"),
        ("hub:org/name.git", "does not name a model"),
        ("hub:https://somewhere/org/name", "does not name a model"),
        ("hub:org/name/", "not the path of a file"),
        ("hub:org/name/../m.gguf", "not the path of a file"),
        ("hub:org/name//etc/m.gguf", "not the path of a file"),
        (r"hub:org/name/..\m.gguf", "not the path of a file"),
        ("hub:org/name/C:m.gguf", "not the path of a file"),
        ("hub:org/name@", "not a branch"),
        ("hub:org/name@../../x", "not a branch"),
        ("hub:org/name@a b", "not a branch"),
        ("hub:org/name@v1/m.gguf", "the revision is not last: hub:ORG/NAME/FILE@REVISION"),
    ],
)
def test_parse_hub_name_refuses(text, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_hub_name(text)
    assert "\n" not in str(caught.value)


def test_hub_name_of_takes_what_other_programs_write():
    assert hub_name_of("org/name") == "hub:org/name"
    assert hub_name_of("org/name", "v1") == "hub:org/name@v1"
    assert hub_name_of("org/name", None) == "hub:org/name"
    for text in ("gpt2", "/models/mine", "../model", "a/b/c", r"C:\models\mine", "org/a--b", ""):
        assert hub_name_of(text) is None
    with pytest.raises(ValueError, match="not a branch"):
        parse_hub_name(hub_name_of("org/name", "../x"))


def test_is_safe_holds_for_paths_that_stay_where_they_are():
    assert all(map(is_safe, ("m.gguf", "sub/m.gguf", "a b.txt", "..a", "é.json")))
    unsafe = ("", "/m", "../m", "a/../m", "a/./m", "a//m", r"..\m", "C:m", "a\x1b[2J", "a\n", "a/")
    assert not any(map(is_safe, unsafe))


CONFIG = ("config.json", "generation_config.json")
TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
OTHERS = ("README.md", ".gitattributes", "original/params.json", "original/consolidated.00.pth",
          "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "modeling_x.py",
          "onnx/config.json", "merges.txt", "vocab.json", "special_tokens_map.json")  # fmt: skip
NAME = HubName("org/name")


def test_needed_files_are_one_form_of_weights_and_what_belongs_to_them():
    whole = (*CONFIG, "chat_template.jinja", *TOKENIZER)
    assert needed_files(NAME, {*whole, *OTHERS, "model.safetensors"}) == Needed(
        whole, "model.safetensors"
    )
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = "model.safetensors.index.json"
    assert needed_files(NAME, {*whole, *OTHERS, *shards, index}) == Needed(whole, index)
    assert needed_files(NAME, {*whole, *OTHERS}) == Needed(whole, "pytorch_model.bin")


def test_needed_files_take_one_tokenizer():
    listed = {"config.json", "model.safetensors", "vocab.json", "merges.txt", "vocab.bpe"}
    assert needed_files(NAME, listed).beside == ("config.json", "merges.txt", "vocab.json")
    ours = {"model.safetensors", "tokenizer-0123abcd.json", "tokenizer-else.json"}
    assert needed_files(NAME, ours).beside == ("tokenizer-0123abcd.json",)


def test_needed_files_of_an_adapter_are_its_own():
    listed = {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin",
              "model.safetensors", "tokenizer.json", "optimizer.pt"}  # fmt: skip
    found = needed_files(NAME, listed)
    assert found == Needed(("adapter_config.json", "tokenizer.json"), "adapter_model.safetensors")
    found = needed_files(NAME, listed - {"adapter_model.safetensors"})
    assert found.weights == "adapter_model.bin"


def test_needed_files_of_a_gguf_is_that_alone():
    listed = {"README.md", "config.json", "a-Q4.gguf"}
    assert needed_files(NAME, listed) == Needed((), "a-Q4.gguf")
    listed |= {"b/Q8.gguf", "model.safetensors"}
    assert needed_files(HubName("org/name", "b/Q8.gguf"), listed) == Needed((), "b/Q8.gguf")
    assert needed_files(NAME, listed).weights == "model.safetensors"


def test_needed_files_of_another_named_file_are_those_beside_it():
    listed = {"config.json", "sub/config.json", "sub/tokenizer.json", "sub/m.pth"}
    found = needed_files(HubName("org/name", "sub/m.pth"), listed)
    assert found == Needed(("sub/config.json", "sub/tokenizer.json"), "sub/m.pth")


@pytest.mark.parametrize(
    ("listed", "file", "kind", "complaint"),
    [
        (("a.gguf", "b.gguf"), None, ValueError,
         "several GGUF files; name one, such as hub:org/name/a.gguf@v1: a.gguf, b.gguf"),
        (tuple(f"{n:03}.gguf" for n in range(50)), None, ValueError, "039.gguf and 10 more"),
        (("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"), None, ValueError, "in parts"),
        (("m-00001-of-00002.gguf",), "m-00001-of-00002.gguf", ValueError, "--merge"),
        (("README.md",), None, FileNotFoundError, "nor a GGUF file; other weights: none$"),
        (("model.onnx", "consolidated.00.pth"), None, FileNotFoundError,
         "other weights: consolidated.00.pth, model.onnx; hub:org/name/FILE opens one that ends"),
        (("model.onnx",), None, FileNotFoundError, "other weights: model.onnx$"),
        (("adapter_config.json", "model.safetensors"), None, FileNotFoundError,
         "holds none of adapter_model.safetensors, adapter_model.bin, nor"),
        (("a.gguf",), "c.gguf", FileNotFoundError,
         "hub:org/name/c.gguf@v1 does not exist; files of weights there: a.gguf"),
        (("train.py",), "train.py", ValueError, "train.py is not a file of weights"),
    ],
)  # fmt: skip
def test_needed_files_says_what_there_is(listed, file, kind, complaint):
    with pytest.raises(kind, match=complaint) as caught:
        needed_files(HubName("org/name", file, "v1"), listed)
    assert "\n" not in str(caught.value)
