from __future__ import annotations

import pytest
from planted import READERS, Mistake, must_be_caught, must_be_right, results, right_source

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.names import read
from llm_scratch.selfcheck.run import checks_of, run_checks

HIGHEST, LOOP = ("appendix_d", "find_highest_gradient"), ("appendix_d", "train_model")
LORA, LINEAR = ("appendix_e", "LoRALayer"), ("appendix_e", "LinearWithLoRA")
MERGED, REPLACE = ("appendix_e", "LinearWithLoRAMerged"), ("appendix_e", "replace_linear_with_lora")
PROGRESS = "(step - warmup_steps) / (total_steps - warmup_steps)"
DECAY = "min_lr + (peak_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))"
SET_RATE = """\
            for group in optimizer.param_groups:
                group["lr"] = lr
"""
CLIP = "nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)"
IF_CLIP = f"if step >= warmup_steps:\n                {CLIP}\n"
REST = f"""\
            track_lrs.append(lr)
            loss = calc_loss_batch(inputs, targets, model, device)
            loss.backward()
            {IF_CLIP}            optimizer.step()
"""
RANDOM_A = "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))"
END_OF_LORA = """\
        self.B = nn.Parameter(torch.zeros(rank, out_dim))
        self.alpha = alpha
        self.rank = rank

    def forward(self, x):
        return (self.alpha / self.rank) * (x @ self.A @ self.B)"""
