"""Adapters on disk: what is in them, onto which base they go, and damaged files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llm_scratch.lora.layers import (
    lora_layers,
    merge_lora,
    replace_linear_with_lora,
    trainable_parameters,
)
from llm_scratch.lora.loading import adapter_base, load_adapter
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer

SIZES = {"vocab_size": 300, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
IDS = torch.tensor([[1, 7, 3, 9, 22], [4, 4, 8, 0, 49]])
PREFIX = "base_model.model.trf_blocks"


def build(seed=1, classes=None, **options):
    torch.manual_seed(seed)
    model = GPTModel({**SIZES, "drop_rate": 0.0, "qkv_bias": True, **options}).eval()
    if classes:
        model.out_head = nn.Linear(model.cfg.emb_dim, classes)
    return model


def tuned(model, rank=4, alpha=8, targets=None, seed=2):
    """The model with LoRA that changes what it says, as if it had been trained."""
    replace_linear_with_lora(model, rank, alpha, targets=targets, freeze_base=True)
    torch.manual_seed(seed)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora.B, std=0.2)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with an adapter for the queries and values of `build()`."""
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(tuned(build(), targets=["W_query", "W_value"]), folder, base="models/small")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it, to damage."""
    return shutil.copytree(saved, tmp_path / "adapter")


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def edit_tensors(folder, change):
    """Write the matrices again, without this library's checksums."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    edit_config(folder, auto_mapping=None)


