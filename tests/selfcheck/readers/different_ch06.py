"""Chapter 6, right, and written as differently as can be."""

import csv
import http.client
import io
import itertools
import urllib.parse
import zipfile
from collections import defaultdict

import torch
import torch.nn.functional as F


def download_and_unzip_spam_data(address, archive, folder, target):
    if target.is_file():
        return target
    parts = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request("GET", parts.path)
    content = zipfile.ZipFile(io.BytesIO(connection.getresponse().read()))
    connection.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.read("SMSSpamCollection"))
    return target


def create_balanced_dataset(rows):
    """Rows that are dicts."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["Label"]].append(row)
    least = min(map(len, groups.values()))
    return [row for group in groups.values() for row in group[:least]]


def random_split(rows, *fractions):
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(len(rows), generator=generator).tolist()
    sizes = [round(len(rows) * fraction) for fraction in fractions]
    picked = iter(order)
    parts = [[rows[i] for i in itertools.islice(picked, size)] for size in sizes]
    return (*parts, [rows[i] for i in picked])


class SpamDataset:
    """One matrix of ids; rows are cut and padded by index."""

    def __init__(self, path, tokenizer, longest=None, filler=50256):
        with open(path, encoding="utf-8") as lines:
            next(lines)
            rows = [(int(label), text) for label, text in csv.reader(lines)]
        ids = [tokenizer.encode(text) for _, text in rows]
        width = longest or max(map(len, ids))
        self.matrix = torch.full((len(rows), width), filler)
        for row, message in zip(self.matrix, ids, strict=True):
            kept = torch.tensor(message[:width])
            row[: len(kept)] = kept
        self.labels = [label for label, _ in rows]

    def __len__(self):
        return len(self.matrix)

    def __getitem__(self, index):
        return self.matrix[index], self.labels[index]


def last_scores(net, ids, place):
    return net(ids.to(place)).select(1, ids.size(1) - 1)


@torch.inference_mode()
def calc_accuracy_loader(batches, net, place, limit=None):
    before = net.training
    net.train(False)
    hits = [
        last_scores(net, ids, place).argmax(1).eq(labels.to(place))
        for ids, labels in itertools.islice(batches, limit)
    ]
    net.train(before)
    return torch.cat(hits).float().mean()


def calc_loss_batch(ids, labels, net, place):
    scores = last_scores(net, ids, place).log_softmax(1)
    return -scores[torch.arange(len(labels)), labels.to(place)].mean()


def calc_loss_loader(batches, net, place, limit=None):
    losses = [
        calc_loss_batch(ids, labels, net, place) for ids, labels in itertools.islice(batches, limit)
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def evaluate_model(net, first, second, place, limit):
    before = net.training
    net.eval()
    both = [calc_loss_loader(batches, net, place, limit).item() for batches in (first, second)]
    net.train(before)
    return both


def train_classifier_simple(net, first, second, optimizer, place, epochs, every, limit):
    steps = [(epoch, batch) for epoch in range(epochs) for batch in first]
    losses, accuracies, seen = [], [], 0
    for step, (epoch, (ids, labels)) in enumerate(steps):
        net.train()
        calc_loss_batch(ids, labels, net, place).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += len(labels)
        if not step % every:
            losses.append(evaluate_model(net, first, second, place, limit))
        if step + 1 == len(steps) or steps[step + 1][0] != epoch:
            accuracies.append([calc_accuracy_loader(b, net, place, limit) for b in (first, second)])
    return (*map(list, zip(*losses, strict=True)), *map(list, zip(*accuracies, strict=True)), seen)


def plot_values(x, x2, y1, y2, label="loss"):
    from matplotlib.figure import Figure

    figure = Figure()
    panel = figure.add_subplot()
    panel.plot(list(map(float, x)), y1, "b", list(map(float, x)), y2, "r")
    panel.secondary_xaxis("top")
    panel.set_ylabel(label)
    return figure


@torch.no_grad()
def classify_review(message, net, tokenizer, place, width=None, filler=50256):
    before = net.training
    net.eval()
    ids = torch.tensor(tokenizer.encode(message), device=place)[:width]
    if width is not None:
        ids = F.pad(ids, (0, width - len(ids)), value=filler)
    no, yes = net(ids[None])[0, -1].tolist()
    net.train(before)
    return "spam" if yes > no else "not spam"
