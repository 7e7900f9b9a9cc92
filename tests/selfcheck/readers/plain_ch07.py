"""What a reader might type in chapter 7."""

import json
import os
import subprocess
import sys
import urllib.request

import torch
from torch.utils.data import Dataset

try:
    import psutil
except ImportError:
    psutil = None


def download_and_load_file(file_path, url):
    if not os.path.exists(file_path):
        with urllib.request.urlopen(url) as response:
            text = response.read().decode("utf-8")
        with open(file_path, "w", encoding="utf-8") as file:
            file.write(text)
    with open(file_path, encoding="utf-8") as file:
        return json.load(file)


def format_input(entry):
    instruction_text = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{entry['instruction']}"
    )
    input_text = f"\n\n### Input:\n{entry['input']}" if entry["input"] else ""
    return instruction_text + input_text


class InstructionDataset(Dataset):
    def __init__(self, data, tokenizer):
        self.data = data
        self.encoded_texts = []
        for entry in data:
            prompt = format_input(entry)
            response = f"\n\n### Response:\n{entry['output']}"
            self.encoded_texts.append(tokenizer.encode(prompt + response))

    def __getitem__(self, index):
        return self.encoded_texts[index]

    def __len__(self):
        return len(self.data)


def custom_collate_draft_1(batch, pad_token_id=50256, device="cpu"):
    longest = max(len(item) for item in batch)
    rows = [item + [pad_token_id] * (longest - len(item)) for item in batch]
    return torch.tensor(rows).to(device)


def custom_collate_draft_2(batch, pad_token_id=50256, device="cpu"):
    longest = max(len(item) for item in batch) + 1
    rows = torch.tensor([item + [pad_token_id] * (longest - len(item)) for item in batch])
    return rows[:, :-1].to(device), rows[:, 1:].to(device)


def custom_collate_fn(
    batch, pad_token_id=50256, ignore_index=-100, allowed_max_length=None, device="cpu"
):
    longest = max(len(item) for item in batch) + 1
    inputs, targets = [], []
    for item in batch:
        row = torch.tensor(item + [pad_token_id] * (longest - len(item)))
        target = row[1:].clone()
        padding = torch.nonzero(target == pad_token_id).flatten()
        target[padding[1:]] = ignore_index
        inputs.append(row[:-1][:allowed_max_length])
        targets.append(target[:allowed_max_length])
    return torch.stack(inputs).to(device), torch.stack(targets).to(device)


def check_if_running(process_name):
    if psutil is not None:
        for process in psutil.process_iter(["name"]):
            if process_name in process.info["name"]:
                return True
        return False
    for folder in os.listdir("/proc") if os.path.exists("/proc") else []:
        try:
            with open(f"/proc/{folder}/comm", encoding="utf-8") as file:
                if process_name in file.read():
                    return True
        except OSError:  # no process, or one that has ended
            continue
    if os.path.exists("/proc"):
        return False
    command = ["tasklist"] if sys.platform == "win32" else ["ps", "-A", "-o", "comm="]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return process_name in done.stdout


def query_model(prompt, model="llama3", url="http://localhost:11434/api/chat"):
    data = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "options": {"seed": 123, "temperature": 0},
    }
    payload = json.dumps(data).encode("utf-8")
    request = urllib.request.Request(url, data=payload, method="POST")
    request.add_header("Content-Type", "application/json")
    reply = ""
    with urllib.request.urlopen(request) as response:
        for line in response:
            reply += json.loads(line)["message"]["content"]
    return reply


def generate_model_scores(json_data, json_key, model="llama3"):
    scores = []
    for entry in json_data:
        prompt = (
            f"The task was: {format_input(entry)}\nA right answer: {entry['output']}\n"
            f"How good is this one, from 0 to 100: {entry[json_key]}\nReply with a number only."
        )
        score = query_model(prompt, model)
        try:
            scores.append(int(score))
        except ValueError:
            print(f"No number: {score}")
            continue
    return scores


def format_input_phi(entry):
    input_text = f"\n{entry['input']}" if entry["input"] else ""
    return f"<|user|>\n{entry['instruction']}{input_text}"


class InstructionDatasetPhi(Dataset):
    def __init__(self, data, tokenizer):
        self.data = data
        self.encoded_texts = []
        for entry in data:
            response = f"\n<|assistant|>:\n{entry['output']}"
            self.encoded_texts.append(tokenizer.encode(format_input_phi(entry) + response))

    def __getitem__(self, index):
        return self.encoded_texts[index]

    def __len__(self):
        return len(self.data)


class InstructionDatasetWithMasking(Dataset):
    def __init__(self, data, tokenizer):
        self.data = data
        self.instruction_lengths, self.encoded_texts = [], []
        for entry in data:
            prompt = format_input(entry)
            response = f"\n\n### Response:\n{entry['output']}"
            self.instruction_lengths.append(len(tokenizer.encode(prompt)))
            self.encoded_texts.append(tokenizer.encode(prompt + response))

    def __getitem__(self, index):
        return self.instruction_lengths[index], self.encoded_texts[index]

    def __len__(self):
        return len(self.data)


def custom_collate_with_masking_fn(
    batch, pad_token_id=50256, ignore_index=-100, allowed_max_length=None, device="cpu"
):
    longest = max(len(ids) for _, ids in batch) + 1
    inputs, targets = [], []
    for length, ids in batch:
        row = torch.tensor(ids + [pad_token_id] * (longest - len(ids)))
        target = row[1:].clone()
        padding = torch.nonzero(target == pad_token_id).flatten()
        target[padding[1:]] = ignore_index
        target[: length - 1] = ignore_index
        inputs.append(row[:-1][:allowed_max_length])
        targets.append(target[:allowed_max_length])
    return torch.stack(inputs).to(device), torch.stack(targets).to(device)
