"""The particulars of each family of models: its configuration, its class, its parameters.

Code that must know a family looks it up here by the configuration. Nothing here imports PyTorch
before there is a model.

Shape letters: V vocabulary, T context length, C emb_dim, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_scratch.model.config import GPTConfig, as_config
from llm_scratch.model.heads import Head
from llm_scratch.model.llama_config import LlamaConfig, as_llama_config

if TYPE_CHECKING:
    from llm_scratch.model.interface import LanguageModel

Shapes = dict[str, tuple[int, ...]]


def _gpt2_shapes(cfg: GPTConfig) -> Shapes:
    """Return the names and shapes of a `GPTModel`'s parameters but the head's, in its order."""
    V, T, C = cfg.vocab_size, cfg.context_length, cfg.emb_dim
    shapes: Shapes = {"tok_emb.weight": (V, C), "pos_emb.weight": (T, C)}
    for block in range(cfg.n_layers):
        prefix = f"trf_blocks.{block}."
        for name in ("W_query", "W_key", "W_value"):
            shapes[f"{prefix}att.{name}.weight"] = (C, C)
            if cfg.qkv_bias:
                shapes[f"{prefix}att.{name}.bias"] = (C,)
        layers = {"att.out_proj": (C, C), "ff.layers.0": (4 * C, C), "ff.layers.2": (C, 4 * C)}
        for layer, shape in layers.items():
            shapes[f"{prefix}{layer}.weight"] = shape
            shapes[f"{prefix}{layer}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes |= {f"{prefix}{norm}.{name}": (C,) for name in ("scale", "shift")}
    return shapes | {f"final_norm.{name}": (C,) for name in ("scale", "shift")}


def _llama_shapes(cfg: LlamaConfig) -> Shapes:
    """Return the names and shapes of a `LlamaModel`'s parameters but the head's, in its order."""
    C, D = cfg.emb_dim, cfg.head_dim
    shapes: Shapes = {"tok_emb.weight": (cfg.vocab_size, C)}
    for block in range(cfg.n_layers):
        prefix = f"trf_blocks.{block}."
        heads = {"query": cfg.n_heads, "key": cfg.n_kv_heads, "value": cfg.n_kv_heads}
        for name, count in heads.items():
            shapes[f"{prefix}att.W_{name}.weight"] = (count * D, C)
            if cfg.qkv_bias:
                shapes[f"{prefix}att.W_{name}.bias"] = (count * D,)
        shapes[f"{prefix}att.out_proj.weight"] = (C, cfg.n_heads * D)
        if cfg.qk_norm:
            shapes |= {f"{prefix}att.{name}.scale": (D,) for name in ("q_norm", "k_norm")}
        shapes |= _gated_shapes(cfg, f"{prefix}ff.")
        shapes |= {f"{prefix}{norm}.scale": (C,) for norm in ("norm1", "norm2")}
    return shapes | {"final_norm.scale": (C,)}


def _gated_shapes(cfg: LlamaConfig, prefix: str) -> Shapes:
    """Return the names and shapes of a gated network's parameters, or of its experts'."""
    C, width = cfg.emb_dim, cfg.moe_intermediate_size if cfg.num_experts else cfg.hidden_dim
    layers: Shapes = {"fc1": (width, C), "fc2": (width, C), "fc3": (C, width)}
    if not cfg.num_experts:
        return {f"{prefix}{name}.weight": shape for name, shape in layers.items()}
    experts = {
        f"{prefix}{name}.{number}.weight": shape
        for name, shape in layers.items()
        for number in range(cfg.num_experts)
    }
    return {f"{prefix}gate.weight": (cfg.num_experts, C), **experts}


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        config: the class of its configurations.
        as_config: the function that makes one from a mapping.
        module: the module in `llm_scratch.model` with its classes.
        model: the name of the model's class.
        block: the name of the block's class.
        shapes: the function that returns names and shapes of all parameters but the head's.
    """

    config: type[Any]
    as_config: Callable[[Any], Any]
    module: str
    model: str
    block: str
    shapes: Callable[[Any], Shapes]

    @property
    def model_class(self) -> Any:
        """The class of its models; importing it imports PyTorch."""
        return getattr(import_module(f"llm_scratch.model.{self.module}"), self.model)

    @property
    def block_class(self) -> Any:
        """The class of its blocks; importing it imports PyTorch."""
        return getattr(import_module(f"llm_scratch.model.{self.module}"), self.block)


