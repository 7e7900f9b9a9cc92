"""GPT-2 made by transformers, in every form that it is saved in, against this library's model."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.gpt2 import load_gpt2

transformers = pytest.importorskip("transformers")

WRITER = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow" / "bundle_writer.py"
# vocabulary, context, width, heads, blocks
SIZES = [(50, 16, 12, 3, 2), (97, 24, 64, 4, 3), (300, 8, 40, 1, 1)]


def random_gpt2(sizes=SIZES[0], tied=True, attention="sdpa"):
    """transformers' model with weights large enough that a mistake can't hide."""
    vocab, context, width, heads, blocks = sizes
    config = transformers.GPT2Config(
        vocab_size=vocab,
        n_positions=context,
        n_embd=width,
        n_head=heads,
        n_layer=blocks,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=attention,
    )
    torch.manual_seed(sum(sizes))
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def some_ids(sizes, batch=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, sizes[0], (batch, sizes[1]), generator=generator)


def assert_equal_logits(ours, theirs, sizes):
    ids = some_ids(sizes)
    with torch.no_grad():
        actual, expected = ours(ids), theirs(ids).logits
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def save_bin(model, folder, prefix="transformer.", zipped=True, **more):
    """`pytorch_model.bin` with transformers' names, as older versions wrote it."""
    model.config.save_pretrained(folder)
    state = {
        name.replace("transformer.", prefix): tensor
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" or not model.config.tie_word_embeddings
    }
    torch.save(
        {**state, **more}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped
    )


def masks(sizes):
    """The buffers that files from before 2023 hold in every block."""
    context = sizes[1]
    mask = torch.ones(context, context).tril().view(1, 1, context, context)
    found = {}
    for block in range(sizes[4]):
        found[f"h.{block}.attn.bias"] = mask.clone()
        found[f"h.{block}.attn.masked_bias"] = torch.tensor(-1e4)
    return found


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_load_gpt2_gives_transformers_logits(tmp_path, sizes, tied):
    theirs = random_gpt2(sizes, tied)
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path)
    assert ours.cfg.tie_weights == tied
    assert (ours.out_head.weight is ours.tok_emb.weight) == tied
    assert_equal_logits(ours, theirs, sizes)


def test_load_gpt2_is_as_near_as_transformers_is_to_itself(tmp_path):
    sizes = (211, 64, 192, 6, 4)
    sdpa, eager = random_gpt2(sizes), random_gpt2(sizes, attention="eager")
    sdpa.save_pretrained(tmp_path)
    ids = some_ids(sizes)
    with torch.no_grad():
        ours, fused, plain = load_gpt2(tmp_path)(ids), sdpa(ids).logits, eager(ids).logits
    assert (plain - fused).abs().max() > 0
    assert (ours - fused).abs().max() <= 2 * (plain - fused).abs().max()


@pytest.mark.parametrize("tied", [True, False])
def test_load_gpt2_reads_shards(tmp_path, tied):
    theirs = random_gpt2(SIZES[1], tied)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal_logits(load_gpt2(tmp_path), theirs, SIZES[1])
    assert_equal_logits(load_gpt2(tmp_path / "model.safetensors.index.json"), theirs, SIZES[1])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("tied", [True, False])
def test_load_gpt2_reads_bin_files(tmp_path, tied, prefix, zipped):
    theirs = random_gpt2(tied=tied)
    save_bin(theirs, tmp_path, prefix, zipped)
    assert_equal_logits(load_gpt2(tmp_path), theirs, SIZES[0])
    assert_equal_logits(load_gpt2(tmp_path / "pytorch_model.bin"), theirs, SIZES[0])


def test_load_gpt2_reads_bin_shards(tmp_path):
    theirs = random_gpt2()
    theirs.config.save_pretrained(tmp_path)
    state = {n: t for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    names = sorted(state)
    where = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: state[name] for name in part}, tmp_path / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert_equal_logits(load_gpt2(tmp_path), theirs, SIZES[0])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_load_gpt2_ignores_mask_buffers(tmp_path, kind):
    theirs = random_gpt2()
    save_bin(theirs, tmp_path, "", **masks(SIZES[0]))
    if kind == "safetensors":
        state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
        save_file(state, tmp_path / "model.safetensors")
        (tmp_path / "pytorch_model.bin").unlink()
    assert_equal_logits(load_gpt2(tmp_path), theirs, SIZES[0])


def test_load_gpt2_takes_no_bias_for_a_mask(tmp_path):
    theirs = random_gpt2()
    save_bin(theirs, tmp_path, "", **{"h.0.attn.bias": torch.zeros(36)})
    with pytest.raises(WeightsError, match=r"1 not used: h\.0\.attn\.bias"):
        load_gpt2(tmp_path)


