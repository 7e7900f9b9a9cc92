"""The mapping of a file's tensors to the parameters of a `LlamaModel`, and back.

Each tensor is one parameter, unchanged: queries and keys have the order of rotate-half here too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.weights.llama_config_json import model_type_of
from llm_scratch.weights.parts import Part

# Hugging Face's name for each layer, and this library's: first those outside the blocks.
TOP = {
    "model.embed_tokens.weight": "tok_emb.weight",
    "model.norm.weight": "final_norm.scale",
    "lm_head.weight": "out_head.weight",
}
CLASSES = "score.weight"  # the head of a model for classes
HEADS = {CLASSES: "out_head.weight", "score.bias": "out_head.bias"}
LAYERS = {
    "self_attn.q_proj": "att.W_query",
    "self_attn.k_proj": "att.W_key",
    "self_attn.v_proj": "att.W_value",
    "self_attn.o_proj": "att.out_proj",
    "mlp.gate_proj": "ff.fc1",
    "mlp.up_proj": "ff.fc2",
    "mlp.down_proj": "ff.fc3",
    "mlp.gate": "ff.gate",
}
NORMS = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
    "self_attn.q_norm": "att.q_norm",
    "self_attn.k_norm": "att.k_norm",
}
EXPERTS = {"gate_proj": "fc1", "up_proj": "fc2", "down_proj": "fc3"}
EXPERTS_BACK = {ours: theirs for theirs, ours in EXPERTS.items()}
BACK = {ours: theirs for theirs, ours in (LAYERS | NORMS).items()}


def is_llama(names: Iterable[str]) -> bool:
    """Return whether a file's names are of Llama's family, in Hugging Face's form or the book's."""
    return any(
        re.fullmatch(r"(.*\.)?(embed_tokens|layers\.0\.self_attn\.q_proj)\.weight", name)
        or re.fullmatch(r"(.*\.)?trf_blocks\.0\.ff\.(fc1|gate)(\.0)?(\.linear)?\.weight", name)
        for name in names
    )


def from_hugging_face(tensors: Mapping[str, Stored]) -> tuple[dict[str, Part], list[str]]:
    """Return every parameter in a file, by this library's name, and the unknown names."""
    parts: dict[str, Part] = {}
    surplus = []
    for name, stored in tensors.items():
        if name.endswith("rotary_emb.inv_freq"):  # old files hold it; it is computed here
            continue
        ours = our_name(name)
        if ours is None or ours in parts:
            surplus.append(name)
        else:
            parts[ours] = Part(stored)
    return parts, surplus


def our_name(name: str) -> str | None:
    """Return this library's name for one of Hugging Face's parameters; None if it is unknown."""
    if name in TOP or name in HEADS:
        return (TOP | HEADS)[name]
    match = re.fullmatch(r"model\.layers\.(0|[1-9]\d*)\.(.+)\.(weight|bias)", name)
    if match is None:
        return None
    block, layer, kind = match.groups()
    prefix = f"trf_blocks.{block}."
    if layer in LAYERS:
        return f"{prefix}{LAYERS[layer]}.{kind}"
    if layer in NORMS and kind == "weight":
        return f"{prefix}{NORMS[layer]}.scale"
    expert = re.fullmatch(r"mlp\.experts\.(0|[1-9]\d*)\.(gate_proj|up_proj|down_proj)", layer)
    return f"{prefix}ff.{EXPERTS[expert[2]]}.{expert[1]}.{kind}" if expert else None


def their_name(name: str, *, classes: bool = False) -> str:
    """Return Hugging Face's name for a parameter.

    Args:
        name: this library's name.
        classes: whether the head is one for classes.
    """
    for theirs, ours in ({**TOP, **HEADS} if classes else TOP).items():
        if name == ours and not (classes and theirs == "lm_head.weight"):
            return theirs
    match = re.fullmatch(r"trf_blocks\.(\d+)\.(.+)\.(weight|bias|scale)", name)
    if match is None:
        raise ValueError(f"{name} is not a parameter of a LlamaModel")
    block, layer, kind = match.groups()
    kind = "weight" if kind == "scale" else kind
    if expert := re.fullmatch(r"ff\.(fc[123])\.(\d+)", layer):
        layer = f"mlp.experts.{expert[2]}.{EXPERTS_BACK[expert[1]]}"
    return f"model.layers.{block}.{BACK.get(layer, layer)}.{kind}"


def to_hugging_face(tensors: Mapping[str, Tensor], cfg: LlamaConfig) -> dict[str, Tensor]:
    """Return the tensors of a `LlamaModel` by Hugging Face's names.

    Biases that transformers' family has but the model lacks are zeros.
    """
    found = {their_name(name): tensor for name, tensor in tensors.items()}
    if model_type_of(cfg) == "qwen2" and not cfg.qkv_bias:
        for name, tensor in list(found.items()):
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                found[name.replace(".weight", ".bias")] = tensor.new_zeros(len(tensor))
    return found