def test_adapter_holds_the_matrices_alone_by_the_names_of_peft(saved):
    assert {p.name for p in saved.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    tensors = load_file(saved / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        f"{PREFIX}.{block}.att.{layer}.lora_{matrix}.weight": shape
        for block in (0, 1)
        for layer in ("W_query", "W_value")
        for matrix, shape in (("A", (4, 16)), ("B", (16, 4)))
    }


def test_adapter_config_says_what_peft_needs(saved):
    config = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"], config["bias"]) == (4, 8, "none")
    assert config["target_modules"] == [
        f"trf_blocks.{block}.att.{layer}" for block in (0, 1) for layer in ("W_query", "W_value")
    ]
    assert config["modules_to_save"] is None
    assert config["base_model_name_or_path"] == adapter_base(saved) == "models/small"


def test_loaded_adapter_says_what_the_saved_one_did(saved):
    expected = tuned(build(), targets=["W_query", "W_value"])(IDS)
    model = build()
    assert load_adapter(model, saved) is None
    torch.testing.assert_close(model(IDS), expected)
    assert all(".lora." in name for name in trainable_parameters(model))
    assert len(trainable_parameters(model)) == 8


def test_adapter_loads_onto_a_model_that_has_the_same_layers(saved):
    model = tuned(build(), targets=["W_query", "W_value"], seed=9)
    merge_lora(model)
    load_adapter(model, saved)
    torch.testing.assert_close(model(IDS), tuned(build(), targets=["W_query", "W_value"])(IDS))


def test_loading_draws_nothing_random(saved):
    model = build()
    before = torch.get_rng_state()
    load_adapter(model, saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_adapter_keeps_ranks_and_alphas_that_differ(tmp_path):
    model = build()
    for rank, alpha, target in ((2, 2, "W_query"), (2, 5.0, "W_key"), (3, 2, "trf_blocks.1.ff")):
        tuned(model, rank, alpha, target)
    save_adapter(model, tmp_path)
    loaded = build()
    load_adapter(loaded, tmp_path)
    torch.testing.assert_close(loaded(IDS), model(IDS))


def test_adapter_brings_its_tokenizer(tmp_path):
    tokenizer = BytePairTokenizer.train("the tide came in, and the clock stood still " * 9, 270)
    save_adapter(tuned(build()), tmp_path, tokenizer)
    assert fingerprint(load_adapter(build(), tmp_path)) == fingerprint(tokenizer)


def test_save_adapter_refuses_a_tokenizer_with_more_ids_than_the_model(tmp_path):
    tokenizer = BytePairTokenizer.train("the tide came in, and the clock stood still " * 9, 270)
    with pytest.raises(ValueError, match="do not belong together"):
        save_adapter(tuned(build(vocab_size=260)), tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


def test_adapter_brings_the_head_for_classes_under_lora(tmp_path):
    model = tuned(build(classes=3))
    save_adapter(model, tmp_path)
    other_head = build()
    load_adapter(other_head, tmp_path)
    torch.testing.assert_close(other_head(IDS), model(IDS))
    assert other_head(IDS).shape == (2, 5, 3)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    kept = {f"base_model.model.out_head.base_layer.{kind}" for kind in ("weight", "bias")}
    assert {name for name in names if "lora" not in name} == kept


def test_adapter_brings_the_parts_that_learn_beside_it(tmp_path):
    model = build(classes=3)
    tuned(model, targets=["trf_blocks"])
    for part in (model.out_head, model.final_norm):
        part.requires_grad_(True)
    nn.init.normal_(model.final_norm.scale)
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["modules_to_save"] == ["final_norm", "out_head"]
    loaded = build()
    load_adapter(loaded, tmp_path)
    torch.testing.assert_close(loaded(IDS), model(IDS))
    assert trainable_parameters(loaded).keys() == trainable_parameters(model).keys()


def test_adapter_on_a_tied_model_leaves_the_tie(tmp_path):
    with pytest.warns(UserWarning, match="out_head"):
        model = tuned(build(tie_weights=True))
    save_adapter(model, tmp_path)
    loaded = build(tie_weights=True)
    load_adapter(loaded, tmp_path)
    torch.testing.assert_close(loaded(IDS), model(IDS))
    assert loaded.out_head.weight is loaded.tok_emb.weight


def test_save_adapter_refuses_a_base_that_learns(tmp_path):
    model = build()
    replace_linear_with_lora(model, 2, 2, targets="W_query")
    with pytest.raises(ValueError, match=r"W_query learns beside its LoRA.*freeze\(model\)"):
        save_adapter(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_save_adapter_refuses_a_model_without_lora(tmp_path):
    with pytest.raises(ValueError, match="no LoRA to save"):
        save_adapter(build(), tmp_path)


def test_adapter_is_refused_on_another_base_and_says_what_differs(saved):
    model = build()
    with torch.no_grad():
        model.trf_blocks[1].att.W_query.weight[3, 3] += 1e-3
    state = {name: t.clone() for name, t in model.state_dict().items()}
    named = r"another base, [0-9a-f]{16}, this model is [0-9a-f]{16}: 1 of 37 tensors differ, "
    with pytest.raises(WeightsError, match=named + r"the first is trf_blocks.1.att.W_query.weight"):
        load_adapter(model, saved)
    assert model.state_dict().keys() == state.keys()
    load_adapter(model, saved, check_base=False)
    assert len(lora_layers(model)) == 4


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"n_heads": 4}, "n_heads 2 there, 4 here"),
        ({"vocab_size": 310}, "vocab_size 300 there, 310 here"),
        ({"emb_dim": 32}, "W_query, a layer of (16, 16); the model has one of (32, 32)"),
        ({"n_layers": 1}, "has matrices for trf_blocks.1.att.W_query"),
    ],
)
def test_adapter_is_refused_on_a_base_of_other_sizes(saved, options, what):
    with pytest.raises(WeightsError) as failure:
        load_adapter(build(**options), saved)
    assert what in str(failure.value)


def test_adapter_of_another_type_of_numbers_is_of_another_base(saved):
    with pytest.raises(WeightsError, match="in the same dtype"):
        load_adapter(build().to(torch.bfloat16), saved)


def test_adapter_is_refused_where_other_layers_have_lora(saved):
    model = tuned(build(), targets=["W_query"])
    with pytest.raises(ValueError, match="LoRA in 2 layers, the adapter in 4"):
        load_adapter(model, saved)


def test_load_adapter_says_what_is_missing(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter was saved in"):
        load_adapter(build(), tmp_path / "nothing")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="the adapter's matrices"):
        load_adapter(build(), folder)


