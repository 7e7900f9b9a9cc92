"""Classifiers for any number of classes: a new head, training, use, saving and loading."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack, get_args

import torch
from torch import Tensor

from llm_scratch.checks import check_count
from llm_scratch.files import read_json, write_json
from llm_scratch.finetuning.labelled_texts import ClassificationDataset
from llm_scratch.finetuning.runs import Trained
from llm_scratch.finetuning.scores import confusion_matrix
from llm_scratch.finetuning.spam_classifier import warn_of_cut
from llm_scratch.model.heads import head_of
from llm_scratch.model.linear import Linear
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import device_of
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import RunOptions
from llm_scratch.training.loop import train as run_training
from llm_scratch.training.starting import RunState
from llm_scratch.weights.folder import load_model, save_model

CLASSES_FILE = "classes.json"


class Classified(NamedTuple):
    """The classes of n texts: one name each, and (n, N) probabilities."""

    classes: list[str]
    probabilities: Tensor


class Classifier(NamedTuple):
    """A model with a head for classes, its tokenizer, and the names of the classes."""

    model: Any
    tokenizer: Any
    class_names: tuple[str, ...]

    def classify(self, texts: Sequence[str], *, batch_size: int = 32) -> Classified:
        """Return the likeliest class of each text, and the probabilities; see `classify_texts`."""
        return classify_texts(
            self.model, self.tokenizer, texts, self.class_names, batch_size=batch_size
        )

    def evaluate(self, dataset: ClassificationDataset, *, batch_size: int = 32) -> Tensor:
        """Return the confusion matrix on texts with the same classes; see `evaluate_classifier`.

        Raises:
            ValueError: if the data set has other classes, or a different order of them.
        """
        if dataset.class_names != self.class_names:
            raise ValueError(
                f"the data has the classes {', '.join(dataset.class_names)}, the classifier "
                f"{', '.join(self.class_names)}; make the data with its class_names="
            )
        return evaluate_classifier(self.model, dataset, batch_size=batch_size)


def replace_head(model: Any, num_classes: int, train: Trained = "last block") -> Any:
    """Return the same model with a new head for classes: (B, T) ids -> (B, T, num_classes) logits.

    The head has a bias and is drawn as in the book: nothing else is drawn after the seed.

    Args:
        model: changed in place.
        num_classes: 2 or more.
        train: the part to train: "last block" with the final norm and the head, as in the book;
            "all"; or only the "head". The other parameters are frozen.

    Raises:
        ValueError: if there are fewer than two classes, or `train` is not one of these.

    Source:
        Book 6.5.
    """
    if num_classes < 2:
        raise ValueError(f"{num_classes=} must be 2 or more")
    if train not in get_args(Trained):
        raise ValueError(f"{train=} must be one of {', '.join(map(repr, get_args(Trained)))}")
    for parameter in model.parameters():
        parameter.requires_grad_(train == "all")
    like = model.tok_emb.weight
    head = Linear(model.cfg.emb_dim, num_classes)
    model.out_head = head.to(device=like.device, dtype=like.dtype)
    if train == "last block":
        for part in (model.trf_blocks[-1], model.final_norm):
            part.requires_grad_(True)
    return model


@torch.no_grad()
def class_probabilities(
    model: Any, encoded: Sequence[Sequence[int]], *, batch_size: int = 32
) -> Tensor:
    """Return class probabilities, read at the last token of each row of ids: (n, N) float32.

    Rows of about the same length are computed together; the result is in the order given.

    Raises:
        ValueError: if a row is empty or longer than the model's context, or there is no row.
    """
    check_count("batch_size", batch_size)
    context_length = model.cfg.context_length
    rows = TokenRows(
        [(ids, [0] * len(ids)) for ids in encoded], pad_id=0, vocab_size=model.cfg.vocab_size
    )
    rows.num_rows(context_length)
    device = device_of(model)
    order = rows.lengths.argsort(kind="stable").tolist()
    probabilities: list[Tensor] = [torch.empty(0)] * len(rows)
    with evaluation_mode(model):
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            hidden = model.hidden_states(rows.padded(chosen)[0].to(device))  # (B, T, C)
            last = torch.from_numpy(rows.lengths[chosen] - 1).to(device)  # (B,)
            logits = model.out_head(hidden[torch.arange(len(chosen), device=device), last])
            for row, values in zip(chosen, logits.float().softmax(dim=-1).cpu(), strict=True):
                probabilities[row] = values
    return torch.stack(probabilities)


def classify_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    class_names: Sequence[str] | None = None,
    *,
    batch_size: int = 32,
) -> Classified:
    """Return the likeliest class of each text, and the probabilities of all classes.

    A text's class is read at its last token and does not depend on the other texts. Tokens beyond
    the model's context are not read; a warning counts such texts.

    Args:
        model: a `GPTModel` with a head for classes.
        tokenizer: the one that the model was trained with.
        texts: one or more texts. A special token written in one is read as ordinary text.
        class_names: the classes' names; None takes the model's own, or "0", "1", ...
        batch_size: the number of texts computed together.

    Raises:
        ValueError: if there is no text, one has no token, or there is not one name per class.
        TypeError: if `texts` is one text instead of a list.
    """
    if isinstance(texts, str):
        raise TypeError("texts is one text; give a list of texts")
    N = num_classes_of(model)
    names = list(class_names or model.class_names or map(str, range(N)))
    if len(names) != N:
        raise ValueError(f"{len(names)} class names for a model of {N} classes; give one for each")
    encoded = [encode(tokenizer, text, "text") for text in texts]
    for number, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"text {number} has no token; there is nothing to classify")
    warn_of_cut(encoded, model.cfg.context_length)
    encoded = [ids[: model.cfg.context_length] for ids in encoded]
    probabilities = class_probabilities(model, encoded, batch_size=batch_size)
    return Classified([names[i] for i in probabilities.argmax(dim=-1).tolist()], probabilities)


def evaluate_classifier(
    model: Any, dataset: ClassificationDataset, *, batch_size: int = 32
) -> Tensor:
    """Return the confusion matrix on labelled texts: (N, N) counts, rows are the true classes.

    Raises:
        ValueError: if the number of classes differs from the model's, or a text is too long for it.
    """
    check_classes(model, dataset.class_names)
    encoded = [dataset[row][0].tolist() for row in range(len(dataset))]
    predicted = class_probabilities(model, encoded, batch_size=batch_size).argmax(dim=-1)
    return confusion_matrix(dataset.labels, predicted, len(dataset.class_names))


def finetune_classifier(
    model: Any,
    tokenizer: Any,
    train: ClassificationDataset,
    validation: ClassificationDataset | None,
    config: TrainConfig,
    **run: Unpack[RunOptions],
) -> RunState:
    """Train a classifier in the loop for real runs, and return the state of the run at its end.

    The folder gets the files of every run, and the classes' names beside the best model, for
    `load_classifier`. The loss is the mean over the texts of a step, however it is split into
    batches.

    Args:
        model: with a head for the classes (`replace_head`); updated in place.
        tokenizer: the one that the data sets were made with.
        train: the texts to learn from, with an example of every class.
        validation: the texts to measure on, with the same classes in the same order.
        config: the settings of the run. A step takes `micro_batch` texts.
        run: the options of the run: `folder`, `resume`, `progress`, `log` and `save_best`, as in
            `training.loop.train`.

    Raises:
        ValueError: if model, data and settings do not fit each other; see `training.loop.train`.
    """
    check_classes(model, train.class_names)
    model.class_names = train.class_names  # every file that the run writes states them
    if empty := [name for name, count in train.counts().items() if not count]:
        raise ValueError(f"no training text has the class {', '.join(empty)}; nothing teaches it")
    if validation is not None and validation.class_names != train.class_names:
        raise ValueError(
            f"the validation part has the classes {', '.join(validation.class_names)}, the "
            f"training part {', '.join(train.class_names)}; make both with the same class_names="
        )

    save_best = run.get("save_best", save_model)

    def save(model: Any, folder: Path, tokenizer: Any) -> None:
        save_best(model, folder, tokenizer)
        save_class_names(folder, train.class_names)

    run["save_best"] = save
    rows = None if validation is None else validation.rows
    return run_training(model, train.rows, config, validation=rows, tokenizer=tokenizer, **run)


def save_classifier(
    model: Any,
    folder: str | os.PathLike[str],
    tokenizer: Any,
    class_names: Sequence[str],
) -> Path:
    """Save a model, its tokenizer and the names of its classes, and return the folder.

    Raises:
        ValueError: if there is not one name for each class of the model.
    """
    check_classes(model, class_names)
    model.class_names = tuple(class_names)
    folder = save_model(model, folder, tokenizer)
    save_class_names(folder, class_names)
    return folder


def save_class_names(folder: Path, class_names: Sequence[str]) -> None:
    """Write the names of the classes beside a model."""
    write_json(folder / CLASSES_FILE, {"classes": list(class_names)})


def load_classifier(
    folder: str | os.PathLike[str], *, device: torch.device | str | None = None
) -> Classifier:
    """Return the classifier that `save_classifier` or `finetune_classifier` wrote.

    Raises:
        FileNotFoundError: if no model, or no names of classes, were saved there.
        WeightsError: if a file is damaged, or names and model do not belong together.
    """
    model, tokenizer = load_model(folder, device=device)
    names = model.class_names or load_class_names(folder)
    if len(names) != num_classes_of(model):
        hint = f"{len(names)} names for a model of {num_classes_of(model)} classes"
        raise WeightsError(Path(folder) / CLASSES_FILE, f"{hint}; use the file saved with it")
    return Classifier(model, tokenizer, names)


def load_class_names(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the classes in the file beside a model, for models without their own.

    Raises:
        FileNotFoundError: if there is no such file, since the model is not a classifier.
        WeightsError: if the file is damaged.
    """
    path = Path(folder) / CLASSES_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: no classifier was saved in {folder}")
    names = read_json(path, error=WeightsError).get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(path, 'holds no names of classes; {"classes": [names]} is expected')
    return tuple(names)


def num_classes_of(model: Any) -> int:
    """Return the number of classes of a model's head.

    Raises:
        ValueError: if the model has no head for classes.
    """
    head = head_of(model)
    if head.kind == "tokens":
        raise ValueError("the model has no head for classes; replace_head gives it one")
    return head.size


def check_classes(model: Any, class_names: Sequence[str]) -> None:
    """Refuse a model whose head has a different number of classes.

    Raises:
        ValueError: naming both numbers.
    """
    if len(class_names) != num_classes_of(model):
        raise ValueError(
            f"the model has {num_classes_of(model)} classes, the data {len(class_names)} "
            f"({', '.join(class_names)}); replace_head(model, {len(class_names)}) fits"
        )
