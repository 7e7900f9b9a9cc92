from __future__ import annotations

import pytest
from planted import Mistake, must_be_caught, results, right_source

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.run import checks_of

NORM, BLOCK, GPT = ("ch04", "LayerNorm"), ("ch04", "TransformerBlock"), ("ch04", "GPTModel")
FORWARD, WRITE = ("ch04", "FeedForward"), ("ch04", "generate_text_simple")
MULTI = ("ch04", "MultiHeadAttention")
# A table with one mistake per row.
# fmt: off
MISTAKES = [
    Mistake("unbiased variance", *NORM, "unbiased=False", "unbiased=True", hints.BIASED_VARIANCE),
    Mistake("default variance", *NORM, ", unbiased=False", "", hints.BIASED_VARIANCE),
    Mistake("no eps", *NORM, " + self.eps)", ")", hints.EPS),
    Mistake("another eps", *NORM, "self.eps = 1e-5", "self.eps = 1e-8", hints.EPS),
    Mistake("over the tokens", *NORM, "dim=-1", "dim=1", hints.NORM_DIM),
    Mistake("over everything", *NORM, "x.mean(dim=-1, keepdim=True)\n        var = x.var(dim=-1, "
            "keepdim=True, unbiased=False)", "x.mean()\n        var = x.var(unbiased=False)",
            hints.NORM_DIM),
    Mistake("scale unused", *NORM, "self.scale * (x", "1.0 * (x", hints.SCALE_AND_SHIFT),
    Mistake("scale is not a parameter", *NORM, "nn.Parameter(torch.ones(emb_dim))",
            "torch.ones(emb_dim)", hints.PARAMETERS),
    Mistake("exact GELU", "ch04", "GELU", "return 0.5 * x * (1 + torch.tanh(inner))",
            "return 0.5 * x * (1 + torch.erf(x / 2**0.5))", hints.GELU_EXACT),
    Mistake("ReLU", "ch04", "GELU", "return 0.5 * x * (1 + torch.tanh(inner))",
            "return x.clamp(min=0)", hints.GELU_OTHER),
    Mistake("wrong constant", "ch04", "GELU", "(2 / torch.pi) ** 0.5", "(2 / torch.pi)",
            hints.GELU_OTHER),
    Mistake("not widened", *FORWARD, "4 * width", "width", hints.EXPANSION),
    Mistake("no activation", *FORWARD, "            GELU(),\n", "", hints.NO_ACTIVATION),
    Mistake("exact GELU inside", *FORWARD, "GELU()", "nn.GELU()", hints.GELU_EXACT),
    Mistake("no shortcut in the deep network", "ch04", "ExampleDeepNeuralNetwork",
            "x + result if", "result if", hints.NO_SHORTCUT),
    Mistake("no residual", *BLOCK, "x = x + shortcut\n", "x = x\n", hints.NO_SHORTCUT),
    Mistake("no second residual", *BLOCK, "return x + shortcut", "return x", hints.NO_SHORTCUT),
    Mistake("second shortcut is the first", *BLOCK, "shortcut = x\n        x = self.norm2(x)",
            "x = self.norm2(x)", hints.NO_SHORTCUT),
    Mistake("post-norm", *BLOCK, "        x = self.norm1(x)\n        x = self.drop_shortcut("
            "self.att(x))\n        x = x + shortcut\n        shortcut = x\n        x = self.norm2("
            "x)\n        x = self.drop_shortcut(self.ff(x))\n        return x + shortcut",
            "        x = self.norm1(x + self.drop_shortcut(self.att(x)))\n"
            "        return self.norm2(x + self.drop_shortcut(self.ff(x)))", hints.POST_NORM),
    Mistake("shortcut after the norm", *BLOCK, "shortcut = x\n        x = self.norm1(x)",
            "x = self.norm1(x)\n        shortcut = x", hints.NORM_ON_SHORTCUT),
    Mistake("one norm for both", *BLOCK, "x = self.norm2(x)", "x = self.norm1(x)",
            hints.WRONG_NORM),
    Mistake("a shared norm", *BLOCK, "self.norm2 = LayerNorm(cfg[\"emb_dim\"])",
            "self.norm2 = self.norm1", hints.PARAMETERS),
    Mistake("norm left out", *BLOCK, "x = self.norm1(x)", "pass", hints.WRONG_NORM),
    Mistake("no attention", *BLOCK, "self.att(x)", "x * 0 + 1", hints.GRADIENT),
    Mistake("dropout in evaluation", *BLOCK, "self.drop_shortcut(self.ff(x))",
            "nn.functional.dropout(self.ff(x), self.drop_shortcut.p)", hints.DROPOUT_IN_EVAL),
    Mistake("qkv_bias not passed on", *BLOCK, "            qkv_bias=cfg[\"qkv_bias\"],\n", "",
            hints.QKV_BIAS),
    Mistake("positions missing", *GPT, " + self.pos_emb(places)", "", hints.POSITIONS),
    Mistake("positions all 0", *GPT, "self.pos_emb(places)", "self.pos_emb(places * 0)",
            hints.POSITIONS),
    Mistake("positions by token", *GPT, "self.pos_emb(places)",
            "self.pos_emb(in_idx % len(self.pos_emb.weight))", hints.POSITION_INDEX),
    Mistake("final norm missing", *GPT, "x = self.final_norm(x)", "pass", hints.FINAL_NORM),
    Mistake("bias in the head", *GPT, ", bias=False", "", hints.HEAD_BIAS),
    Mistake("blocks left out", *GPT, "x = self.trf_blocks(x)", "pass", hints.BLOCKS),
    Mistake("one block", *GPT, "range(cfg[\"n_layers\"])", "range(1)", hints.BLOCKS),
    Mistake("one block again and again", *GPT, "*[TransformerBlock(cfg) for _ in "
            "range(cfg[\"n_layers\"])]", "*[TransformerBlock(cfg)] * cfg[\"n_layers\"]",
            hints.BLOCKS),
    Mistake("blocks in a list", *GPT, "nn.Sequential(*[TransformerBlock(cfg) for _ in "
            "range(cfg[\"n_layers\"])])", "[TransformerBlock(cfg) for _ in range(2)]\n"
            "        self.trf_blocks = lambda x, b=self.trf_blocks: b[1](b[0](x))",
            hints.UNREGISTERED),
    Mistake("embedding dropout missing", *GPT, "x = self.drop_emb(x)",
            "x = nn.functional.dropout(x, self.drop_emb.p)", hints.DROPOUT_IN_EVAL),
    Mistake("probabilities instead of scores", *GPT, "return self.out_head(x)",
            "return torch.softmax(self.out_head(x), dim=-1)", hints.LOGITS),
    Mistake("last position only", *GPT, "return self.out_head(x)",
            "return self.out_head(x[:, -1])", hints.SHAPE),
    Mistake("no mask in the model", *MULTI, "scores = scores.masked_fill(hidden, -torch.inf)\n",
            "pass\n", hints.NO_MASK, checked="GPTModel"),
    Mistake("context not cropped", *WRITE, "idx[:, -context_size:]", "idx", hints.CROP_MISSING),
    Mistake("cropped at the wrong end", *WRITE, "-context_size:]", ":context_size]",
            hints.CROP_WRONG_END),
    Mistake("first position's scores", *WRITE, "logits[:, -1, :]", "logits[:, 0, :]",
            hints.LAST_POSITION),
    Mistake("choice over the batch", *WRITE, "torch.argmax(logits, dim=-1, keepdim=True)",
            "torch.argmax(logits).expand(len(idx), 1)", hints.ARGMAX_DIM),
    Mistake("prompt dropped", *WRITE, "return idx", "return idx[:, -max_new_tokens:]",
            hints.PROMPT_LOST),
    Mistake("put in front", *WRITE, "(idx, chosen)", "(chosen, idx)", hints.PROMPT_LOST),
    Mistake("one turn too many", *WRITE, "range(max_new_tokens)", "range(max_new_tokens + 1)",
            hints.NEW_TOKENS),
]
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_planted_mistake_is_caught_with_its_hint(mistake: Mistake) -> None:
    must_be_caught(mistake)


@pytest.mark.parametrize("chapter", ["ch04"])
def test_right_file_has_no_mistake(chapter: str) -> None:
    for name in {check.name for check in checks_of(chapter)}:
        assert {result.state for result in results(right_source(), chapter, name)} == {"right"}
