"""Chapter 7, right, and written as differently as can be."""

import contextlib
import functools
import http.client
import itertools
import json
import pathlib
import subprocess
import sys
import urllib.parse

import torch
from torch import nn


def contact(method, address, body=None):
    parts = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.request(method, parts.path, body, {"Content-Type": "application/json"})
    content = connection.getresponse().read()
    connection.close()
    return content.decode("utf-8")


def download_and_load_file(place, address):
    path = pathlib.Path(place)
    if not path.is_file():
        path.write_bytes(contact("GET", address).encode("utf-8"))
    return json.loads(path.read_bytes())


def sections(entry, *answer):
    yield "Below is a task. Do it."
    for key, title in (("instruction", "Instruction"), ("input", "Input")):
        if entry.get(key):
            yield f"### {title}:\n{entry[key]}"
    for text in answer:
        yield f"### Response:\n{text}"


def format_input(entry):
    return "\n\n".join(sections(entry))


class Encoded:
    """Items that are encoded when they are asked for."""

    def __init__(self, rows, tokenizer):
        self.rows, self.encode = tuple(rows), tokenizer.encode

    def __len__(self):
        return len(self.rows)


class InstructionDataset(Encoded):
    def __getitem__(self, index):
        row = self.rows[index]
        return torch.tensor(self.encode("\n\n".join(sections(row, row["output"]))))


def custom_collate_draft_1(texts, filler=50256, place="cpu"):
    rows = itertools.zip_longest(*texts, fillvalue=filler)
    return torch.tensor(list(rows), device=place).T


def custom_collate_draft_2(texts, filler=50256, place="cpu"):
    inputs = custom_collate_draft_1(texts, filler, place)
    end = torch.full((len(texts), 1), filler, device=place)
    return inputs, torch.cat([inputs, end], 1).narrow(1, 1, inputs.size(1))


def custom_collate_fn(texts, filler=50256, unseen=-100, limit=None, place="cpu"):
    inputs, targets = custom_collate_draft_2(texts, filler, place)
    sizes = torch.tensor([len(text) for text in texts], device=place).unsqueeze(1)
    after = torch.arange(inputs.size(1), device=place) >= sizes
    targets = torch.where(after, unseen, targets)
    return [matrix[:, slice(limit)] for matrix in (inputs, targets)]


def content_of(path):
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def check_if_running(name):
    folders = pathlib.Path("/proc").glob("[0-9]*")
    files = [folder.joinpath("cmdline") for folder in folders]
    command = {"win32": ["tasklist"]}.get(sys.platform, ["ps", "-A", "-o", "comm="])
    lines = map(content_of, files) if files else [subprocess.check_output(command, text=True)]
    return name in "\n".join(lines)


def query_model(question, name="llama3", address="http://localhost:11434/api/chat"):
    asked = {"model": name, "stream": False, "seed": 1}
    asked["messages"] = [
        {"role": "system", "content": "Answer."},
        {"role": "user", "content": question},
    ]
    return json.loads(contact("POST", address, json.dumps(asked)))["message"]["content"]


def generate_model_scores(rows, key, name="llama3"):
    replies = [
        query_model(f"{format_input(row)}\n\nRight: {row['output']}\n\nGrade: {row[key]}", name)
        for row in rows
    ]
    return tuple(int(reply) for reply in replies if reply.strip().isdecimal())


def format_input_phi(entry):
    said = [entry["instruction"], entry["input"]]
    return "\n".join(["<|user|>", *filter(None, said), ""])


class InstructionDatasetPhi(Encoded):
    def __getitem__(self, index):
        row = self.rows[index]
        return self.encode(f"{format_input_phi(row)}<|assistant|>\n{row['output']}")


class InstructionDatasetWithMasking(Encoded):
    def __getitem__(self, index):
        row = self.rows[index]
        parts = ["\n\n".join(sections(row, "")), row["output"]]
        return torch.tensor(len(self.encode(parts[0]))), self.encode("".join(parts))


