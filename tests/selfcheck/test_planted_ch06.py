from __future__ import annotations

import pytest
from planted import READERS, Mistake, must_be_caught, must_be_right, results, right_source

from llm_scratch.selfcheck import chapter6, hints
from llm_scratch.selfcheck.names import read
from llm_scratch.selfcheck.run import checks_of, run_checks

FETCH, BALANCE = ("ch06", "download_and_unzip_spam_data"), ("ch06", "create_balanced_dataset")
SPLIT, DATA = ("ch06", "random_split"), ("ch06", "SpamDataset")
RIGHT, LOSS = ("ch06", "calc_accuracy_loader"), ("ch06", "calc_loss_batch")
LOSSES, EVALUATE = ("ch06", "calc_loss_loader"), ("ch06", "evaluate_model")
TRAIN, PLOT = ("ch06", "train_classifier_simple"), ("ch06", "plot_values")
REVIEW = ("ch06", "classify_review")
LAST, LOGITS = "[:, -1, :]", "logits = model(input_batch)[:, -1, :]"
ENTROPY = "nn.functional.cross_entropy(logits, target_batch)"
BEGIN = "        model.train()\n"
ONLY_THE_HEAD = "        model.requires_grad_(False).out_head.requires_grad_(True)\n"
# A table with one mistake per row.
# fmt: off
MISTAKES = [
    Mistake("not renamed", *FETCH, "unpacked.rename(data_file_path)", "pass", hints.UNPACKED),
    Mistake("not unpacked", *FETCH, "    unpacked = ", "    return\n    unpacked = ",
            hints.UNPACKED),
    Mistake("fetched every time", *FETCH, "if data_file_path.exists()", "if False",
            hints.FETCHED_AGAIN),
    Mistake("all ham kept", *BALANCE, "random.Random(123).sample(ham, len(spam))", "ham",
            hints.BALANCE),
    Mistake("spam drawn, ham kept", *BALANCE, "sample(ham, len(spam)) + spam",
            "sample(spam, len(spam)) + ham", hints.BALANCE),
    Mistake("ham alone", *BALANCE, ") + spam", ")", hints.BALANCE),
    Mistake("drawn with replacement", *BALANCE, "sample(ham, len(spam))",
            "choices(ham, k=len(spam))", hints.REPLACEMENT),
    Mistake("second end from the first", *SPLIT, "train_end + int(", "int(", hints.SPLIT_ENDS),
    Mistake("parts for training and testing swapped", *SPLIT,
            "rows[:train_end], rows[train_end:validation_end], rows[validation_end:]",
            "rows[validation_end:], rows[train_end:validation_end], rows[:train_end]",
            hints.SPLIT_ORDER),
    Mistake("validation and test swapped", *SPLIT,
            "rows[train_end:validation_end], rows[validation_end:]",
            "rows[validation_end:], rows[train_end:validation_end]", hints.SPLIT_ORDER),
    Mistake("test holds the validation rows", *SPLIT, "rows[validation_end:]", "rows[train_end:]",
            hints.SPLIT_LOSES),
    Mistake("last row lost", *SPLIT, "rows[validation_end:]", "rows[validation_end:-1]",
            hints.SPLIT_LOSES),
    Mistake("validated on training rows", *SPLIT, "rows[train_end:validation_end]",
            "rows[: validation_end - train_end]", hints.SPLIT_LEAKS),
    Mistake("not mixed", *SPLIT, "random.Random(123).shuffle(rows)", "pass", hints.SPLIT_UNMIXED),
    Mistake("padded to the shortest", *DATA, "max(len(ids)", "min(len(ids)", hints.PADDED_LENGTH),
    Mistake("not padded", *DATA, "ids + rest for", "ids for", hints.PADDED_LENGTH),
    Mistake("padded left", *DATA, "ids + rest for", "rest + ids for", hints.PADDED_LEFT),
    Mistake("padded with 0", *DATA, "[[pad_token_id]", "[[0]", hints.PADDING_IDS),
    Mistake("pad_token_id ignored", *DATA, "[[pad_token_id]", "[[50256]", hints.PADDING_IDS),
    Mistake("not cut", *DATA, "encoded = [ids[:max_length] for ids in encoded]", "pass",
            hints.NOT_CUT),
    Mistake("cut at the wrong end", *DATA, "ids[:max_length]", "ids[-max_length:]",
            hints.CUT_WRONG_END),
    Mistake("max_length ignored", *DATA, "if max_length is None", "if True",
            hints.MAX_LENGTH_IGNORED),
    Mistake("opposite labels", *DATA, "label = int(", "label = 1 - int(", hints.LABELS),
    Mistake("another row's label", *DATA, "self.data[index]", "self.data[index - 1]",
            hints.LABELS),
    Mistake("columns counted", *DATA, "len(self.data)", "len(self.data[0])", hints.ROWS_COUNTED),
    Mistake("no place chosen in accuracy", *RIGHT, LAST, "", hints.CLASS_POSITION),
    Mistake("second token's class", *RIGHT, LAST, "[:, 1, :]", hints.CLASS_POSITION),
    Mistake("first token's class", *RIGHT, LAST, "[:, 0, :]", hints.CLASS_FIRST),
    Mistake("batches counted", *RIGHT, "len(target_batch)", "1", hints.ACCURACY_BATCHES),
    Mistake("accuracies averaged over batches", *RIGHT,
            "right += (chosen == target_batch).sum().item()\n        count += len(target_batch)",
            "right += (chosen == target_batch).float().mean().item()\n        count += 1",
            hints.ACCURACY_BATCHES),
    Mistake("accuracy is a count", *RIGHT, "right / count", "float(right)",
            hints.ACCURACY_BATCHES),
    Mistake("accuracy in percent", *RIGHT, "right / count", "100 * right / count",
            hints.ACCURACY_PERCENT),
    Mistake("num_batches ignored in accuracy", *RIGHT, "if i >= num_batches", "if False",
            hints.LOADER_NUM_BATCHES),
    Mistake("dropout in accuracy", *RIGHT, "model.eval()", "pass", hints.EVAL_MODE),
    Mistake("no place chosen in the loss", *LOSS, LAST, "", hints.CLASS_POSITION),
    Mistake("last but one", *LOSS, LAST, "[:, -2, :]", hints.CLASS_POSITION),
    Mistake("loss at the first token", *LOSS, LAST, "[:, 0, :]", hints.CLASS_FIRST),
    Mistake("mean of all places", *LOSS, LAST, ".mean(1)", hints.CLASS_POOLED),
    Mistake("maximum of all places", *LOSS, LAST, ".amax(1)", hints.CLASS_POOLED),
    Mistake("sum instead of mean", *LOSS, ENTROPY, ENTROPY + " * len(target_batch)",
            hints.LOSS_SUM),
    Mistake("softmax before the loss", *LOSS, LAST, "[:, -1, :].softmax(-1)", hints.LOSS_SOFTMAX),
    Mistake("loss for opposite labels", *LOSS, "(logits, target_batch)",
            "(logits, 1 - target_batch)", hints.LABELS_INVERTED),
    Mistake("loss without a graph", *LOSS, ENTROPY, ENTROPY + ".detach()", hints.GRADIENT),
    Mistake("head cut off", *LOSS, LOGITS, "model.out_head.requires_grad_(False)\n    " + LOGITS,
            hints.HEAD_CUT_OFF),
    Mistake("body cut off", *LOSS, LOGITS, "model.final_norm.register_forward_hook("
            "lambda *given: given[-1].detach())\n    " + LOGITS, hints.BODY_CUT_OFF),
    Mistake("sum of batches", *LOSSES, "total / num_batches", "total", hints.LOADER_DIVISOR),
    Mistake("last batch only", *LOSSES, "total += ", "total = ", hints.LOADER_LAST),
    Mistake("num_batches ignored", *LOSSES, "        if i >= num_batches:\n            break\n",
            "        num_batches = len(data_loader)\n", hints.LOADER_NUM_BATCHES),
    Mistake("no evaluation mode", *EVALUATE, "model.eval()", "pass", hints.EVAL_MODE),
    Mistake("no training mode", *EVALUATE, "model.train()", "pass", hints.TRAIN_MODE),
    Mistake("losses swapped", *EVALUATE, "return train_loss, val_loss",
            "return val_loss, train_loss", hints.SWAPPED_LOADERS),
    Mistake("eval_iter ignored", *EVALUATE, ", eval_iter)\n", ")\n", hints.LOADER_NUM_BATCHES),
    Mistake("frozen layers learn", *TRAIN, BEGIN, BEGIN + "        model.requires_grad_(True)\n",
            hints.FROZEN),
    Mistake("head left frozen", *TRAIN, BEGIN,
            BEGIN + "        model.out_head.requires_grad_(False)\n", hints.HEAD_CUT_OFF),
    Mistake("only the head learns", *TRAIN, BEGIN, BEGIN + ONLY_THE_HEAD, hints.BODY_CUT_OFF),
    Mistake("gradients kept", *TRAIN, "optimizer.zero_grad()", "pass", hints.NO_ZERO_GRAD),
    Mistake("no step", *TRAIN, "optimizer.step()", "pass", hints.NO_STEP),
    Mistake("two steps", *TRAIN, "optimizer.step()", "optimizer.step(), optimizer.step()",
            hints.TRAINING_STEP),
    Mistake("one epoch", *TRAIN, "range(num_epochs)", "range(1)", hints.EPOCHS),
    Mistake("accuracies at every step", *TRAIN, "                val_losses.append(losses[1])\n",
            "                val_losses.append(losses[1])\n                val_accs.append(0.5)\n",
            hints.ACCURACIES_KEPT),
    Mistake("accuracies in percent", *TRAIN, "val_accs.append(", "val_accs.append(100 * ",
            hints.ACCURACY_PERCENT),
    Mistake("tokens counted", *TRAIN, "inputs.shape[0]", "inputs.numel()", hints.EXAMPLES_SEEN),
    Mistake("batches counted in training", *TRAIN, "inputs.shape[0]", "1", hints.EXAMPLES_SEEN),
    Mistake("evaluates for ever", *EVALUATE, "model.train()", "pass", hints.TRAIN_MODE,
            checked="train_classifier_simple"),
    Mistake("one curve twice", *PLOT, "val_values, linestyle", "train_values, linestyle",
            hints.CURVES),
    Mistake("curves over examples", *PLOT, "axes.plot(epochs_seen, ",
            "axes.plot(examples_seen, ", hints.CURVES),
    Mistake("class of the first token", *REVIEW, LAST, "[:, 0, :]", hints.CLASS_FIRST),
    Mistake("class of the last token but one", *REVIEW, LAST, "[:, -2, :]", hints.CLASS_POSITION),
    Mistake("class before the padding", *REVIEW, LAST, "[:, min(len(text), length) - 1, :]",
            hints.CLASS_POSITION),
    Mistake("spam is not spam", *REVIEW, "label == 1", "label == 0", hints.CLASSES_SWAPPED),
    Mistake("spam with a capital letter", *REVIEW, '"spam"', '"Spam"', hints.CLASS_NAMES),
    Mistake("a number for a class", *REVIEW, '"spam" if label == 1 else "not spam"', "label",
            hints.CLASS_NAMES),
    Mistake("message not padded", *REVIEW, "ids += [pad_token_id]", "ids += []",
            hints.PADDED_LENGTH),
    Mistake("message padded too far", *REVIEW, "supported if max_length is None else min("
            "max_length, supported)", "supported", hints.PADDED_LENGTH),
    Mistake("message padded left", *REVIEW, "ids += [pad_token_id] * (length - len(ids))",
            "ids = [pad_token_id] * (length - len(ids)) + ids", hints.PADDED_LEFT),
    Mistake("message padded with 0", *REVIEW, "[pad_token_id]", "[0]", hints.PADDING_IDS),
    Mistake("message not cut", *REVIEW, "ids[:length]", "ids", hints.NOT_CUT),
    Mistake("beginning of a message cut off", *REVIEW, "ids[:length]", "ids[-length:]",
            hints.CUT_WRONG_END),
    Mistake("dropout in use", *REVIEW, "model.eval()", "pass", hints.EVAL_MODE),
]

