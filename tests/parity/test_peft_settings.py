"""Adapters that PEFT made for transformers' GPT-2: every setting is applied, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch
from torch.testing import assert_close

import llm_scratch as ls
from llm_scratch.lora.layers import lora_layers
from llm_scratch.lora.loading import load_adapter
from llm_scratch.lora.saving import save_adapter
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.weights.gpt2 import load_gpt2

pytestmark = pytest.mark.slow

IDS = torch.randint(0, 61, (2, 11), generator=torch.Generator().manual_seed(1))
ALL = ["c_attn", "c_proj", "c_fc"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def peft():
    return pytest.importorskip("peft", reason="pip install -e '.[peers]' brings PEFT")


def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a small GPT-2 of transformers whose numbers are all far from zero."""
    config = transformers().GPT2Config(
        vocab_size=61, n_positions=16, n_embd=24, n_head=3, n_layer=2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(2)
    model = transformers().GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return folder


def opened(base):
    return transformers().AutoModelForCausalLM.from_pretrained(base).eval()


def adapter(base, folder, **settings):
    """Save an adapter of PEFT's in a folder and return what PEFT makes of it, read back."""
    options = {"target_modules": ALL, "fan_in_fan_out": True, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft().get_peft_model(opened(base), peft().LoraConfig(**options))
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        loaded = peft().PeftModel.from_pretrained(opened(base), folder).eval()
    with torch.no_grad():
        return loaded(IDS).logits


def ours(base, folder, **options):
    model = load_gpt2(base)
    load_adapter(model, folder, **options)
    with torch.no_grad():
        return model.eval()(IDS)


REGEX = r".*\.h\.[01]\.(attn\.c_attn|mlp\.c_proj)"
EITHER = {r"h\.[1-9]\.attn\.c_(attn|proj)": 5, "^transformer.h.0.mlp.c_fc": 3, "c_fc": 2}


def applied():
    """For each key that is taken: settings other than PEFT's own."""
    return {
        "r": [{"r": 3}],
        "lora_alpha": [{"lora_alpha": 5}, {"lora_alpha": 32, "r": 2}],
        "target_modules": [{"target_modules": "all-linear"}, {"target_modules": REGEX}],
        "exclude_modules": [{"exclude_modules": ["c_fc"]}, {"exclude_modules": r".*h\.0.*"}],
        "layers_to_transform": [{"layers_to_transform": [1]}],
        "layers_pattern": [{"layers_to_transform": [0], "layers_pattern": "h"}],
        "rank_pattern": [{"rank_pattern": EITHER}],
        "alpha_pattern": [
            {"alpha_pattern": EITHER},
            {"alpha_pattern": EITHER, "rank_pattern": EITHER},
        ],
        "use_rslora": [{"use_rslora": True}, {"use_rslora": True, "rank_pattern": EITHER}],
        "bias": [{"bias": "all"}, {"bias": "lora_only"}],
        "modules_to_save": [
            {"modules_to_save": ["ln_f", "wpe"]},
            {"modules_to_save": ["c_attn", "c_proj"], "target_modules": ["c_fc"]},
            {"modules_to_save": ["lm_head"]},
            {"modules_to_save": ["wte"]},
            {"target_modules": ["lm_head"]},
        ],
        "init_lora_weights": [
            {"init_lora_weights": way} for way in (False, "gaussian", "orthogonal", "eva", "mica")
        ],
        "lora_dropout": [{"lora_dropout": 0.3}],
        "fan_in_fan_out": [{"fan_in_fan_out": False}],
        "task_type": [{"task_type": "CAUSAL_LM"}],
        "inference_mode": [{"inference_mode": True}],
        "revision": [{"revision": "main"}],
        "megatron_core": [{"megatron_core": "other.core"}],
        "qalora_group_size": [{"qalora_group_size": 8}],
        "runtime_config": [
            {"runtime_config": peft().LoraRuntimeConfig(ephemeral_gpu_offload=True)}
        ],
        "loftq_config": [{"loftq_config": {"loftq_bits": 4}}],
        "eva_config": [{"eva_config": peft().EvaConfig()}],
        "corda_config": [{"corda_config": peft().tuners.lora.config.CordaConfig()}],
        "lora_ga_config": [{"lora_ga_config": peft().tuners.lora.config.LoraGAConfig()}],
        "peft_version": [{"peft_version": "0.5.0"}],
        "base_model_name_or_path": [{"base_model_name_or_path": "elsewhere"}],
        "auto_mapping": [{"auto_mapping": {"parent_library": "x", "base_model_class": "y"}}],
    }


REFUSED = {
    "peft_type": ["IA3", "ADALORA"],
    "init_lora_weights": ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "new"],
    "use_dora": [True],
    "use_qalora": [True],
    "lora_bias": [True],
    "ensure_weight_tying": [True],
    "layer_replication": [[[0, 2], [1, 2]]],
    "target_parameters": [["x.weight"]],
    "trainable_token_indices": [[1, 2], {"wte": [3]}],
    "alora_invocation_tokens": [[4]],
    "megatron_config": [{"a": 1}],
    "velora_config": [{"rank": 1}],
    "monteclora_config": [{"a": 1}],
    "arrow_config": [{"top_k": 3}],
    "kasa_config": [{"a": 1}],
    "use_bdlora": [{"nblocks": 2}],
    "bias": ["some"],
    "rank_pattern": [{"(": 2}],
    "alpha_pattern": [{"(": 2}],
}


def test_every_key_of_peft_has_a_rule_and_a_case():
    fields = {field.name for field in dataclasses.fields(peft().LoraConfig)}
    assert applied().keys() | REFUSED.keys() == fields


def test_every_setting_that_is_taken_gives_the_outputs_of_peft(base, tmp_path):
    with torch.no_grad():
        plain = load_gpt2(base)(IDS)
    for key, cases in applied().items():
        for number, settings in enumerate(cases):
            folder = tmp_path / f"{key}{number}"
            expected = adapter(base, folder, **settings)
            off = (ours(base, folder) - expected).abs().max()
            assert off <= 1e-5 * expected.abs().max(), settings
            assert (expected - plain).abs().max() > 0.05, settings


def test_every_setting_that_is_not_taken_is_refused_by_name(base, tmp_path):
    expected = adapter(base, tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, values in REFUSED.items():
        for value in values:
            path.write_text(json.dumps({**config, key: value}), encoding="utf-8")
            with pytest.raises(WeightsError, match="type" if key == "peft_type" else key):
                ours(base, tmp_path)
            if key not in ("peft_type", "rank_pattern", "alpha_pattern"):
                assert_close(ours(base, tmp_path, ignore_keys=(key,)), expected, **CLOSE)


def test_unknown_keys_pass_where_they_are_off_and_are_named_in_one_warning(base, tmp_path):
    expected = adapter(base, tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    new = {"a_new_switch": False, "a_new_list": [], "a_new_number": 0, "a_new_thing": None}
    path.write_text(json.dumps({**config, **new}), encoding="utf-8")
    with pytest.warns(UserWarning, match=", ".join(new)) as said:
        assert_close(ours(base, tmp_path), expected, **CLOSE)
    assert len(said) == 1
    path.write_text(json.dumps({**config, "a_new_switch": True}), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"a_new_switch='True'.*ignore_keys=\('a_new_switch',\)"):
        ours(base, tmp_path)


def test_fused_matrices_become_three_layers_that_share_one_a(base, tmp_path):
    adapter(base, tmp_path, target_modules=["c_attn"], r=2)
    model = load_gpt2(base)
    load_adapter(model, tmp_path)
    layers = lora_layers(model)
    assert list(layers) == [
        f"trf_blocks.{n}.att.{name}" for n in (0, 1) for name in ("W_query", "W_key", "W_value")
    ]
    first = layers["trf_blocks.0.att.W_query"].lora
    assert torch.equal(first.A, layers["trf_blocks.0.att.W_value"].lora.A)
    assert first.B.shape == (2, 24)


def test_adapter_for_transformers_gpt2_opens_by_its_base_and_goes_back_to_peft(base, tmp_path):
    expected = adapter(base, tmp_path / "theirs", base_model_name_or_path=str(base))
    path = tmp_path / "theirs" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(base)
    model = ls.open_model(tmp_path / "theirs", need_tokenizer=False).model
    with torch.no_grad():
        assert_close(model(IDS), expected, **CLOSE)
    save_adapter(model, tmp_path / "ours")
    again = peft().PeftModel.from_pretrained(load_gpt2(base), tmp_path / "ours")
    with torch.no_grad():
        assert_close(again(IDS), expected, **CLOSE)


def test_adapter_of_a_classifier_brings_its_head(base, tmp_path):
    """PEFT keeps `score` beside LoRA; it becomes the head, with the classes' number."""
    torch.manual_seed(8)
    whole = transformers().GPT2ForSequenceClassification.from_pretrained(base, num_labels=3)
    whole.config.pad_token_id = 0
    config = peft().LoraConfig(task_type="SEQ_CLS", target_modules=ALL, fan_in_fan_out=True)
    theirs = peft().get_peft_model(whole, config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    ids = IDS.clamp(min=1)
    model = load_gpt2(base)
    load_adapter(model, tmp_path)
    with torch.no_grad():
        assert_close(model(ids)[:, -1], theirs(ids).logits, **CLOSE)


def test_wider_matrices_than_the_model_are_said(base, tmp_path):
    adapter(base, tmp_path)
    with pytest.warns(UserWarning, match=r"are torch.float32 and become torch.bfloat16"):
        load_adapter(load_gpt2(base, dtype=torch.bfloat16), tmp_path)
