"""Other tools' figures: the series' table to the last digit, and accelerate by its own code."""

from __future__ import annotations

import pytest

from llm_scratch.memory.models import model_config
from llm_scratch.memory.other_tools import (
    GIB,
    Counted,
    accelerate_size,
    accelerate_table,
    deepspeed_table,
    like,
    without_head,
)

# The table of part 5 of the series: what each host and each of eight GPUs needs, in GiB.
SERIES = [
    (188.72, 1.96),
    (335.50, 1.96),
    (167.75, 3.70),
    (335.50, 3.70),
    (23.48, 17.68),
    (335.50, 17.68),
]


def test_deepspeed_gives_the_series_six_rows() -> None:
    rows = deepspeed_table(model_config("llama3-8b"), gpus=8, version="0.14.2")
    shown = [(f"{row.host / GIB:.2f}", f"{row.device / GIB:.2f}") for row in rows]
    assert shown == [(f"{host:.2f}", f"{device:.2f}") for host, device in SERIES]


def test_deepspeed_counts_no_head() -> None:
    assert without_head(model_config("llama3-8b")) == Counted(7_504_924_672, 525_336_576)
    assert without_head(model_config("gpt2")).total == 124_439_808  # tied: nothing is missing


def test_zero2_changed_between_two_versions() -> None:
    counted = Counted(1000, 100)
    old, new = (
        deepspeed_table(counted, 4, version=version, stage=2) for version in ("0.14.2", "0.19.2")
    )
    assert [row.device for row in old] == [2000, 4000 + 4000]
    assert [row.device for row in new] == [2000, 2000 + 4500]
    assert [row.host for row in old] == [1.5 * 16_000, 1.5 * 16_000]


def test_several_nodes_share_what_hosts_hold() -> None:
    one, two = (deepspeed_table(Counted(1000, 100), 8, nodes) for nodes in (1, 2))
    assert two[0].host == one[0].host / 2
    assert two[4].device == 400 + 18_000 / 16


@pytest.mark.parametrize(
    ("options", "message"),
    [({"version": "0.9"}, "are known"), ({"stage": 1}, "ZeRO-2 and ZeRO-3")],
)
def test_unknown_versions_and_stages_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        deepspeed_table(Counted(10, 1), 2, **options)
    with pytest.raises(ValueError, match="not '3'"):
        like("accelerate", model_config("gpt2"), version="3")
    with pytest.raises(ValueError, match="deepspeed, accelerate"):
        like("other", model_config("gpt2"))


@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "smollm2", "qwen1.5-0.5b"])
def test_accelerate_would_say_the_same(name) -> None:
    accelerate = pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes, convert_bytes

    cfg = model_config(name)
    if name == "gpt2":
        theirs = transformers.GPT2Config()
    else:
        kind = transformers.Qwen2Config if cfg.qkv_bias else transformers.LlamaConfig
        theirs = kind(
            vocab_size=cfg.vocab_size, hidden_size=cfg.emb_dim, num_attention_heads=cfg.n_heads,
            num_key_value_heads=cfg.n_kv_heads, num_hidden_layers=cfg.n_layers,
            intermediate_size=cfg.hidden_dim, tie_word_embeddings=cfg.tie_weights,
        )  # fmt: skip
    with accelerate.init_empty_weights():
        model = transformers.AutoModel.from_config(theirs)
    total, (largest, _) = calculate_maximum_sizes(model)
    for row, parts in zip(accelerate_table(cfg), (1, 2, 4, 8), strict=True):
        assert (row["total"], row["largest"]) == (total / parts, largest / parts)
        assert accelerate_size(row["total"]) == convert_bytes(total / parts)
        training = max(estimate_training_usage(total, row["dtype"]).values())
        assert (row["training"] or -1) == training


def test_each_says_what_it_leaves_out() -> None:
    for tool in ("deepspeed", "accelerate"):
        found = like(tool, model_config("llama3-8b"), 8)
        assert any("activations" in line for line in found.left_out)
        assert found.as_json()["version"] in ("0.14.2", "1.15.0")
