from __future__ import annotations

import pytest
from planted import Mistake, must_be_caught, results, right_source

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.run import checks_of

V1, V2 = ("ch02", "SimpleTokenizerV1"), ("ch02", "SimpleTokenizerV2")
DATA, LOADER = ("ch02", "GPTDatasetV1"), ("ch02", "create_dataloader_v1")
LOSS, LOSSES = ("ch05", "calc_loss_batch"), ("ch05", "calc_loss_loader")
EVALUATE, TRAIN = ("ch05", "evaluate_model"), ("ch05", "train_model_simple")
GENERATE = ("ch05", "generate")
STACKED = "nn.functional.cross_entropy(logits.flatten(0, 1), target_batch.flatten())"
# A table with one mistake per row.
# fmt: off
MISTAKES = [
    Mistake("no double dash", *V1, "|--", "", hints.SPLIT),
    Mistake("blanks kept", *V1, "[piece.strip() for piece in pieces if piece.strip()]",
            "[piece for piece in pieces if piece]", hints.SPLIT),
    Mistake("blanks before marks", *V1, "return re.sub(r'\\s+([,.?!\"()\\'])', r\"\\1\", text)",
            "return text", hints.JOIN),
    Mistake("not turned around", *V1, "{number: word for word, number in vocab.items()}", "vocab",
            hints.INVERSE),
    Mistake("unknown words", *V2, "else \"<|unk|>\"", "else piece", hints.UNKNOWN),
    Mistake("targets unshifted", *DATA, "ids[start + 1 : start + max_length + 1]",
            "ids[start : start + max_length]", hints.TARGETS_NOT_SHIFTED),
    Mistake("targets are the next window", *DATA, "ids[start + 1 : start + max_length + 1]",
            "(ids * 2)[start + max_length - 1 : start + 2 * max_length - 1]",
            hints.TARGETS_SHIFTED_WRONG),
    Mistake("stride ignored", *DATA, "max_length, stride)", "max_length)", hints.SIGNATURE),
    Mistake("stride of one", *DATA, "len(ids) - max_length, stride", "len(ids) - max_length, 1",
            hints.STRIDE_IGNORED),
    Mistake("stride is the length", *DATA, "- max_length, stride", "- max_length, max_length",
            hints.STRIDE_IGNORED),
    Mistake("ragged windows", *DATA, "len(ids) - max_length, stride", "len(ids), stride",
            hints.RAGGED),
    Mistake("one window lost", *DATA, "len(ids) - max_length,", "len(ids) - max_length - 1,",
            hints.WINDOWS),
    Mistake("lists instead of tensors", *DATA, "torch.tensor(targets)", "targets", "tensor"),
    Mistake("never shuffled", *LOADER, "shuffle=shuffle", "shuffle=False", hints.SHUFFLE),
    Mistake("drop_last ignored", *LOADER, "drop_last=drop_last", "drop_last=False",
            hints.DROP_LAST),
    Mistake("stride not passed on", *LOADER, "max_length, stride)\n", "max_length, max_length)\n",
            hints.STRIDE_IGNORED),
    Mistake("no batch of ids", "ch05", "text_to_token_ids", ".unsqueeze(0)", "", hints.BATCH_DIM),
    Mistake("batch not removed", "ch05", "token_ids_to_text", ".squeeze(0)", "", hints.BATCH_DIM),
    Mistake("everything squeezed", "ch05", "token_ids_to_text", ".squeeze(0)", ".squeeze()",
            hints.BATCH_DIM),
    Mistake("sum instead of mean", *LOSS, "target_batch.flatten())",
            "target_batch.flatten(), reduction='sum')", hints.LOSS_SUM),
    Mistake("softmax before the loss", *LOSS, "logits.flatten(0, 1)",
            "logits.softmax(-1).flatten(0, 1)", hints.LOSS_SOFTMAX),
    Mistake("not flattened", *LOSS, STACKED, "nn.functional.cross_entropy(logits, target_batch)",
            hints.LOSS_DIM),
    Mistake("loss over the wrong axis", *LOSS, STACKED, "-logits.log_softmax(1).gather(-1, "
            "target_batch.unsqueeze(-1)).mean()", hints.LOSS_DIM),
    Mistake("rows mixed", *LOSS, "logits.flatten(0, 1)", "logits.transpose(0, 1).flatten(0, 1)",
            hints.LOSS_DIM),
    Mistake("last position only", *LOSS, STACKED,
            "nn.functional.cross_entropy(logits[:, -1], target_batch[:, -1])",
            hints.LOSS_LAST_ONLY),
    Mistake("shifted twice", *LOSS, STACKED, "nn.functional.cross_entropy(logits[:, :-1]"
            ".flatten(0, 1), target_batch[:, 1:].flatten())", hints.LOSS_SHIFTED_TWICE),
    Mistake("loss against the inputs", *LOSS, "target_batch.flatten()", "input_batch.flatten()",
            hints.TARGETS_NOT_SHIFTED),
    Mistake("loss without a graph", *LOSS, STACKED, STACKED + ".detach()", hints.GRADIENT),
    Mistake("sum of batches", *LOSSES, "total / num_batches", "total", hints.LOADER_DIVISOR),
    Mistake("divided by all batches", *LOSSES, "total / num_batches", "total / len(data_loader)",
            hints.LOADER_DIVISOR),
    Mistake("num_batches ignored", *LOSSES, "        if i >= num_batches:\n            break\n",
            "        num_batches = len(data_loader)\n", hints.LOADER_NUM_BATCHES),
    Mistake("last batch only", *LOSSES, "total += ", "total = ", hints.LOADER_LAST),
    Mistake("no evaluation mode", *EVALUATE, "model.eval()", "pass", hints.EVAL_MODE),
    Mistake("no training mode", *EVALUATE, "model.train()", "pass", hints.TRAIN_MODE),
    Mistake("losses swapped", *EVALUATE, "return train_loss, val_loss",
            "return val_loss, train_loss", hints.SWAPPED_LOADERS),
    Mistake("eval_iter ignored", *EVALUATE, ", eval_iter)\n", ")\n", hints.LOADER_NUM_BATCHES),
    Mistake("gradients kept", *TRAIN, "optimizer.zero_grad()", "pass", hints.NO_ZERO_GRAD),
    Mistake("no step", *TRAIN, "optimizer.step()", "pass", hints.NO_STEP),
    Mistake("one epoch", *TRAIN, "range(num_epochs)", "range(1)", hints.EPOCHS),
    Mistake("rows counted", *TRAIN, "inputs.numel()", "len(inputs)", hints.TOKENS_SEEN),
    Mistake("evaluates for ever", *EVALUATE, "model.train()", "pass", hints.TRAIN_MODE,
            checked="train_model_simple"),
    Mistake("temperature inverted", "ch05", "softmax_with_temperature", "logits / temperature",
            "logits * temperature", hints.TEMPERATURE_INVERTED),
    Mistake("temperature ignored", "ch05", "softmax_with_temperature", "logits / temperature",
            "logits", hints.TEMPERATURE_IGNORED),
    Mistake("temperature inverted in sampling", *GENERATE, "logits / temperature",
            "logits * temperature", hints.TEMPERATURE_INVERTED),
    Mistake("temperature ignored in sampling", *GENERATE, "logits / temperature", "logits",
            hints.TEMPERATURE_IGNORED),
    Mistake("top-k on the wrong axis", *GENERATE, "torch.topk(logits, top_k)",
            "torch.topk(logits, top_k, dim=0)", hints.TOP_K_AXIS),
    Mistake("last row of top-k", *GENERATE, "best[:, -1]", "best[-1]", hints.TOP_K_AXIS),
    Mistake("the first of top-k", *GENERATE, "best[:, -1]", "best[:, 0]", hints.TOP_K),
    Mistake("dropped logits are 0", *GENERATE, "-torch.inf", "0.0", hints.TOP_K),
    Mistake("does not stop", *GENERATE, "if chosen == eos_id", "if chosen is eos_id", hints.EOS),
    Mistake("context not cropped", *GENERATE, "idx[:, -context_size:]", "idx", hints.CROP_MISSING),
    Mistake("softmax in the network", "appendix_a", "NeuralNetwork", "return self.layers(x)",
            "return self.layers(x).softmax(-1)", hints.LOGITS),
    Mistake("activation at the end", "appendix_a", "NeuralNetwork", "nn.Linear(20, num_outputs),",
            "nn.Linear(20, num_outputs), nn.Sigmoid(),", hints.ACTIVATIONS),
    Mistake("rows for columns", "appendix_a", "ToyDataset", "self.labels.shape[0]",
            "self.features.shape[1]", "__len__"),
    Mistake("accuracy by batches", "appendix_a", "compute_accuracy", "count += len(labels)",
            "count += 1", hints.ACCURACY),
    Mistake("accuracy is a count", "appendix_a", "compute_accuracy", "right / count", "right",
            hints.ACCURACY),
]
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_planted_mistake_is_caught_with_its_hint(mistake: Mistake) -> None:
    must_be_caught(mistake)


@pytest.mark.parametrize("chapter", ["ch02", "ch05", "appendix_a"])
def test_right_file_has_no_mistake(chapter: str) -> None:
    for name in {check.name for check in checks_of(chapter)}:
        assert {result.state for result in results(right_source(), chapter, name)} == {"right"}