def refused(folder, match=None):
    """Loading fails with the one error, and leaves the model as it was."""
    model = build()
    names, said = list(model.state_dict()), model(IDS)
    with pytest.raises(WeightsError, match=match):
        load_adapter(model, folder)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(IDS), said)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "some"}, r"bias='some' \(understood: none, all, lora_only\)"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa'.*ignore_keys=\('init_lora"),
        ({"new_in_peft": [2]}, "new_in_peft"),
        ({"r": 8}, "rank 4, adapter_config.json says 8"),
        ({"r": "4"}, "r=4"),
        ({"r": None}, "r=None"),
        ({"lora_alpha": -1}, "lora_alpha=-1"),
        ({"lora_alpha": [1]}, "lora_alpha"),
        ({"alpha_pattern": [1]}, "alpha_pattern is not an object"),
        ({"alpha_pattern": {"(a+": 3}}, "can't be matched"),
        (
            {"alpha_pattern": {"(.|(.))*(?<!y)": 3}},
            "can't be matched: regex timed out",
        ),
        ({"auto_mapping": {"base_fingerprint": "0" * 16}}, "belong to different adapters"),
        ({"auto_mapping": {"base_fingerprint": 3}}, "belong to different adapters"),
    ],
)
def test_damaged_config_is_refused(folder, changes, match):
    edit_config(folder, **changes)
    refused(folder, match)


def test_config_that_is_no_json_is_refused(folder):
    (folder / "adapter_config.json").write_text("{", encoding="utf-8")
    refused(folder, "damaged")


def test_every_changed_byte_of_the_matrices_is_seen(folder):
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    for place in range(9, len(content), 151):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        refused(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_cut_off_matrices_are_refused(folder, share):
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(folder)


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, tensor):
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop(f"{PREFIX}.0.att.W_query.lora_B.weight"), "not a pair"),
        (put(f"{PREFIX}.0.att.W_query.lora_B.weight", torch.zeros(16, 3)), "not a pair"),
        (put(f"{PREFIX}.0.att.W_query.lora_A.weight", torch.zeros(4)), "not a pair"),
        (put(f"{PREFIX}.0.att.W_query.lora_B.weight", torch.zeros(17, 4)), r"\(17, 16\)"),
        (put("base_model.model.lora_A.weight", torch.zeros(2, 2)), "model has None"),
        (put("trf_blocks.0.x", torch.zeros(2)), "not part of a LoRA adapter"),
        (put("base_model.model.nothing.weight", torch.zeros(2)), "the model has None"),
        (put("base_model.model.out_head.bias", torch.zeros(2)), "is incomplete"),
        (put("base_model.model.final_norm.scale", torch.zeros(3)), r"shape \(3,\)"),
        (put("base_model.model.final_norm.scale", torch.zeros(16).int()), "type torch.int32"),
        (dict.clear, "holds no LoRA"),
    ],
)
def test_matrices_that_fit_nowhere_are_refused(folder, change, match):
    edit_tensors(folder, change)
    refused(folder, match)


@pytest.mark.parametrize("target", ["tok_emb", "final_norm", "trf_blocks.0.att", "nothing"])
def test_matrices_for_what_is_no_linear_layer_are_refused(folder, target):
    def add(tensors):
        tensors[f"base_model.model.{target}.lora_A.weight"] = torch.zeros(4, 16)
        tensors[f"base_model.model.{target}.lora_B.weight"] = torch.zeros(300, 4)

    edit_tensors(folder, add)
    refused(folder, f"matrices for {target}")


def test_matrices_in_a_pickle_with_code_are_refused(folder):
    class Harm:
        def __reduce__(self):
            return print, ("this must not run",)

    (folder / "adapter_model.safetensors").unlink()
    torch.save({f"{PREFIX}.0.x": Harm()}, folder / "adapter_model.bin")
    refused(folder, "holds code")


def test_older_file_of_torch_is_read(folder):
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()
    model = build()
    load_adapter(model, folder)
    torch.testing.assert_close(model(IDS), tuned(build(), targets=["W_query", "W_value"])(IDS))