FAMILIES: dict[str, Family] = {
    "gpt2": Family(GPTConfig, as_config, "gpt", "GPTModel", "TransformerBlock", _gpt2_shapes),
    "llama": Family(
        LlamaConfig, as_llama_config, "llama", "LlamaModel", "LlamaBlock", _llama_shapes
    ),
}
"""The families, by name."""


def family_of(cfg: Any) -> Family:
    """Return the family of a configuration.

    Raises:
        TypeError: if it is not a configuration of this library.
    """
    return FAMILIES[family_name(cfg)]


def family_name(cfg: Any) -> str:
    """Return the name of a configuration's family.

    Raises:
        TypeError: if it is not a configuration of this library.
    """
    for name, family in FAMILIES.items():
        if isinstance(cfg, family.config):
            return name
    raise TypeError(f"a {type(cfg).__name__} is not a configuration of a model of this library")


def any_config(cfg: Any) -> Any:
    """Return a configuration unchanged, or make one from a dict.

    A dict belongs to the family that has most of its keys, the first of several in `FAMILIES`.

    Raises:
        TypeError: if it is neither a configuration nor a dict.
        ConfigError: if a key is unknown or missing, or a value is out of range.
    """
    if not isinstance(cfg, Mapping):
        return family_of(cfg) and cfg
    nearest = max(
        FAMILIES.values(), key=lambda f: len(cfg.keys() & f.config.__dataclass_fields__.keys())
    )
    return nearest.as_config(cfg)


def config_of_saved(model: str, options: Mapping[str, Any]) -> Any:
    """Return a saved model's configuration, by the name of its class.

    Raises:
        ValueError: if there is no such class, or an option is unknown or out of range.
    """
    for family in FAMILIES.values():
        if family.model == model:
            return family.as_config(options)
    known = ", ".join(family.model for family in FAMILIES.values())
    raise ValueError(f"it holds a {model[:40]}, and this version knows {known}; update llm_scratch")


def parameter_shapes(cfg: Any, head: Head | None = None) -> Shapes:
    """Return the name and shape of every parameter of a model, in its order.

    Args:
        cfg: the model's configuration.
        head: the head, if it is not the language model's.
    """
    size = cfg.vocab_size if head is None else head.size
    shapes = family_of(cfg).shapes(cfg) | {"out_head.weight": (size, cfg.emb_dim)}
    return shapes | {"out_head.bias": (size,)} if head is not None and head.bias else shapes


def empty_model(cfg: Any) -> Any:
    """Make a model with unset parameters, for a file to fill."""
    return family_of(cfg).model_class.empty(cfg)


def is_language_model(model: Any) -> bool:
    """Return whether this is a model of one of the families, and not wrapped."""
    families = (f for f in FAMILIES.values() if isinstance(getattr(model, "cfg", None), f.config))
    return any(isinstance(model, family.model_class) for family in families)


def language_model(model: Any) -> LanguageModel:
    """Return the language model inside the wrappers of compiling or data parallel.

    Raises:
        TypeError: if there is none inside.
    """
    from llm_scratch.model.wrappers import unwrapped

    inner = unwrapped(model)
    if is_language_model(inner):
        return inner
    kind = type(inner).__name__
    known = ", ".join(family.model for family in FAMILIES.values())
    again = kind in known.split(", ")
    hint = "; its module was reloaded since, so build the model again" if again else ""
    raise TypeError(f"expected a model of this library ({known}), got a {kind}{hint}")


def passes_cache(model: Any) -> bool:
    """Return whether a model and all its blocks pass on a cache, as its family's do.

    A subclass or a replaced block that computes in its own way need not support caches.
    """
    if not is_language_model(model):
        return False
    family = family_of(model.cfg)
    own, block = family.model_class, family.block_class
    return (
        type(model).forward is own.forward
        and type(model).hidden_states is own.hidden_states
        and type(model.trf_blocks).__name__ == "Sequential"
        and all(_computes_as(part, block) for part in model.trf_blocks)
    )


def _computes_as(block: Any, own: Any) -> bool:
    """Return whether a block and its attention compute by the family's code."""
    if type(block).forward is not own.forward:
        return False
    return type(block.att).forward is own.attention_class.forward
