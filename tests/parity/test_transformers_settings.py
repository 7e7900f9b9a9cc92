"""Each key of transformers' GPT-2 configuration: the same logits, or refused by name."""

from __future__ import annotations

import json

import pytest
import torch

import llm_scratch as ls
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.weights.gpt2 import load_gpt2

transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 41, "n_positions": 12, "n_embd": 16, "n_head": 2, "n_layer": 2}
IDS = torch.randint(1, 41, (2, 9), generator=torch.Generator().manual_seed(3))
# For each key a value that is not transformers' own.
TAKEN = {
    **{key: value for key, value in SMALL.items()},
    "n_inner": 64,
    "activation_function": "gelu_pytorch_tanh",
    "resid_pdrop": 0.4,
    "embd_pdrop": 0.4,
    "attn_pdrop": 0.4,
    "initializer_range": 0.5,
    "summary_type": "mean",
    "summary_use_proj": False,
    "summary_activation": "tanh",
    "summary_proj_to_labels": False,
    "summary_first_dropout": 0.3,
    "use_cache": False,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": 5,
    "reorder_and_upcast_attn": True,
    "tie_word_embeddings": False,
    "transformers_version": "4.0.0",
    "architectures": ["GPT2LMHeadModel"],
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict": False,
    "dtype": "float32",
    "chunk_size_feed_forward": 4,
    "id2label": {0: "a", 1: "b", 2: "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "single_label_classification",
    "_name_or_path": "somewhere",
}
REFUSED = {
    "model_type": "llama",
    "activation_function": "relu",
    "layer_norm_epsilon": 1e-3,
    "n_inner": 40,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "add_cross_attention": True,
    "is_encoder_decoder": True,
    "problem_type": "regression",
    "quantization_config": {"bits": 4},
    "auto_map": {"AutoModelForCausalLM": "modeling.Other"},
    "rotary_pct": 0.25,
}


def saved(folder, kind="GPT2LMHeadModel", **settings):
    """A model of transformers in a folder, with numbers far from zero."""
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"))
    values = {**SMALL, **ends, "attn_implementation": "eager", **settings}
    torch.manual_seed(6)
    model = getattr(transformers, kind)(transformers.GPT2Config(**values)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **changes}), encoding="utf-8")


def logits_of(model, ids=IDS):
    with torch.no_grad():
        found = model(ids)
    if not isinstance(found, torch.Tensor):
        found = found[0] if isinstance(found, tuple) else found.logits
    return found


def assert_near(actual, expected, what=""):
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max(), what


def test_every_key_of_gpt2s_configuration_has_a_case():
    keys = transformers.GPT2Config().to_dict().keys()
    assert keys - TAKEN.keys() - REFUSED.keys() == set()


def test_every_setting_that_is_taken_gives_the_logits_of_transformers(tmp_path):
    for key, value in TAKEN.items():
        # transformers' own forward fails without return_dict
        theirs = saved(tmp_path / key, **({} if key == "return_dict" else {key: value}))
        edit_config(tmp_path / key, **{key: value})  # some are not written by transformers
        assert_near(logits_of(load_gpt2(tmp_path / key)), logits_of(theirs), key)


def test_every_setting_that_is_not_taken_is_refused_by_name(tmp_path):
    theirs = saved(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    for key, value in REFUSED.items():
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        edit_config(tmp_path, **{key: value})
        with pytest.raises(WeightsError, match=key):
            load_gpt2(tmp_path)
        if key != "n_inner":
            ours = ls.open_model(tmp_path, need_tokenizer=False, ignore_keys=(key,)).model
            assert_near(logits_of(ours), logits_of(theirs), key)


def test_unknown_settings_pass_where_they_are_off_and_are_named_in_one_warning(tmp_path):
    theirs = saved(tmp_path)
    edit_config(tmp_path, new_switch=False, new_list=[], new_number=0, new_thing=None)
    with pytest.warns(UserWarning, match="new_switch, new_list, new_number, new_thing") as said:
        ours = load_gpt2(tmp_path)
    assert len(said) == 1
    assert_near(logits_of(ours), logits_of(theirs))


def test_classifier_of_transformers_opens_as_a_classifier(tmp_path):
    """transformers reads its head at the last token that is not padding; the classes keep names."""
    labels = {0: "ham", 1: "spam", 2: "eggs"}
    kind = "GPT2ForSequenceClassification"
    theirs = saved(tmp_path / "theirs", kind, id2label=labels, pad_token_id=0)
    for source in (tmp_path / "theirs", tmp_path / "theirs" / "model.safetensors"):
        ours = ls.open_model(source, need_tokenizer=False).model
        assert ours.class_names == ("ham", "spam", "eggs")
        assert_near(logits_of(ours)[:, -1], logits_of(theirs))
    ls.save_model(ours, tmp_path / "ours")
    again = ls.open_model(tmp_path / "ours", need_tokenizer=False).model
    assert again.class_names == ours.class_names
    assert torch.equal(logits_of(again), logits_of(ours))


def test_classifier_of_two_classes_has_no_bias_and_no_tie(tmp_path):
    theirs = saved(tmp_path, "GPT2ForSequenceClassification", pad_token_id=0)
    ours = load_gpt2(tmp_path)
    assert ours.out_head.bias is None
    assert_near(logits_of(ours)[:, -1], logits_of(theirs))
    with pytest.raises(WeightsError, match="has 2 classes and can't be the embedding"):
        load_gpt2(tmp_path, tie_weights=True)


@pytest.mark.parametrize("kind", ["GPT2ForTokenClassification", "GPT2DoubleHeadsModel"])
def test_other_heads_are_refused_by_the_names_of_their_tensors(tmp_path, kind):
    saved(tmp_path, kind)
    with pytest.raises(WeightsError, match=r"not used: (classifier|multiple_choice_head)"):
        load_gpt2(tmp_path)


def test_shards_of_several_types_become_the_widest_and_it_is_said(tmp_path):
    theirs = saved(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    first, *others = sorted((tmp_path / "shards").glob("model-*.safetensors"))
    from safetensors.torch import load_file, save_file

    assert others
    half = {name: tensor.bfloat16() for name, tensor in load_file(first).items()}
    save_file(half, first)
    rounded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "shards", dtype=torch.float32)
    with pytest.warns(UserWarning, match="types bfloat16, float32: all become float32") as said:
        ours = load_gpt2(tmp_path / "shards")
    assert len(said) == 1
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert_near(logits_of(ours), logits_of(rounded.eval()))


def test_shards_without_their_index_name_the_index(tmp_path):
    theirs = saved(tmp_path / "whole")
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors\.index\.json is missing"):
        ls.open_model(tmp_path)
