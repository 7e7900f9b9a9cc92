"""`load_gpt2`: every layout in, everything used or named, one model's memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.heads import head_of
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import is_dense, owned
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_names import openai_as_hugging_face
from llm_scratch.weights.parts import compare

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow" / "gpt2_tiny"
CFG = GPTConfig(vocab_size=30, context_length=10, emb_dim=12, n_heads=3, n_layers=2, qkv_bias=True)


def random_model(cfg=CFG):
    torch.manual_seed(7)
    model = GPTModel(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def assert_same(loaded, model):
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def saved(state, tmp_path, name="model.pth", **options):
    torch.save(state, tmp_path / name, **options)
    return tmp_path / name


# TensorFlow's own checkpoint


@pytest.mark.parametrize("path", ["", "model.ckpt", "model.ckpt.index"])
def test_load_gpt2_computes_what_tensorflow_computes(path):
    expected = json.loads((FIXTURE / "logits.json").read_text(encoding="utf-8"))
    model = load_gpt2(FIXTURE / path)
    logits = model(torch.tensor(expected["ids"]))
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), rtol=1e-5, atol=2e-6)
    assert model.cfg == GPTConfig(30, 12, 8, 2, 2, qkv_bias=True, tie_weights=True)


def test_load_gpt2_sees_every_flipped_bit_of_tensorflows_numbers(tmp_path):
    folder = shutil.copytree(FIXTURE, tmp_path / "m")
    path = folder / "model.ckpt.data-00000-of-00001"
    content = path.read_bytes()
    for place in range(0, len(content), 501):
        path.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        with pytest.raises(WeightsError, match="the checksum of 'model/.*' does not match"):
            load_gpt2(folder)


def test_load_gpt2_asks_for_the_heads_where_no_file_says_them(tmp_path):
    folder = shutil.copytree(FIXTURE, tmp_path / "m")
    (folder / "hparams.json").unlink()
    wanted = r"how many attention heads.*n_heads= or config=.*--n-heads N"
    with pytest.raises(WeightsError, match=wanted):
        load_gpt2(folder)
    sizes = {"vocab_size": 30, "context_length": 12, "emb_dim": 8, "n_layers": 2}
    model = load_gpt2(folder, config={**sizes, "n_heads": 2, "qkv_bias": True})
    assert_same(model, load_gpt2(FIXTURE))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model/wte", "wte.weight"),
        ("model/h11/attn/c_attn/w", "h.11.attn.c_attn.weight"),
        ("model/h0/ln_1/g", "h.0.ln_1.weight"),
        ("model/ln_f/b", "ln_f.bias"),
        ("beta1_power", "beta1_power"),
    ],
)
def test_openai_as_hugging_face_spells_names(name, expected):
    assert openai_as_hugging_face(name) == expected


# what the file has must be used, what the model needs must be there


def hub_folder(tmp_path, model=None, **changes):
    export_huggingface(model or random_model(replace(CFG, tie_weights=True)), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, path, {"format": "pt"})
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"transformer__h__1__mlp__c_fc__bias": None},
            r"1 missing: trf_blocks\.1\.ff\.layers\.0\.bias",
        ),
        ({"transformer__h__0__extra__weight": torch.ones(2)}, r"1 not used: h\.0\.extra\.weight"),
        ({"score": torch.ones(2)}, "1 not used: score"),
        (
            {"transformer__h__0__ln_1__weight": torch.ones(11)},
            r"1 of another shape: trf_blocks\.0\.norm1\.scale \(11,\) where \(12,\) is needed",
        ),
        ({"transformer__wte__weight": torch.ones(30)}, r"tok_emb\.weight is of shape \(30,\)"),
        ({"transformer__wpe__weight": None}, r"pos_emb\.weight is missing"),
        ({"wte__weight": torch.ones(30, 12)}, "occur twice, with a prefix"),
        (
            {"transformer__h__7__ln_1__weight": torch.ones(12)},
            "blocks are not numbered from 0 on: 0, 1, 7",
        ),
        (
            {"transformer__ln_f__bias": torch.ones(12, dtype=torch.int32)},
            "not floating-point numbers",
        ),
        ({"transformer__wte__weight": torch.ones(31, 12)}, "vocab_size=31, the file says 30"),
    ],
)
def test_load_gpt2_names_every_tensor_that_does_not_fit(tmp_path, changes, message):
    with pytest.raises(WeightsError, match=message) as caught:
        load_gpt2(hub_folder(tmp_path, **changes))
    assert caught.value.path == str(tmp_path / "model.safetensors")


def test_load_gpt2_refuses_a_config_that_contradicts(tmp_path):
    folder = hub_folder(tmp_path)
    with pytest.raises(WeightsError, match="n_layers=2, the config says 3"):
        load_gpt2(folder, config=replace(CFG, n_layers=3))
    with pytest.raises(WeightsError, match="file says n_heads=3, the config says 4"):
        load_gpt2(folder, config=replace(CFG, n_heads=4))
    with pytest.raises(WeightsError, match=r"6 not used: .*W_query\.bias"):
        load_gpt2(folder, config=replace(CFG, qkv_bias=False))
    with pytest.raises(ValueError, match="unknown key"):
        load_gpt2(folder, config={"n_embd": 12})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_by_inverse_layer_idx", True),
        ("model_type", "llama"),
        ("n_inner", 13),
        ("n_head", "three"),
        ("n_embd", 0),
        ("n_head", 5),
    ],
)
def test_load_gpt2_refuses_what_it_can_not_compute(tmp_path, option, value):
    folder = hub_folder(tmp_path)
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), option: value}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WeightsError):
        load_gpt2(folder)


def test_load_gpt2_names_a_folder_or_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="name a folder or a file of weights"):
        load_gpt2(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        load_gpt2(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder gpt3"):
        load_gpt2("gpt3")


# head and embedding


def test_load_gpt2_follows_the_files_tie(tmp_path):
    untied = random_model()
    path = saved(untied.state_dict(), tmp_path, "untied.pth")
    assert not load_gpt2(path, config=CFG).cfg.tie_weights
    tied = random_model(replace(CFG, tie_weights=True))
    equal_head = {name: tensor.clone() for name, tensor in tied.state_dict().items()}
    headless = {n: t for n, t in equal_head.items() if n != "out_head.weight"}
    for number, state in enumerate((tied.state_dict(), equal_head, headless)):
        model = load_gpt2(saved(state, tmp_path, f"{number}.pth"), config=CFG)
        assert model.cfg.tie_weights
        assert model.out_head.weight is model.tok_emb.weight


def test_load_gpt2_unties_on_request(tmp_path):
    tied = random_model(replace(CFG, tie_weights=True))
    loaded = load_gpt2(hub_folder(tmp_path, tied), tie_weights=False)
    assert not loaded.cfg.tie_weights
    assert torch.equal(loaded.out_head.weight, loaded.tok_emb.weight)
    assert loaded.out_head.weight.data_ptr() != loaded.tok_emb.weight.data_ptr()


def test_load_gpt2_refuses_to_tie_a_head_that_differs(tmp_path):
    path = saved(random_model().state_dict(), tmp_path)
    with pytest.raises(WeightsError, match="tie_weights=False uses the file's head"):
        load_gpt2(path, config=CFG, tie_weights=True)
    with pytest.raises(WeightsError, match="tie_weights=False uses the file's head"):
        load_gpt2(path, config=replace(CFG, tie_weights=True))


def test_load_gpt2_refuses_a_missing_head_of_an_untied_model(tmp_path):
    folder = hub_folder(tmp_path, random_model(), lm_head__weight=None)
    with pytest.raises(WeightsError, match=r"1 missing: out_head\.weight"):
        load_gpt2(folder)


# what comes out can be trained


def sources(tmp_path):
    model = random_model(replace(CFG, tie_weights=True))
    yield FIXTURE
    yield hub_folder(tmp_path / "hub", model)
    yield saved(model.state_dict(), tmp_path)
    flat = torch.cat([tensor.flatten() for tensor in model.state_dict().values()])
    sizes = [tensor.numel() for tensor in model.state_dict().values()]
    views = zip(model.state_dict().items(), flat.split(sizes), strict=True)
    yield saved({name: view.view(t.shape) for (name, t), view in views}, tmp_path, "views.pth")
    gaps = {name: torch.stack([t, t], dim=-1)[..., 0] for name, t in model.state_dict().items()}
    yield saved(gaps, tmp_path, "gaps.pth")


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_load_gpt2_gives_every_parameter_dense_storage_of_its_own(tmp_path, dtype):
    for source in sources(tmp_path):
        config = None if Path(source).is_dir() else CFG
        model = load_gpt2(source, config=config, dtype=dtype)
        storages = set()
        for name, parameter in model.named_parameters():
            size = parameter.numel() * parameter.element_size()
            assert parameter.untyped_storage().nbytes() == size, name
            assert is_dense(parameter), name
            assert parameter.is_leaf
            assert parameter.requires_grad
            storages.add(parameter.untyped_storage().data_ptr())
        assert len(storages) == len(list(model.parameters()))


def test_loaded_model_trains_alike_with_either_adamw(tmp_path):
    """The fused optimizer is silently wrong on parameters that are laid out in another way."""
    folder = hub_folder(tmp_path)
    torch.manual_seed(0)
    ids = torch.randint(0, 30, (4, 9))
    losses = {}
    for fused in (False, True):
        model = load_gpt2(folder).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        losses[fused] = []
        for _ in range(5):
            logits = model(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[fused].append(loss.item())
    assert losses[True][-1] < 0.9 * losses[True][0]
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_training_a_loaded_model_leaves_the_file(tmp_path):
    folder = hub_folder(tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    model = load_gpt2(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not torch.equal(load_gpt2(folder).tok_emb.weight, model.tok_emb.weight)


def test_load_gpt2_draws_no_random_number(tmp_path):
    path = saved({**random_model().state_dict()}, tmp_path)
    state = torch.get_rng_state()
    load_gpt2(path, config=CFG)
    assert torch.equal(torch.get_rng_state(), state)


def test_load_gpt2_sets_the_dropout(tmp_path):
    folder = hub_folder(tmp_path)
    assert load_gpt2(folder).drop_emb.p == 0
    assert load_gpt2(folder, drop_rate=0.2).drop_emb.p == 0.2
    assert load_gpt2(folder, config=replace(CFG, drop_rate=0.3)).drop_emb.p == 0.3
    with pytest.raises(ValueError, match="drop_rate"):
        load_gpt2(folder, drop_rate=2.0)
    with pytest.raises(ValueError, match="floating"):
        load_gpt2(folder, dtype=torch.int64)


def test_load_gpt2_puts_the_model_on_a_device(tmp_path):
    model = load_gpt2(hub_folder(tmp_path), device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


# pieces


@pytest.mark.parametrize("n_out", [None, 3])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_parameter_shapes_are_the_models(qkv_bias, n_out):
    model = GPTModel(replace(CFG, qkv_bias=qkv_bias))
    if n_out:
        model.out_head = nn.Linear(12, n_out)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = parameter_shapes(model.cfg, head_of(model))
    assert found == shapes
    assert list(found) == list(shapes)


def test_compare_lists_a_few_names_and_counts_the_rest():
    expected = {f"p{number}": (2,) for number in range(9)}
    assert compare(expected, expected) == ""
    assert compare(expected, {}) == "9 missing: p0, p1, p2, p3, p4, p5 and 3 more"


def test_owned_copies_only_what_shares_or_has_gaps():
    whole = torch.arange(12.0).view(3, 4)
    for tensor in (whole, whole.t(), torch.ones(())):
        assert owned(tensor).data_ptr() == tensor.data_ptr()
    for tensor in (whole[:, 1:], whole[1:], whole.t()[::2], torch.ones(1).expand(4)):
        copy = owned(tensor)
        assert torch.equal(copy, tensor)
        assert copy.is_contiguous()
        assert copy.untyped_storage().nbytes() == 4 * tensor.numel()
