"""LoRA adapters between PEFT on transformers' models and this library, both ways."""

from __future__ import annotations

import json

import pytest
import torch

peft = pytest.importorskip("peft", reason="pip install -e '.[peers]' brings PEFT")

from their_models import KINDS, VOCABULARY, random_model  # noqa: E402

from llm_scratch.lora.layers import replace_linear_with_lora  # noqa: E402
from llm_scratch.lora.saving import save_adapter  # noqa: E402
from llm_scratch.opening import open_model  # noqa: E402

pytestmark = pytest.mark.slow
DENSE = [kind for kind in KINDS if kind != "Qwen3Moe"]
IDS = torch.randint(VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(1))


def randomized(model, word: str):
    """Fill matrices so that they move logits by half of these: more amplifies rounding."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if word in name:
                parameter.normal_(0, 0.1, generator=generator)
    return model


def assert_near(ours, theirs):
    difference, largest = (float(part.abs().max()) for part in (ours - theirs, theirs))
    assert difference <= 1e-5 * largest


@pytest.mark.parametrize("kind", DENSE)
def test_an_adapter_of_peft_opens_here(tmp_path, kind):
    for seed in range(3):
        base = random_model(kind, seed)
        base.save_pretrained(tmp_path / f"base{seed}")
        targets = ["q_proj", "v_proj", "down_proj"] if seed else "all-linear"
        config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM")
        theirs = randomized(peft.get_peft_model(base, config), "lora_").eval()
        folder = tmp_path / f"adapter{seed}"
        theirs.save_pretrained(folder)
        said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        said["base_model_name_or_path"] = str(tmp_path / f"base{seed}")
        (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
        ours = open_model(folder, need_tokenizer=False).model
        with torch.no_grad():
            assert_near(ours(IDS), theirs(IDS).logits)


@pytest.mark.parametrize("kind", DENSE)
def test_our_adapter_opens_in_peft(tmp_path, kind):
    for seed in range(3):
        base = random_model(kind, seed)
        base.save_pretrained(tmp_path / f"base{seed}")
        ours = open_model(tmp_path / f"base{seed}", need_tokenizer=False).model
        targets = ["W_query", "W_value", "fc3"] if seed else ["trf_blocks"]
        replace_linear_with_lora(ours, 3, 5, targets=targets, freeze_base=True)
        randomized(ours, "lora.")
        folder = save_adapter(ours, tmp_path / f"ours{seed}", base=tmp_path / f"base{seed}")
        theirs = peft.PeftModel.from_pretrained(base, folder).eval()
        again = open_model(folder, need_tokenizer=False).model
        with torch.no_grad():
            assert_near(theirs(IDS).logits, ours(IDS))
            assert torch.equal(again(IDS), ours(IDS))
