"""Direct preference optimisation as in the book's bonus material (book 7, preference tuning).

Of two answers to a prompt, the chosen one is to become likelier than the rejected one, compared
with a reference, which is the model before training. `dpo_training` has the loop for real runs,
which needs no second model.

Shape letters: B pairs, T tokens, V vocabulary.

Source:
    Rafailov et al. 2023, arXiv:2305.18290.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from llm_scratch.finetuning.instructions import check_entry
from llm_scratch.finetuning.prompts import format_input, prompt_text
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import device_of
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.training.epochs import check_run, check_start, run_epochs
from llm_scratch.training.evaluation import generate_and_print_sample
from llm_scratch.training.losses import first_batches

ANSWERS = ("chosen", "rejected")
PAIR = ("instruction", *ANSWERS)
PairLoader = Iterable[Mapping[str, Any]]


class PreferenceDataset(Dataset):
    """Pairs of answers as token ids: a dict with prompt, chosen and rejected, three lists of ids.

    "chosen" and "rejected" are the whole texts, with the prompt. "answer_start" is where the answer
    begins in both; it is known from the lengths of the parts, not searched for. Special tokens
    written in a text are ordinary text.

    Args:
        data: dicts with instruction, input, chosen and rejected.
        tokenizer: any tokenizer.

    Raises:
        ValueError: naming the first entry that lacks a key, or has an empty answer.

    Source:
        Book chapter 7, bonus material on DPO.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], tokenizer: Any) -> None:
        self.data = data
        self.encoded_texts: list[dict[str, Any]] = []
        for number, entry in enumerate(data):
            check_entry(f"data[{number}]", entry, PAIR)
            start = encode(tokenizer, prompt_text(entry), "text")
            texts = {name: start + encode(tokenizer, entry[name], "text") for name in ANSWERS}
            prompt_ids = encode(tokenizer, format_input(entry), "text")
            self.encoded_texts.append({"prompt": prompt_ids, "answer_start": len(start), **texts})

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.encoded_texts[index]

    def __len__(self) -> int:
        return len(self.data)


