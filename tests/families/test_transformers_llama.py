"""Models of transformers' Llama, Mistral and Qwen: opened here, trained a step, and back again."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

transformers = pytest.importorskip("transformers")

from their_models import CONTEXT, KINDS, VOCABULARY, random_model  # noqa: E402

from llm_scratch.opening import open_model  # noqa: E402
from llm_scratch.weights.export import export_huggingface  # noqa: E402
from llm_scratch.weights.llama_names import our_name  # noqa: E402

SEEDS = range(9)


def ids_for(seed: int, rows: int = 2, length: int = 40) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    """Within 1e-5 of the largest: sums of float32 numbers in another order."""
    difference, largest = (float(part.detach().abs().max()) for part in (ours - theirs, theirs))
    assert difference <= 1e-5 * largest, what


def loss_of(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def open_here(theirs, folder):
    theirs.save_pretrained(folder)
    return open_model(folder, need_tokenizer=False).model


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_equal_transformers(tmp_path, kind):
    for seed in SEEDS:
        theirs = random_model(kind, seed)
        ours = open_here(theirs, tmp_path / str(seed))
        ids = ids_for(seed)
        logits, expected = ours(ids), theirs(ids).logits
        assert_near(logits, expected, f"{kind} {seed}: {theirs.config}")
        loss_of(logits, ids).backward()
        loss_of(expected, ids).backward()
        theirs.save_pretrained(tmp_path / "gradients", state_dict=gradients_of(theirs))
        found = gradients_in(tmp_path / "gradients")
        largest = max(float(grad.abs().max()) for grad in found.values())
        parameters = dict(ours.named_parameters())
        assert {n for n, p in parameters.items() if p.grad is not None} >= found.keys() - {
            "out_head.weight"
        }
        for name, grad in found.items():
            if name in parameters and parameters[name].grad is not None:
                difference = float((parameters[name].grad - grad).abs().max())
                assert difference <= 1e-5 * largest, f"{kind} {seed}: {name}"


def gradients_of(model) -> dict[str, torch.Tensor]:
    """Gradients by the names of transformers' state dict, zeros where an expert saw no token."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
    }


def gradients_in(folder) -> dict[str, torch.Tensor]:
    """By our names, as transformers writes experts into files: one matrix each."""
    from safetensors.torch import load_file

    return {our_name(name): grad for name, grad in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize("kind", KINDS)
def test_exported_models_open_in_transformers_and_come_back(tmp_path, kind):
    for seed in SEEDS:
        ours = open_here(random_model(kind, seed), tmp_path / f"{seed}")
        folder = export_huggingface(ours, tmp_path / f"{seed} out", max_shard_size=4000)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = ids_for(seed)
        assert_near(ours(ids), theirs(ids).logits, f"{kind} {seed}")
        again = open_model(folder, need_tokenizer=False).model
        assert again.cfg == ours.cfg
        for (name, tensor), other in zip(
            again.state_dict().items(), ours.state_dict().values(), strict=True
        ):
            assert torch.equal(tensor, other), name


def test_generation_past_the_window_equals_transformers(tmp_path):
    theirs = random_model("Mistral", 3)
    theirs.config.sliding_window = 5
    ours = open_here(theirs, tmp_path)
    assert ours.cfg.sliding_window == 5
    ids = ids_for(1, rows=1, length=CONTEXT)
    assert_near(ours(ids), theirs(ids).logits, "a long text")


def test_files_of_bfloat16_stay_bfloat16(tmp_path):
    theirs = random_model("Qwen2", 1).to(torch.bfloat16)
    ours = open_here(theirs, tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