# What is right too: no result is a mistake; the hint is that of a note, "" where there is none.
VARIANTS = [
    Mistake("other rows at every call", *SPLIT, "random.Random(123)", "random", hints.SPLIT_SEED),
    Mistake("a graph for nothing", *EVALUATE, "with torch.no_grad():", "if True:", hints.NO_GRAD),
    Mistake("a graph for nothing while training", *EVALUATE, "with torch.no_grad():",
            "if True:", "", checked="train_classifier_simple"),
    Mistake("labels as numbers", *DATA, "torch.tensor(label)", "label", ""),
    Mistake("rows as dicts", *BALANCE, "row[0]", 'row["Label"]', ""),
    Mistake("no picture in a file", *PLOT, 'plt.savefig(f"{label}-plot.pdf")', "return figure", ""),
]
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_planted_mistake_is_caught_with_its_hint(mistake: Mistake) -> None:
    must_be_caught(mistake)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_variant_is_right(variant: Mistake) -> None:
    must_be_right(variant)


def test_right_file_has_no_mistake() -> None:
    for name in {check.name for check in checks_of("ch06")}:
        assert {result.state for result in results(right_source("ch06"), "ch06", name)} == {"right"}


def test_different_implementation_is_right() -> None:
    report = run_checks("ch06", read(READERS / "different_ch06.py"))
    assert {result.state for result in report.results} == {"right"}


