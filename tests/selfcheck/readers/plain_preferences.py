"""What a reader might type of chapter 7's bonus material on preferences."""

import torch
from plain_ch07 import format_input
from plain_later import generate_and_print_sample
from torch.nn import functional as F
from torch.utils.data import Dataset


class PreferenceDataset(Dataset):
    def __init__(self, data, tokenizer):
        self.data = data
        self.encoded_texts = []
        for entry in data:
            prompt = format_input(entry)
            chosen = f"{prompt}\n\n### Response:\n{entry['chosen']}"
            rejected = f"{prompt}\n\n### Response:\n{entry['rejected']}"
            texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            self.encoded_texts.append({key: tokenizer.encode(text) for key, text in texts.items()})

    def __getitem__(self, index):
        return self.encoded_texts[index]

    def __len__(self):
        return len(self.data)


def preference_collate(
    batch, pad_token_id=50256, allowed_max_length=None, mask_prompt_tokens=True, device="cpu"
):
    result = {"prompt": [torch.tensor(item["prompt"]).to(device) for item in batch]}
    longest = max(len(item[key]) + 1 for item in batch for key in ("chosen", "rejected"))
    for key in ("chosen", "rejected"):
        rows, masks = [], []
        for item in batch:
            ids, prompt = item[key], item["prompt"]
            row = torch.tensor(ids + [pad_token_id] * (longest - len(ids)))
            mask = torch.ones(longest).bool()
            mask[len(ids) :] = False
            if mask_prompt_tokens:
                mask[: len(prompt) + 2] = False
            rows.append(row[:allowed_max_length])
            masks.append(mask[:allowed_max_length])
        result[key] = torch.stack(rows).to(device)
        result[f"{key}_mask"] = torch.stack(masks).to(device)
    return result


def compute_logprobs(logits, labels, selection_mask=None):
    labels = labels[:, 1:].clone()
    log_probs = F.log_softmax(logits[:, :-1, :], dim=-1)
    selected = torch.gather(log_probs, dim=-1, index=labels.unsqueeze(-1)).squeeze(-1)
    if selection_mask is None:
        return selected.mean(-1)
    mask = selection_mask[:, 1:].clone()
    return (selected * mask).sum(-1) / mask.sum(-1)


def compute_dpo_loss(
    model_chosen_logprobs,
    model_rejected_logprobs,
    reference_chosen_logprobs,
    reference_rejected_logprobs,
    beta=0.1,
):
    model_logratios = model_chosen_logprobs - model_rejected_logprobs
    reference_logratios = reference_chosen_logprobs - reference_rejected_logprobs
    losses = -F.logsigmoid(beta * (model_logratios - reference_logratios))
    chosen_rewards = (model_chosen_logprobs - reference_chosen_logprobs).detach()
    rejected_rewards = (model_rejected_logprobs - reference_rejected_logprobs).detach()
    return losses.mean(), chosen_rewards.mean(), rejected_rewards.mean()


def compute_dpo_loss_batch(batch, policy_model, reference_model, beta):
    policy_chosen = compute_logprobs(
        policy_model(batch["chosen"]), batch["chosen"], batch["chosen_mask"]
    )
    policy_rejected = compute_logprobs(
        policy_model(batch["rejected"]), batch["rejected"], batch["rejected_mask"]
    )
    with torch.no_grad():
        reference_chosen = compute_logprobs(
            reference_model(batch["chosen"]), batch["chosen"], batch["chosen_mask"]
        )
        reference_rejected = compute_logprobs(
            reference_model(batch["rejected"]), batch["rejected"], batch["rejected_mask"]
        )
    return compute_dpo_loss(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )


def compute_dpo_loss_loader(data_loader, policy_model, reference_model, beta, num_batches=None):
    total, chosen, rejected = 0.0, 0.0, 0.0
    num_batches = len(data_loader) if num_batches is None else min(num_batches, len(data_loader))
    for i, batch in enumerate(data_loader):
        if i >= num_batches:
            break
        values = compute_dpo_loss_batch(batch, policy_model, reference_model, beta)
        total += values[0].item()
        chosen += values[1].item()
        rejected += values[2].item()
    return total / num_batches, chosen / num_batches, rejected / num_batches


def evaluate_dpo_loss_loader(
    policy_model, reference_model, train_loader, val_loader, beta, eval_iter
):
    policy_model.eval()
    with torch.no_grad():
        train = compute_dpo_loss_loader(
            train_loader, policy_model, reference_model, beta, eval_iter
        )
        val = compute_dpo_loss_loader(val_loader, policy_model, reference_model, beta, eval_iter)
    policy_model.train()
    names = ("loss", "chosen_reward", "rejected_reward")
    result = {f"train_{name}": value for name, value in zip(names, train, strict=True)}
    result.update({f"val_{name}": value for name, value in zip(names, val, strict=True)})
    return result


def train_model_dpo_simple(
    policy_model,
    reference_model,
    train_loader,
    val_loader,
    optimizer,
    num_epochs,
    beta,
    eval_freq,
    eval_iter,
    start_context,
    tokenizer,
):
    tracking = {"tokens_seen": []}
    tokens_seen, step = 0, -1
    for _ in range(num_epochs):
        policy_model.train()
        for batch in train_loader:
            optimizer.zero_grad()
            loss, _, _ = compute_dpo_loss_batch(batch, policy_model, reference_model, beta)
            loss.backward()
            optimizer.step()
            tokens_seen += batch["chosen"].numel()
            step += 1
            if step % eval_freq == 0:
                values = evaluate_dpo_loss_loader(
                    policy_model, reference_model, train_loader, val_loader, beta, eval_iter
                )
                for part in ("train", "val"):
                    for name, plural in (
                        ("loss", "losses"),
                        ("chosen_reward", "chosen_rewards"),
                        ("rejected_reward", "rejected_rewards"),
                    ):
                        value = values[f"{part}_{name}"]
                        tracking.setdefault(f"{part}_{plural}", []).append(value)
                tracking["tokens_seen"].append(tokens_seen)
        generate_and_print_sample(policy_model, tokenizer, loss.device, start_context)
    return tracking
