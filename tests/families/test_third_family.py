"""A family beyond those of the library: what works from its entry in `FAMILIES` on, and what says
that more is needed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn

from llm_scratch.lora.base import describe_base
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.models import model_config
from llm_scratch.model import decoder
from llm_scratch.model.config import GPTConfig, ReadsLikeADict
from llm_scratch.model.families import FAMILIES, Family, any_config, family_name, parameter_shapes
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.initialization import SkipInitialization
from llm_scratch.model.layers import LayerNorm
from llm_scratch.opening import open_model
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.presets import PRESETS
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.gguf_export import export_gguf

SIZES = {"vocab_size": 31, "context_length": 12, "emb_dim": 16, "n_heads": 2, "n_layers": 2}


@dataclass(frozen=True)
class ToyConfig(ReadsLikeADict):
    """A GPT's sizes alone, without its switches."""

    vocab_size: int
    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    tie_weights: bool = False
    toy: bool = True

    @property
    def n_kv_heads(self) -> int:
        return self.n_heads

    @property
    def head_dim(self) -> int:
        return self.emb_dim // self.n_heads


class ToyBlock(TransformerBlock):
    """A GPT's block, without biases."""

    def __init__(self, cfg: ToyConfig) -> None:
        super().__init__(GPTConfig(**{name: cfg[name] for name in SIZES}))


class ToyModel(GPTModel):
    """A GPT that does not know where a token is."""

    def __init__(self, cfg: ToyConfig) -> None:
        nn.Module.__init__(self)
        self.cfg = cfg
        self._build(cfg)
        self.init_weights()

    def _build(self, cfg: ToyConfig) -> None:
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.trf_blocks = nn.Sequential(*(ToyBlock(cfg) for _ in range(cfg.n_layers)))
        self.final_norm = LayerNorm(cfg.emb_dim)
        self.out_head = nn.Linear(cfg.emb_dim, cfg.vocab_size, bias=False)
        if cfg.tie_weights:
            decoder.keep_tied(self)

    @classmethod
    def empty(cls, cfg: ToyConfig) -> ToyModel:
        with SkipInitialization():
            return cls(cfg)

    def hidden_states(self, in_idx, *, cache=None, attention_mask=None, positions=None):
        mask, _ = decoder.placed(self, in_idx, cache, attention_mask, positions)
        x = decoder.embedded(self.tok_emb, in_idx)
        for layer, block in enumerate(self.trf_blocks):
            options = {"mask": mask, "cache": cache, "layer": layer}
            x = decoder.through_block(self, layer, block, x, **options)
        if cache is not None:
            cache.advance(in_idx.shape[1])
        return self.final_norm(x)


def toy_shapes(cfg: ToyConfig) -> dict[str, tuple[int, ...]]:
    model = ToyModel.empty(cfg)
    return {n: tuple(p.shape) for n, p in model.named_parameters() if n != "out_head.weight"}


@pytest.fixture
def toy(monkeypatch) -> ToyModel:
    """A model of a family that is entered in `FAMILIES`, and nowhere else."""
    module = ModuleType("llm_scratch.model.toy")
    module.ToyModel, module.ToyBlock = ToyModel, ToyBlock
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = Family(ToyConfig, lambda d: ToyConfig(**d), "toy", "ToyModel", "ToyBlock", toy_shapes)
    monkeypatch.setitem(FAMILIES, "toy", entry)
    torch.manual_seed(3)
    return ToyModel(ToyConfig(**SIZES)).eval()


def test_presets_have_sizes_for_it(toy):
    made = PRESETS["tiny"].sizes("toy", n_layers=3)
    assert isinstance(made, ToyConfig)
    assert (made.n_layers, made.emb_dim) == (3, PRESETS["tiny"].model.emb_dim)


def test_presets_refuse_sizes_it_lacks(toy):
    with pytest.raises(ValueError, match="a model of the family toy has no hidden_dim"):
        PRESETS["tiny"].sizes("toy", hidden_dim=8)


def test_presets_refuse_an_unknown_family():
    with pytest.raises(ValueError, match="family='toy' is unknown; use gpt2, llama"):
        PRESETS["tiny"].sizes("toy")


def test_a_dict_belongs_to_the_family_with_most_of_its_keys(toy):
    assert family_name(any_config(dict(toy.cfg))) == "toy"
    assert family_name(any_config(SIZES)) == "gpt2"
    assert family_name(any_config(SIZES | {"hidden_dim": 8})) == "llama"


@pytest.mark.parametrize("tied", [False, True])
def test_saved_models_come_back(toy, tmp_path, tied):
    model = ToyModel(ToyConfig(**SIZES, tie_weights=tied)).eval()
    save_model(model, tmp_path)
    for again in (open_model(tmp_path, need_tokenizer=False).model, load_model(tmp_path)[0]):
        assert type(again) is ToyModel
        assert again.cfg == model.cfg
        ids = torch.arange(10)[None]
        assert torch.equal(again(ids), model(ids))
    assert model_config(tmp_path) == model.cfg


def test_shapes_are_those_of_the_model(toy):
    assert parameter_shapes(toy.cfg) == {n: tuple(p.shape) for n, p in toy.named_parameters()}


def test_an_adapter_describes_it_without_switches_of_other_families(toy):
    assert describe_base(toy, ())["options"] == SIZES


def test_formats_and_formulas_that_do_not_know_it_say_so(toy, tmp_path):
    with pytest.raises(ValueError, match="no names of transformers are known for the family toy"):
        export_huggingface(toy, tmp_path / "folder")
    with pytest.raises(ValueError, match="the family toy is not written to GGUF files"):
        export_gguf(toy, tmp_path / "file.gguf", BytePairTokenizer.gpt2())
    with pytest.raises(ValueError, match="no formulas of memory are known for the family toy"):
        estimate_memory(toy.cfg, rows=1, length=8)