OTHER_LINEAR = "nn.Linear(linear.in_features, linear.out_features)"
# A table with one mistake per row.
# fmt: off
MISTAKES = [
    Mistake("highest weight", *HIGHEST, "param.grad.max()", "param.max()", hints.HIGHEST_WEIGHT),
    Mistake("smallest gradient", *HIGHEST, "max()\n            if highest is None or largest >",
            "min()\n            if highest is None or largest <", hints.HIGHEST_SMALLEST),
    Mistake("last parameter's gradient", *HIGHEST, "highest is None or largest > highest", "True",
            hints.HIGHEST),
    Mistake("highest begins at 0", *HIGHEST, "= None", "= torch.tensor(0.0)", hints.HIGHEST_START),
    Mistake("sign dropped too late", *HIGHEST, "return highest", "return highest.abs()",
            hints.HIGHEST_LATE_SIGN),
    Mistake("a parameter without gradient", *HIGHEST, "param.grad is not None", "True",
            hints.HIGHEST_NONE),
    Mistake("gradients changed", *HIGHEST, "grad.max()", "grad.abs_().max()",
            hints.HIGHEST_CHANGED),
    Mistake("no step", *LOOP, "optimizer.step()", "pass", hints.NO_STEP),
    Mistake("one epoch", *LOOP, "range(n_epochs)", "range(1)", hints.EPOCHS),
    Mistake("a step behind", *LOOP, "step = 0, -1", "step = 0, -2", hints.STEP_COUNT),
    Mistake("two steps ahead", *LOOP, "step = 0, -1", "step = 0, 1", hints.STEP_COUNT),
    Mistake("peak left out", *LOOP, PROGRESS,
            "(step + 1 - warmup_steps) / (total_steps - warmup_steps)", hints.STEP_COUNT),
    Mistake("no warm-up", *LOOP, "initial_lr + step * increment", "peak_lr", hints.NO_WARMUP),
    Mistake("decay alone", *LOOP, "if step < warmup_steps", "if False", hints.NO_WARMUP),
    Mistake("warm-up from 0", *LOOP, "initial_lr + step * increment",
            "peak_lr * step / warmup_steps", hints.INITIAL_LR),
    Mistake("warm-up too steep", *LOOP, "(peak_lr - initial_lr)", "peak_lr", hints.WARMUP),
    Mistake("cosine goes up", *LOOP, "(1 + math.cos", "(1 - math.cos", hints.COSINE_UP),
    Mistake("min_lr forgotten", *LOOP, "min_lr + (peak_lr - min_lr)", "peak_lr", hints.MIN_LR),
    Mistake("min_lr on top", *LOOP, "(peak_lr - min_lr)", "peak_lr", hints.MIN_LR),
    Mistake("cosine over the whole run", *LOOP, PROGRESS, "step / total_steps",
            hints.COSINE_LENGTH),
    Mistake("cosine never at its end", *LOOP, PROGRESS, "(step - warmup_steps) / total_steps",
            hints.COSINE_LENGTH),
    Mistake("cosine over one epoch", *LOOP, "len(train_loader) * n_epochs", "len(train_loader)",
            hints.COSINE_LENGTH),
    Mistake("cosine without pi", *LOOP, "math.pi * ", "", hints.COSINE),
    Mistake("a line instead of a cosine", *LOOP, DECAY, "peak_lr - (peak_lr - min_lr) * progress",
            hints.COSINE),
    Mistake("no decay", *LOOP, DECAY, "peak_lr", hints.NO_DECAY),
    Mistake("rate not set", *LOOP, SET_RATE, "", hints.RATE_NOT_SET),
    Mistake("rate of one group", *LOOP, "group in optimizer.param_groups",
            "group in optimizer.param_groups[:1]", hints.RATE_GROUPS),
    Mistake("rate set after the step", *LOOP, SET_RATE + REST, REST + SET_RATE,
            hints.RATE_LATE),
    Mistake("no clipping", *LOOP, CLIP, "pass", hints.NO_CLIP),
    Mistake("clipping before backward", *LOOP, f"loss.backward()\n            {IF_CLIP}",
            f"{IF_CLIP}            loss.backward()\n", hints.NO_CLIP),
    Mistake("clipping after the step", *LOOP, f"{IF_CLIP}            optimizer.step()\n",
            f"optimizer.step()\n            {IF_CLIP}", hints.CLIP_LATE),
    Mistake("clipping to another norm", *LOOP, "max_norm=1.0", "max_norm=0.5", hints.CLIP_NORM),
    Mistake("each parameter clipped", *LOOP, CLIP,
            "[nn.utils.clip_grad_norm_(p, 1.0) for p in model.parameters()]", hints.CLIP_NORM),
    Mistake("clipping in warm-up", *LOOP, "if step >= warmup_steps", "if step < warmup_steps",
            hints.CLIP_WHEN),
    Mistake("clipping at every other step", *LOOP, "if step >= warmup_steps", "if step % 2",
            hints.CLIP_WHEN),
    Mistake("gradients kept", *LOOP, "optimizer.zero_grad()", "pass", hints.NO_ZERO_GRAD),
    Mistake("two backward passes", *LOOP, "loss.backward()",
            "loss.backward(retain_graph=True)\n            loss.backward()", hints.TRAINING_STEP),
    Mistake("rates in another order", *LOOP, "track_lrs.append(lr)", "track_lrs.insert(0, lr)",
            hints.RATES_TOLD),
    Mistake("rows counted", *LOOP, "inputs.numel()", "len(inputs)", hints.TOKENS_SEEN),
    Mistake("evaluates for ever", "appendix_d", "evaluate_model", "model.train()", "pass",
            hints.TRAIN_MODE, checked="train_model"),
    Mistake("B not zero", *LORA, "torch.zeros", "torch.randn", hints.LORA_START),
    Mistake("A zero too", *LORA, RANDOM_A, "nn.init.zeros_(self.A)", hints.LORA_STUCK),
    Mistake("A all ones", *LORA, RANDOM_A, "nn.init.ones_(self.A)", hints.LORA_A_START),
    Mistake("B is not a parameter", *LORA, "nn.Parameter(torch.zeros(rank, out_dim))",
            "torch.zeros(rank, out_dim)", hints.LORA_MATRICES),
    Mistake("alpha forgotten", *LORA, "(self.alpha / self.rank) * ", "", hints.ALPHA_MISSING),
    Mistake("upside down", *LORA, "self.alpha / self.rank", "self.rank / self.alpha",
            hints.ALPHA_RANK),
    Mistake("times the rank", *LORA, "self.alpha / self.rank", "self.alpha * self.rank",
            hints.ALPHA_RANK),
    Mistake("by the rank alone", *LORA, "self.alpha / self.rank", "1 / self.rank",
            hints.ALPHA_RANK),
    Mistake("squared", *LORA, "(x @ self.A @ self.B)", "(x @ self.A @ self.B) ** 2",
            hints.LORA_PRODUCT),
    Mistake("A does not learn", *LORA, "@ self.A @", "@ self.A.detach() @", hints.GRADIENT),
    Mistake("another linear layer", *LINEAR, "self.linear = linear",
            f"self.linear = {OTHER_LINEAR}", hints.LINEAR_NEW),
    Mistake("linear layer left out", *LINEAR, "self.linear(x) + ", "", hints.LINEAR_UNUSED),
    Mistake("bias lost", *LINEAR, "self.linear(x)", "x @ self.linear.weight.T", hints.LINEAR_BIAS),
    Mistake("LoRA left out", *LINEAR, " + self.lora(x)", "", hints.LORA_UNUSED),
    Mistake("LoRA subtracted", *LINEAR, " + self.lora(x)", " - self.lora(x)", hints.LORA_SUM),
    Mistake("linear layer unfrozen", *LINEAR, "self.linear = linear",
            "self.linear = linear\n        linear.weight = nn.Parameter(linear.weight.data)",
            hints.LINEAR_UNFROZEN),
    Mistake("rank and alpha swapped", *LINEAR, "out_features, rank, alpha", "out_features, alpha, "
            "rank", hints.RANK_ALPHA),
    Mistake("no gradient for what comes before", *LINEAR, "self.linear(x)",
            "torch.no_grad()(self.linear)(x)", hints.GRADIENT),
    Mistake("merged without bias", *MERGED, ", self.linear.bias", "", hints.LINEAR_BIAS),
    Mistake("merged without alpha", *MERGED, " * (self.lora.alpha / self.lora.rank)", "",
            hints.ALPHA_MISSING),
    Mistake("outermost only", *REPLACE, "        else:\n            replace_linear_with_lora(module"
            ", rank, alpha)", "", hints.REPLACED_TOP),
    Mistake("new layers replaced too", *REPLACE, "        else:\n            replace_linear_with_"
            "lora(module,", "        if True:\n            replace_linear_with_lora(getattr(model, "
            "name),", hints.REPLACED_AGAIN),
    Mistake("head left out", *REPLACE, "isinstance(module, nn.Linear)",
            "isinstance(module, nn.Linear) and name != 'out_head'", hints.REPLACED_HEAD),
    Mistake("not in place", *REPLACE, "setattr(model, name, LinearWithLoRA(module, rank, alpha))",
            "module = LinearWithLoRA(module, rank, alpha)", hints.REPLACED_NONE),
    Mistake("base learns", *REPLACE, "setattr(",
            "module.requires_grad_(True)\n            setattr(", hints.LINEAR_UNFROZEN),
    Mistake("passed on in the wrong order", *REPLACE, "WithLoRA(module, rank, alpha)",
            "WithLoRA(module, alpha, rank)", hints.RANK_ALPHA),
    Mistake("alpha not passed on", *REPLACE, "WithLoRA(module, rank, alpha)",
            "WithLoRA(module, rank, rank)", hints.RANK_ALPHA),
    Mistake("alpha lost on the way down", *REPLACE, "with_lora(module, rank, alpha)",
            "with_lora(module, rank, 1)", hints.RANK_ALPHA),
    Mistake("model changed at once", "appendix_e", "LoRALayer", "torch.zeros", "torch.ones",
            hints.REPLACED_CHANGED, checked="replace_linear_with_lora"),
]