def custom_collate_with_masking_fn(pairs, filler=50256, unseen=-100, limit=None, place="cpu"):
    lengths, texts = zip(*pairs, strict=True)
    inputs, targets = custom_collate_fn(texts, filler, unseen, limit, place)
    places = torch.arange(1, inputs.size(1) + 1, device=place)
    return inputs, targets.masked_fill(places < torch.tensor(lengths).unsqueeze(1), unseen)


class PreferenceDataset(Encoded):
    def __getitem__(self, index):
        row = self.rows[index]
        item = {key: self.encode("\n\n".join(sections(row, row[key]))) for key in KINDS}
        return {"prompt": self.encode(format_input(row)), **item}


KINDS = ("chosen", "rejected")


def preference_collate(items, filler=50256, limit=None, mask_prompt_tokens=True, place="cpu"):
    """Answers count with their heading, padding goes to the longest text exactly."""
    width = max(len(item[kind]) for item in items for kind in KINDS)
    batch = {"prompt": [torch.tensor(item["prompt"], device=place) for item in items]}
    for kind in KINDS:
        ids = torch.full((len(items), width), filler, device=place)
        counts = torch.zeros(len(items), width, device=place)
        for row, item in enumerate(items):
            start = len(item["prompt"]) * mask_prompt_tokens
            ids[row, : len(item[kind])] = torch.tensor(item[kind])
            counts[row, start : len(item[kind])] = 1.0
        batch[kind], batch[f"{kind}_mask"] = ids[:, :limit], counts[:, :limit]
    return batch


def compute_logprobs(scores, ids, counts=None):
    """The negative of cross-entropy, token by token."""
    loss = nn.CrossEntropyLoss(reduction="none")
    found = -loss(scores[:, :-1].transpose(1, 2), ids[:, 1:])
    counts = torch.ones_like(found) if counts is None else counts[:, 1:].float()
    return torch.linalg.vecdot(found, counts / counts.sum(1, keepdim=True))


def compute_dpo_loss(chosen, rejected, chosen_before, rejected_before, beta=0.1):
    gains = torch.stack([chosen - chosen_before, rejected - rejected_before])
    loss = nn.functional.softplus(beta * gains.diff(dim=0)).mean()
    return [loss, *gains.detach().mean(1)]


def of_both(net, batch):
    return [
        compute_logprobs(net(batch[kind]), batch[kind], batch[f"{kind}_mask"]) for kind in KINDS
    ]


def compute_dpo_loss_batch(batch, net, before, beta):
    with torch.inference_mode():
        fixed = of_both(before, batch)
    return compute_dpo_loss(*of_both(net, batch), *[values.clone() for values in fixed], beta)


@torch.no_grad()
def compute_dpo_loss_loader(loader, net, before, beta, limit=None):
    some = itertools.islice(loader, limit)
    values = [torch.stack(compute_dpo_loss_batch(batch, net, before, beta)) for batch in some]
    return tuple(torch.stack(values).mean(0).tolist())


def evaluate_dpo_loss_loader(net, before, first, second, beta, limit):
    mode = net.training
    net.train(False)
    measured = {}
    for part, loader in (("train", first), ("val", second)):
        names = (f"{part}_{name}" for name in ("loss", "chosen_reward", "rejected_reward"))
        values = compute_dpo_loss_loader(loader, net, before, beta, limit)
        measured |= dict(zip(names, values, strict=True))
    net.train(mode)
    return measured


def train_model_dpo_simple(
    net, before, first, second, optimizer, epochs, beta, every, limit, start, tokenizer
):
    measure = functools.partial(evaluate_dpo_loss_loader, net, before, first, second, beta, limit)
    seen, history = 0, []
    steps = itertools.chain.from_iterable(itertools.repeat(first, epochs))
    for step, batch in enumerate(steps):
        net.train()
        compute_dpo_loss_batch(batch, net, before, beta)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += batch["chosen"].numel()
        if not step % every:
            history.append({"tokens_seen": seen, **measure()})
    plural = {"loss": "losses", "chosen_reward": "chosen_rewards"}
    plural["rejected_reward"] = "rejected_rewards"
    tracked = {"tokens_seen": [row["tokens_seen"] for row in history]}
    for part, name in itertools.product(("train", "val"), plural):
        tracked[f"{part}_{plural[name]}"] = [row[f"{part}_{name}"] for row in history]
    return tracked