def preference_collate(
    batch: Sequence[Mapping[str, Any]],
    pad_token_id: int = 50256,
    allowed_max_length: int | None = None,
    mask_prompt_tokens: bool = True,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Pad pairs and mask them: chosen and rejected are (B, T) ids, both masks (B, T) booleans.

    A mask is True where a token counts. It follows from the lengths, never from the ids, so that an
    end-of-text id inside a text counts like any other. (The book masks the prompt except the line
    "### Response:"; here that line is masked too.) "prompt" is a list of (length,) ids.

    Args:
        batch: items of a `PreferenceDataset`.
        pad_token_id: the id that fills shorter rows; any id will do.
        allowed_max_length: the length that rows are cut to.
        mask_prompt_tokens: whether the mask leaves the prompt out.
        device: where the tensors go. With worker processes, leave it and move the batch later.

    Raises:
        ValueError: if `allowed_max_length` leaves nothing of an answer.

    Source:
        Book chapter 7, bonus material on DPO, where it is called `custom_collate_fn`.
    """
    longest = max(len(item[name]) for item in batch for name in ANSWERS)
    T = longest if allowed_max_length is None else min(longest, allowed_max_length)
    result: dict[str, Any] = {"prompt": [torch.tensor(i["prompt"], device=device) for i in batch]}
    for name in ANSWERS:
        ids = torch.full((len(batch), T), pad_token_id)  # (B, T)
        mask = torch.zeros((len(batch), T), dtype=torch.bool)
        for row, item in enumerate(batch):
            kept = torch.tensor(item[name][:T])
            start = item.get("answer_start", len(item["prompt"]) + 2) if mask_prompt_tokens else 0
            if start >= len(kept):
                raise ValueError(
                    f"{allowed_max_length=} leaves nothing of the {name} answer of row {row}, "
                    f"which begins at token {start}; raise it, or leave the entry out"
                )
            ids[row, : len(kept)] = kept
            mask[row, start : len(kept)] = True
        result[name], result[f"{name}_mask"] = ids.to(device), mask.to(device)
    return result


def compute_logprobs(
    logits: Tensor, labels: Tensor, selection_mask: Tensor | None = None
) -> Tensor:
    """Return the mean log-probability of the tokens in each row, in nats: (B,).

    A token is compared with the logits one place before it; the first token has none. (The paper
    takes the sum over an answer. The book takes the mean, which long answers do not lower.)

    Args:
        logits: (B, T, V).
        labels: (B, T) ids.
        selection_mask: (B, T), True or 1 where a token counts; None counts all.

    Raises:
        ValueError: if no token of a row counts, since its mean would be NaN.

    Source:
        Book chapter 7, bonus material on DPO.
    """
    targets = labels[:, 1:]  # (B, T - 1)
    losses = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none"
    )
    logprobs = -losses.view(targets.shape)  # (B, T - 1)
    if selection_mask is None:
        return logprobs.mean(dim=-1)
    mask = selection_mask[:, 1:].to(logprobs.dtype)
    counts = mask.sum(dim=-1)  # (B,)
    if not bool(counts.all()):
        row = int((counts == 0).nonzero()[0])
        raise ValueError(
            f"no token of row {row} counts, so it has no mean; was its answer cut off?"
        )
    return (logprobs * mask).sum(dim=-1) / counts


def compute_dpo_loss(
    model_chosen_logprobs: Tensor,
    model_rejected_logprobs: Tensor,
    reference_chosen_logprobs: Tensor,
    reference_rejected_logprobs: Tensor,
    beta: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean loss of some pairs, and the mean rewards of both answers: three scalars.

    The reward of an answer is how much likelier the model has made it. The loss is
    -log sigmoid(beta * (reward of the chosen one - reward of the rejected one)), which is ln 2 if
    the model is the reference.

    Args:
        model_chosen_logprobs: (B,), like all four; from the model in training.
        model_rejected_logprobs: the same.
        reference_chosen_logprobs: from the model before training.
        reference_rejected_logprobs: the same.
        beta: the larger, the sooner the loss levels off; usually 0.1 to 0.5.

    Source:
        Book chapter 7, bonus material on DPO; Rafailov et al. 2023, equation 7.
    """
    chosen_rewards = model_chosen_logprobs - reference_chosen_logprobs  # (B,)
    rejected_rewards = model_rejected_logprobs - reference_rejected_logprobs  # (B,)
    losses = -F.logsigmoid(beta * (chosen_rewards - rejected_rewards))
    return losses.mean(), chosen_rewards.detach().mean(), rejected_rewards.detach().mean()


def compute_dpo_loss_batch(
    batch: Mapping[str, Any], policy_model: Any, reference_model: Any, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean loss and mean rewards of a batch of `preference_collate`: three scalars.

    Args:
        batch: on the device of the models.
        policy_model: the model in training.
        reference_model: the model before training; no gradient reaches it.
        beta: see `compute_dpo_loss`.
    """

    def logprobs(model: Any) -> list[Tensor]:
        return [
            compute_logprobs(model(batch[name]), batch[name], batch[f"{name}_mask"])
            for name in ANSWERS
        ]

    policy = logprobs(policy_model)
    with torch.no_grad():
        reference = logprobs(reference_model)
    return compute_dpo_loss(policy[0], policy[1], reference[0], reference[1], beta)


@torch.no_grad()
def compute_dpo_loss_loader(
    data_loader: PairLoader,
    policy_model: Any,
    reference_model: Any,
    beta: float,
    num_batches: int | None = None,
) -> tuple[float, float, float]:
    """Return loss and rewards of a loader, averaged over its pairs: three numbers.

    (The book averages over batches, which gives a short last one too much weight.)

    Args:
        data_loader: yields batches of `preference_collate`.
        policy_model: the model in training.
        reference_model: the model before training.
        beta: see `compute_dpo_loss`.
        num_batches: the maximum number of batches; None is all of them.

    Raises:
        ValueError: if the loader yields no batch.
    """
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for batch in first_batches(data_loader, num_batches):
        pairs = len(batch["chosen"])
        means = compute_dpo_loss_batch(batch, policy_model, reference_model, beta)
        sums += torch.stack(means).double().cpu() * pairs
        count += pairs
    if not count:
        raise ValueError("the loader gives no batch; are there fewer pairs than one batch has?")
    loss, chosen, rejected = (sums / count).tolist()
    return loss, chosen, rejected


def evaluate_dpo_loss_loader(
    policy_model: Any,
    reference_model: Any,
    train_loader: PairLoader,
    val_loader: PairLoader,
    beta: float,
    eval_iter: int | None,
) -> dict[str, float]:
    """Return loss and rewards of both parts without dropout; the modes are left as found.

    Returns:
        train_loss, train_chosen_reward, train_rejected_reward, and the same with val_.
    """
    result: dict[str, float] = {}
    with evaluation_mode(policy_model), evaluation_mode(reference_model):
        for part, loader in (("train", train_loader), ("val", val_loader)):
            values = compute_dpo_loss_loader(loader, policy_model, reference_model, beta, eval_iter)
            names = ("loss", "chosen_reward", "rejected_reward")
            result |= {f"{part}_{name}": v for name, v in zip(names, values, strict=True)}
    return result


def train_model_dpo_simple(
    policy_model: Any,
    reference_model: Any,
    train_loader: PairLoader,
    val_loader: PairLoader,
    optimizer: torch.optim.Optimizer,
    num_epochs: int,
    beta: float,
    eval_freq: int,
    eval_iter: int | None,
    start_context: str,
    tokenizer: Any,
    *,
    log: Callable[[str], object] = print,
) -> dict[str, list[float]]:
    """Train on pairs for some epochs, and return the measurements as lists.

    Args:
        policy_model: the model to train; its modes are left as found.
        reference_model: the model before training, in evaluation mode.
        train_loader: yields batches of `preference_collate` on the models' device.
        val_loader: the same, to measure on.
        optimizer: made from the parameters of `policy_model`.
        num_epochs: the number of passes over the training part.
        beta: see `compute_dpo_loss`.
        eval_freq: steps from one evaluation to the next.
        eval_iter: the number of batches that an evaluation takes from each part.
        start_context: the beginning of the sample text after each epoch.
        tokenizer: the one that the data was made with.
        log: called with each line.

    Returns:
        train_losses, train_chosen_rewards, train_rejected_rewards, the same with val_, and
        tokens_seen.

    Raises:
        ValueError: if a number is below 1, a loader has no batch, or `start_context` no token.
        TypeError: if a loader is an iterator, which would be used up after one pass.

    Source:
        Book chapter 7, bonus material on DPO.
    """
    check_run(train_loader, val_loader, num_epochs, eval_freq, eval_iter)
    check_start(start_context, tokenizer)
    tracked: dict[str, list[float]] = {}
    device = device_of(policy_model)

    def evaluate(epoch: int, step: int, tokens_seen: int) -> None:
        values = evaluate_dpo_loss_loader(
            policy_model, reference_model, train_loader, val_loader, beta, eval_iter
        )
        for name, value in values.items():
            plural = name.replace("loss", "losse") + "s"
            tracked.setdefault(plural, []).append(value)
        tracked.setdefault("tokens_seen", []).append(tokens_seen)
        train, val = (
            values[f"{part}_chosen_reward"] - values[f"{part}_rejected_reward"]
            for part in ("train", "val")
        )
        log(
            f"Ep {epoch} (Step {step:06d}): Train loss {values['train_loss']:.3f}, "
            f"Val loss {values['val_loss']:.3f}, Train reward margins {train:.3f}, "
            f"Val reward margins {val:.3f}"
        )

    run_epochs(
        policy_model, train_loader, optimizer, num_epochs, eval_freq,
        loss_of=lambda pairs: compute_dpo_loss_batch(pairs, policy_model, reference_model, beta)[0],
        size_of=lambda pairs: pairs["chosen"].numel(),
        evaluate=evaluate,
        close_epoch=lambda: generate_and_print_sample(
            policy_model, tokenizer, device, start_context, log=log
        ),
    )  # fmt: skip
    return tracked