class Frame:
    """A table that yields the names of its columns, as a DataFrame does."""

    def __iter__(self):
        return iter(("Label", "Text"))


@pytest.mark.parametrize("name", ["create_balanced_dataset", "random_split"])
def test_function_on_rows_is_right_where_a_table_comes_first(monkeypatch, name: str) -> None:
    rows = list(chapter6.MESSAGES)
    monkeypatch.setattr(chapter6, "_tables", lambda _: iter((Frame(), rows)))
    states = {result.state for result in results(right_source("ch06"), "ch06", name)}
    assert states == {"right"}


ON_A_TABLE = """
def create_balanced_dataset(df):
    spam = df[df["Label"] == "spam"]
    return spam
"""


def test_function_on_a_table_waits_where_pandas_is_missing(monkeypatch) -> None:
    rows = list(chapter6.MESSAGES)
    monkeypatch.setattr(chapter6, "_tables", lambda _: iter((rows,)))
    namespace: dict[str, object] = {}
    exec(ON_A_TABLE, namespace)
    report = run_checks("ch06", read(namespace))
    first = next(result for result in report.results if result.state == "waits")
    assert first.check.name == "create_balanced_dataset"
    assert "pandas, which is not installed" in first.detail
    assert report.exit_status == 0
    assert max(map(len, report.lines())) <= 100
