"""What a reader might type in chapter 6; lists of rows in place of DataFrames."""

import csv
import random
import zipfile
from pathlib import Path
from urllib.request import urlopen

import torch
from torch import nn
from torch.utils.data import Dataset


def download_and_unzip_spam_data(url, zip_path, extracted_path, data_file_path):
    if data_file_path.exists():
        print(f"{data_file_path} is there already.")
        return
    with urlopen(url) as response, open(zip_path, "wb") as file:
        file.write(response.read())
    with zipfile.ZipFile(zip_path) as archive:
        archive.extractall(extracted_path)
    unpacked = Path(extracted_path) / "SMSSpamCollection"
    unpacked.rename(data_file_path)


def create_balanced_dataset(df):
    spam = [row for row in df if row[0] == "spam"]
    ham = [row for row in df if row[0] == "ham"]
    return random.Random(123).sample(ham, len(spam)) + spam


def random_split(df, train_frac, validation_frac):
    rows = list(df)
    random.Random(123).shuffle(rows)
    train_end = int(len(rows) * train_frac)
    validation_end = train_end + int(len(rows) * validation_frac)
    return rows[:train_end], rows[train_end:validation_end], rows[validation_end:]


class SpamDataset(Dataset):
    def __init__(self, csv_file, tokenizer, max_length=None, pad_token_id=50256):
        with open(csv_file, newline="", encoding="utf-8") as file:
            self.data = list(csv.DictReader(file))
        encoded = [tokenizer.encode(row["Text"]) for row in self.data]
        if max_length is None:
            max_length = max(len(ids) for ids in encoded)
        self.max_length = max_length
        encoded = [ids[:max_length] for ids in encoded]
        padding = [[pad_token_id] * (max_length - len(ids)) for ids in encoded]
        self.encoded_texts = [ids + rest for ids, rest in zip(encoded, padding, strict=True)]

    def __getitem__(self, index):
        label = int(self.data[index]["Label"])
        return torch.tensor(self.encoded_texts[index]), torch.tensor(label)

    def __len__(self):
        return len(self.data)


def calc_accuracy_loader(data_loader, model, device, num_batches=None):
    model.eval()
    right, count = 0, 0
    num_batches = len(data_loader) if num_batches is None else min(num_batches, len(data_loader))
    for i, (input_batch, target_batch) in enumerate(data_loader):
        if i >= num_batches:
            break
        input_batch, target_batch = input_batch.to(device), target_batch.to(device)
        with torch.no_grad():
            logits = model(input_batch)[:, -1, :]
        chosen = torch.argmax(logits, dim=-1)
        right += (chosen == target_batch).sum().item()
        count += len(target_batch)
    return right / count


def calc_loss_batch(input_batch, target_batch, model, device):
    input_batch, target_batch = input_batch.to(device), target_batch.to(device)
    logits = model(input_batch)[:, -1, :]
    return nn.functional.cross_entropy(logits, target_batch)


def calc_loss_loader(data_loader, model, device, num_batches=None):
    total = 0.0
    if len(data_loader) == 0:
        return float("nan")
    num_batches = len(data_loader) if num_batches is None else min(num_batches, len(data_loader))
    for i, (inputs, targets) in enumerate(data_loader):
        if i >= num_batches:
            break
        total += calc_loss_batch(inputs, targets, model, device).item()
    return total / num_batches


def evaluate_model(model, train_loader, val_loader, device, eval_iter):
    model.eval()
    with torch.no_grad():
        train_loss = calc_loss_loader(train_loader, model, device, eval_iter)
        val_loss = calc_loss_loader(val_loader, model, device, eval_iter)
    model.train()
    return train_loss, val_loss


def train_classifier_simple(
    model, train_loader, val_loader, optimizer, device, num_epochs, eval_freq, eval_iter
):
    train_losses, val_losses, train_accs, val_accs = [], [], [], []
    examples_seen, step = 0, -1
    for epoch in range(num_epochs):
        model.train()
        for inputs, targets in train_loader:
            optimizer.zero_grad()
            loss = calc_loss_batch(inputs, targets, model, device)
            loss.backward()
            optimizer.step()
            examples_seen += inputs.shape[0]
            step += 1
            if step % eval_freq == 0:
                losses = evaluate_model(model, train_loader, val_loader, device, eval_iter)
                train_losses.append(losses[0])
                val_losses.append(losses[1])
                print(f"Ep {epoch + 1} (Step {step:06d}): {losses[0]:.3f}, {losses[1]:.3f}")
        train_accs.append(calc_accuracy_loader(train_loader, model, device, eval_iter))
        val_accs.append(calc_accuracy_loader(val_loader, model, device, eval_iter))
    return train_losses, val_losses, train_accs, val_accs, examples_seen


def plot_values(epochs_seen, examples_seen, train_values, val_values, label="loss"):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3))
    axes.plot(epochs_seen, train_values, label=f"Training {label}")
    axes.plot(epochs_seen, val_values, linestyle="-.", label=f"Validation {label}")
    axes.set_xlabel("Epochs")
    axes.legend()
    axes.twiny().plot(examples_seen, train_values, alpha=0)
    figure.tight_layout()
    plt.savefig(f"{label}-plot.pdf")
    plt.show()


def classify_review(text, model, tokenizer, device, max_length=None, pad_token_id=50256):
    model.eval()
    ids = tokenizer.encode(text)
    supported = model.pos_emb.weight.shape[0]
    length = supported if max_length is None else min(max_length, supported)
    ids = ids[:length]
    ids += [pad_token_id] * (length - len(ids))
    batch = torch.tensor(ids, device=device).unsqueeze(0)
    with torch.no_grad():
        logits = model(batch)[:, -1, :]
    label = torch.argmax(logits, dim=-1).item()
    return "spam" if label == 1 else "not spam"