# What is right too: no result is a mistake; the hint is that of a note, "" where there is none.
VARIANTS = [
    Mistake("without the sign", *HIGHEST, "grad.max()", "grad.abs().max()", ""),
    Mistake("with the sign of the largest", *HIGHEST, "return highest", "return max((v for p in "
            "model.parameters() if p.grad is not None for v in p.grad.tolist()), key=abs)", ""),
    Mistake("with the sign", *HIGHEST, "= None", "= None", hints.HIGHEST_SIGN),
    Mistake("clipping always", *LOOP, "if step >= warmup_steps:\n                nn",
            "if True:\n                nn", ""),
    Mistake("clipping as first printed", *LOOP, "if step >= warmup_steps", "if step > warmup_steps",
            ""),
    Mistake("peak at the end of warm-up", *LOOP, "step * increment", "(step + 1) * increment",
            hints.RATE_REPAIRED),
    Mistake("from initial_lr to the peak in warm-up", *LOOP, "/ warmup_steps\n",
            "/ (warmup_steps - 1)\n", hints.RATE_REPAIRED),
    Mistake("min_lr at the last step", *LOOP, "(total_steps - warmup_steps)",
            "(total_steps - warmup_steps - 1)", hints.RATE_REPAIRED),
    Mistake("steps counted from 1", *LOOP, "step = 0, -1", "step = 0, 0", hints.RATE_REPAIRED),
    Mistake("a scheduler of torch's", *LOOP, SET_RATE, "            torch.optim.lr_scheduler."
            "LambdaLR(optimizer, lambda _: lr / peak_lr)\n", ""),
    Mistake("alpha alone, as first printed", *LORA, "(self.alpha / self.rank)", "self.alpha",
            hints.ALPHA_ALONE),
    Mistake("B in rows of their own", *LORA, END_OF_LORA, END_OF_LORA.replace("nn.Parameter(torch."
            "zeros(rank, out_dim))", "nn.ParameterList(torch.zeros(out_dim) for _ in range(rank))")
            .replace("self.B)", "torch.stack(list(self.B)))"), ""),
    Mistake("B random and A zero", *LORA, "self.alpha = alpha", "self.alpha = alpha\n"
            "        nn.init.zeros_(self.A), nn.init.normal_(self.B)", hints.LORA_SWAPPED),
    Mistake("head and all come back", *REPLACE, "def replace_linear_with_lora(model, rank, alpha):",
            "def replace_linear_with_lora(model, rank=8, alpha=8, verbose=False):", ""),
]
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_planted_mistake_is_caught_with_its_hint(mistake: Mistake) -> None:
    must_be_caught(mistake)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_variant_is_right(variant: Mistake) -> None:
    must_be_right(variant)
    assert not variant.hint or "not a fault" in variant.hint


@pytest.mark.parametrize("chapter", ["appendix_d", "appendix_e"])
def test_right_file_has_no_mistake(chapter: str) -> None:
    for name in {check.name for check in checks_of(chapter)}:
        states = {result.state for result in results(right_source(), chapter, name)}
        assert states <= ({"right", "note"} if name == "find_highest_gradient" else {"right"})


@pytest.mark.parametrize("chapter", ["appendix_d", "appendix_e"])
def test_different_implementation_is_right(chapter: str) -> None:
    report = run_checks(chapter, read(READERS / "different_appendices.py"))
    assert {result.state for result in report.results} == {"right", "note"}
    assert all("not a fault" in result.hint for result in report.results if result.state == "note")
