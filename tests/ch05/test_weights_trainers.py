"""`load_gpt2` on what other programs save while they train: nanoGPT, Lightning and others."""

from __future__ import annotations

import argparse
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import llm_scratch as ls
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.training.simple import load_checkpoint, save_checkpoint
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_names import to_hugging_face

CFG = GPTConfig(vocab_size=64, context_length=10, emb_dim=12, n_heads=3, n_layers=2, qkv_bias=True)
ARGS = {"n_layer": 2, "n_head": 3, "n_embd": 12, "block_size": 10, "vocab_size": 64, "dropout": 0.1}
IDS = torch.tensor([[1, 7, 3, 60], [4, 4, 8, 0]])
GELU_SAID = pytest.mark.filterwarnings("ignore:.*computes? GELU exactly:UserWarning")


def random_model(cfg=CFG):
    torch.manual_seed(7)
    model = GPTModel(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def nanogpt_state(bias, prefix=""):
    """nanoGPT's names and shapes: every matrix as (out, in), the head one with the embedding."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    state = {"transformer.wte.weight": draw(64, 12), "transformer.wpe.weight": draw(10, 12)}
    layers = {"attn.c_attn": (36, 12), "attn.c_proj": (12, 12)}
    layers |= {"mlp.c_fc": (48, 12), "mlp.c_proj": (12, 48)}
    for block in ("transformer.h.0.", "transformer.h.1."):
        for name, shape in layers.items():
            state[f"{block}{name}.weight"] = draw(*shape)
            state |= {f"{block}{name}.bias": draw(shape[0])} if bias else {}
        for name in ("ln_1", "ln_2"):
            state[f"{block}{name}.weight"] = draw(12)
            state |= {f"{block}{name}.bias": draw(12)} if bias else {}
        state[f"{block}attn.bias"] = torch.ones(10, 10).tril().view(1, 1, 10, 10)
    state["transformer.ln_f.weight"] = draw(12)
    state |= {"transformer.ln_f.bias": draw(12)} if bias else {}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return {prefix + name: tensor for name, tensor in state.items()}


def nanogpt_logits(state, ids, approximate):
    """The forward pass of such a state dict, written out: (B, T) ids -> (B, T, V)."""
    B, T = ids.shape

    def get(name):
        return state.get(f"transformer.{name}")

    def linear(x, name):
        return F.linear(x, get(f"{name}.weight"), get(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, (12,), get(f"{name}.weight"), get(f"{name}.bias"))

    x = get("wte.weight")[ids] + get("wpe.weight")[:T]
    for block in ("h.0", "h.1"):
        parts = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").chunk(3, dim=-1)
        q, k, v = (part.view(B, T, 3, 4).transpose(1, 2) for part in parts)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(context.transpose(1, 2).reshape(B, T, 12), f"{block}.attn.c_proj")
        hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + linear(F.gelu(hidden, approximate=approximate), f"{block}.mlp.c_proj")
    return norm(x, "ln_f") @ state["lm_head.weight"].T


@GELU_SAID
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_load_gpt2_opens_nanogpts_checkpoint(tmp_path, bias, prefix):
    state = nanogpt_state(bias)
    checkpoint = {
        "model": nanogpt_state(bias, prefix),
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": {**ARGS, "bias": bias},
        "iter_num": 5000,
        "best_val_loss": torch.tensor(1.5),
        "config": {"n_layer": 2, "learning_rate": 1e-3, "dataset": "shakespeare"},
    }
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    opened = ls.open_model(tmp_path / "ckpt.pt", need_tokenizer=False)
    model = opened.model
    assert (model.cfg.n_heads, model.cfg.qkv_bias, model.cfg.tie_weights) == (3, bias, True)
    torch.testing.assert_close(model(IDS), nanogpt_logits(state, IDS, "tanh"))
    exact = nanogpt_logits(state, IDS, "none")
    assert (model(IDS) - exact).abs().max() < 0.01 * exact.abs().max()


def test_nanogpts_other_gelu_is_said(tmp_path):
    torch.save({"model": nanogpt_state(True), "model_args": ARGS}, tmp_path / "ckpt.pt")
    with pytest.warns(UserWarning, match="compute GELU exactly"):
        load_gpt2(tmp_path / "ckpt.pt")


@GELU_SAID
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_layer": 3}, "its tensors say n_layers=2, the file says 3"),
        ({"vocab_size": 50304}, "vocab_size=64, the file says 50304"),
        ({"n_head": "3"}, "model_args are of the wrong kind"),
        ({"rotary": True}, r"rotary='True'.*ignore_keys=\('rotary',\)"),
    ],
)
def test_nanogpts_sizes_are_compared_with_its_tensors(tmp_path, changes, match):
    content = {"model": nanogpt_state(True), "model_args": {**ARGS, **changes}}
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(WeightsError, match=match):
        load_gpt2(tmp_path / "ckpt.pt")


@GELU_SAID
def test_one_missing_bias_is_not_taken_for_none(tmp_path):
    state = nanogpt_state(True)
    del state["transformer.h.1.ln_2.bias"]
    torch.save({"model": state, "model_args": ARGS}, tmp_path / "ckpt.pt")
    with pytest.raises(WeightsError, match=r"1 missing: trf_blocks\.1\.norm2\.shift"):
        load_gpt2(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("place", ["model_state_dict", "state_dict", "model", "module"])
@pytest.mark.parametrize("prefix", ["", "model.", "net.gpt.", "_orig_mod.model."])
def test_load_gpt2_finds_the_model_in_what_trainers_save(tmp_path, place, prefix):
    model = random_model()
    theirs = to_hugging_face(dict(model.state_dict()), CFG)
    for state in (model.state_dict(), theirs):
        inside = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        more = {"epoch": 3, "optimizer_states": [], "hyper_parameters": {"lr": 0.1, "name": "x"}}
        torch.save({place: inside, **more}, tmp_path / "last.ckpt")
        loaded = load_gpt2(tmp_path / "last.ckpt", config=CFG)
        torch.testing.assert_close(loaded.state_dict(), dict(model.state_dict()), rtol=0, atol=0)


def test_load_gpt2_refuses_to_choose_between_two_models(tmp_path):
    state = random_model().state_dict()
    torch.save({"model": state, "state_dict": state}, tmp_path / "m.pt")
    with pytest.raises(WeightsError, match="holds models under state_dict and model"):
        load_gpt2(tmp_path / "m.pt", config=CFG)


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(WeightsError, match="'model' is a dict; a state dict holds tensors"):
        load_gpt2(tmp_path / "m.pt", config=CFG)


def test_load_gpt2_names_what_lies_beside_the_model(tmp_path):
    """A module's other tensors, as a loss or a metric of Lightning's, are named and not dropped."""
    state = {f"model.{name}": tensor for name, tensor in random_model().state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(3)}}, tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match=r"1 not used: loss\.weight"):
        load_gpt2(tmp_path / "last.ckpt", config=CFG)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (argparse.Namespace(lr=0.1), r"argparse\.Namespace"),
        (np.float64(1.5), r"numpy\S*\.scalar"),
    ],
    ids=["namespace", "numpy"],
)
def test_objects_beside_the_model_are_named_and_not_run(tmp_path, extra, named, zipped):
    path = tmp_path / "ckpt.pt"
    content = {"model": random_model().state_dict(), "args": extra}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=rf"{named}.*it was not run; torch.save the state_dict"):
        load_gpt2(path, config=CFG)


def test_a_pickle_that_torch_did_not_write_is_no_file_of_weights(tmp_path):
    path = tmp_path / "weights.pt"
    for content in ({"a": 1}, random_model(), [1.5]):
        path.write_bytes(pickle.dumps(content))
        for read in (load_gpt2, lambda path: load_checkpoint(path, random_model())):
            with pytest.raises(ValueError, match="torch.save did not write.* was not run"):
                read(path)


def test_every_flipped_bit_of_a_state_dict_is_seen(tmp_path):
    """The archive's own checksums are compared, by the book's reader and by `load_gpt2`."""
    model = random_model()
    path = tmp_path / "model.pth"
    save_checkpoint(path, model, torch.optim.SGD(model.parameters(), lr=0.1))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    places = range(largest.header_offset + 200, len(content) - 1, len(content) // 40)
    before = model.state_dict()["tok_emb.weight"].clone()
    for place in places:
        flipped = content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :]
        path.write_bytes(flipped)
        try:
            loaded = load_gpt2(path, config=CFG)
        except WeightsError:
            with pytest.raises(ValueError, match=r"model\.pth"):
                load_checkpoint(path, model)
        else:  # a bit that nothing depends on, as of a date
            torch.testing.assert_close(loaded.state_dict(), dict(model.state_dict()))
    assert torch.equal(model.state_dict()["tok_emb.weight"], before)
    with zipfile.ZipFile(path) as archive:
        data = archive.getinfo(largest.filename)
    middle = data.header_offset + data.file_size // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :])
    with pytest.raises(WeightsError, match="the checksum of .* does not match; use another copy"):
        load_gpt2(path, config=CFG)


def test_a_file_that_was_saved_without_checksums_opens(tmp_path):
    model = random_model()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model.state_dict(), tmp_path / "model.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    loaded = load_gpt2(tmp_path / "model.pth", config=CFG)
    torch.testing.assert_close(loaded.state_dict(), dict(model.state_dict()))