def test_load_gpt2_reads_the_base_model(tmp_path):
    theirs = random_gpt2()
    theirs.transformer.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert "wte.weight" in names
    assert "lm_head.weight" not in names
    assert_equal_logits(load_gpt2(tmp_path), theirs, SIZES[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_load_gpt2_keeps_or_converts_the_type(tmp_path, dtype):
    random_gpt2().to(dtype).save_pretrained(tmp_path)
    kept = load_gpt2(tmp_path)
    assert {parameter.dtype for parameter in kept.parameters()} == {dtype}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_equal_logits(load_gpt2(tmp_path, dtype=torch.float32), theirs, SIZES[0])


MATRICES = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_missing_transpose_would_be_seen(tmp_path, matrix):
    """The square one fits either way: only logits tell."""
    theirs = random_gpt2()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name in [n for n in tensors if n.endswith(f"{matrix}.weight")]:
        tensors[name] = tensors[name].t().contiguous()
    save_file(tensors, path, {"format": "pt"})
    if matrix != "attn.c_proj":
        with pytest.raises(WeightsError, match="of another shape"):
            load_gpt2(tmp_path)
        return
    with pytest.raises(AssertionError):
        assert_equal_logits(load_gpt2(tmp_path), theirs, SIZES[0])


def random_ours(tied, qkv_bias, vocab_size=50):
    torch.manual_seed(3)
    cfg = GPTConfig(vocab_size, 16, 12, 3, 2, qkv_bias=qkv_bias, tie_weights=tied)
    model = GPTModel(cfg).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def assert_same_parameters(a, b):
    assert a.cfg == b.cfg
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_export_opens_in_transformers_and_comes_back_bit_by_bit(tmp_path, tied, qkv_bias):
    ours = random_ours(tied, qkv_bias)
    export_huggingface(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (theirs.lm_head.weight is theirs.transformer.wte.weight) == tied
    assert_equal_logits(ours, theirs, SIZES[0])
    assert_same_parameters(load_gpt2(tmp_path), ours)
    theirs.save_pretrained(tmp_path / "again")
    # transformers writes unknown options of the configuration back, ours among them
    assert_same_parameters(load_gpt2(tmp_path / "again"), ours)


def test_transformers_file_comes_back_from_us_bit_by_bit(tmp_path):
    theirs = random_gpt2(SIZES[1])
    theirs.save_pretrained(tmp_path / "theirs")
    export_huggingface(load_gpt2(tmp_path / "theirs"), tmp_path / "ours")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    after = load_file(tmp_path / "ours" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_export_writes_bfloat16(tmp_path):
    ours = random_ours(True, True).to(torch.bfloat16)
    export_huggingface(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.bfloat16
    assert_same_parameters(load_gpt2(tmp_path), ours)


TEXTS = [
    "Hello world, it's 1908.",
    "  two blanks,\n\n\tlines and tabs  ",
    "na\u00efve \u20ac5 \u6f22\u5b57 \U0001f525 we'll",
    "the end<|endoftext|>a start",
    "",
]


def test_export_tokenizer_gives_equal_ids_and_text(tmp_path):
    texts = ["The cat sat on the mat, the dog sat on the log. It's 42 na\u00efve cats! " * 3]
    tokenizer = BytePairTokenizer.train(texts, vocab_size=280)
    export_huggingface(random_ours(True, True, tokenizer.n_vocab), tmp_path, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode(text, allowed_special="all")
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == tokenizer.eot_token
    assert theirs.model_max_length == 16


def test_export_tokenizer_keeps_another_pattern(tmp_path):
    tokenizer = BytePairTokenizer.train(["one two three " * 5], 262, pattern=r"\S+|\s+")
    export_huggingface(random_ours(True, True, tokenizer.n_vocab), tmp_path, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("one two  three")["input_ids"] == tokenizer.encode("one two  three")


def test_export_takes_gpt2s_tokenizer_and_generate_runs(tmp_path):
    ours = random_ours(True, True, 50257)
    tokenizer = GPT2Tokenizer()
    export_huggingface(ours, tmp_path, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert their_tokenizer(text)["input_ids"] == tokenizer.encode(text, allowed_special="all")
    prompt = their_tokenizer("Every effort", return_tensors="pt")
    ids = theirs.generate(**prompt, max_new_tokens=6, do_sample=False)
    expected = prompt["input_ids"]
    for _ in range(6):  # greedy, written out
        expected = torch.cat([expected, ours(expected)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ids, expected)


@pytest.mark.slow
def test_load_gpt2_reads_openais_124m_like_hugging_faces(tmp_path):
    """A checkpoint of the real size in OpenAI's layout against the same numbers elsewhere."""
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    theirs.save_pretrained(tmp_path / "hf")
    arrays = {}
    for name, tensor in theirs.transformer.state_dict().items():
        array = tensor.numpy()
        spelled = name.replace("h.", "h", 1) if name.startswith("h.") else name
        parts = spelled.split(".")
        if parts[0] in ("wte", "wpe"):
            parts = parts[:1]
        elif parts[-2].startswith("ln_"):
            parts[-1] = {"weight": "g", "bias": "b"}[parts[-1]]
        else:
            array = array[None] if parts[-1] == "weight" else array
            parts[-1] = {"weight": "w", "bias": "b"}[parts[-1]]
        arrays["/".join(["model", *parts])] = array
    folder = tmp_path / "124M"
    folder.mkdir()
    runpy.run_path(str(WRITER))["write_bundle"](folder / "model.ckpt", arrays)
    assert (folder / "model.ckpt.index").stat().st_size == 5_215
    hparams = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    (folder / "hparams.json").write_text(json.dumps(hparams), encoding="utf-8")
    from_openai, from_hub = load_gpt2(folder), load_gpt2(tmp_path / "hf")
    ids = torch.arange(0, 50000, 977)[None]
    with torch.no_grad():
        logits = from_openai(ids)
        assert torch.equal(logits, from_hub(ids))
        expected = theirs(ids).logits
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
