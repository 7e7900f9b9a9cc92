"""The series' part 10: fine-tuning on conversations, up to a model that talks.

    python chapters/post10_chat.py           with SmolLM2 where it is fetched: about 20 minutes
    python chapters/post10_chat.py --small   with a small model that is made here: 3 minutes
    python chapters/post10_chat.py --quick   with a smaller one: seconds

Times are for two cores of a laptop. Nothing is downloaded: `llm-scratch fetch smollm2` fetches
SmolLM2 (98 MB); without it, the small model is made. Figures of the series "Messing around with
fine-tuning LLMs" are from its part 10 and the accompanying code.
"""

# %%
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from llm_scratch import chapter
from llm_scratch.chat.session import ChatSession
from llm_scratch.chat.terminal import stats_line
from llm_scratch.cli import main
from llm_scratch.conversations.display import show_conversation
from llm_scratch.conversations.encoding import encode_conversation, encode_prompt
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.guanaco import messages_of_text, text_of_messages
from llm_scratch.conversations.layout import ConversationFormat
from llm_scratch.conversations.measuring import measure_conversations
from llm_scratch.conversations.messages import ConversationError, Message
from llm_scratch.conversations.readers import read_conversations
from llm_scratch.conversations.writers import text_row, write_rows
from llm_scratch.finetuning.conversation_rows import conversation_rows, packed_conversations
from llm_scratch.finetuning.conversation_tuning import (
    answer_conversations,
    conversation_parts,
    finetune_conversations,
    first_prompt,
    sample_answers,
)
from llm_scratch.finetuning.instruction_tuning import stopped_share
from llm_scratch.finetuning.runs import run_config
from llm_scratch.finetuning.splits import split_rows
from llm_scratch.model.device import pick_device
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.opening import open_model
from llm_scratch.plotting.learning import plot_runs
from llm_scratch.plotting.lengths import plot_lengths
from llm_scratch.text.corpora import find_data, load_text
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_display import terminal_has_colours
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.training.losses import calc_loss_loader
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.weights.export import export_huggingface, upload_command

settings = chapter.settings(__doc__, small=False, device="auto")
device = pick_device(settings.device)
out = Path(settings.out)
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# # From other people's conversations to a model that answers and stops
#
# The series ends with the base model Llama 3 8B, trained on 9,846 conversations of the
# openassistant-guanaco data set on eight GPUs. It still can't count letters, yet it is an assistant
# that you can talk to. The way there is the same for any size. Here we follow it with 220
# conversations written for this project, in guanaco's form.
#
# ## The conversations
#
# A row is one text. A mark precedes each turn, and nothing separates the turns.

# %%
conversations, summary = read_conversations(find_data("conversations-guanaco.jsonl"))
print(summary)


def size(messages):
    """Return the number of characters in the messages."""
    return sum(len(message.content) for message in messages)


shortest = min((each for each in conversations if len(each) == 4), key=size)
print(text_of_messages(shortest))
for message in shortest:
    print(f"  {message.role}: {message.content}")

# %% [markdown]
# A text without marks is not a conversation. The series' conversion replaces it by a sentence that
# begins with "Error:", which stays in the data set and is learned. Here the reader raises an error
# with file, line and reason, or skips and counts the row (`skip_bad=True`).

# %%
try:
    messages_of_text("Hello? Is anybody there?")
except ConversationError as error:
    print("Refused:", error)

# %% [markdown]
# Most of them are for training, a tenth is for validation, and a tenth is held out until the end.

# %%
taught, measured, held_out = split_rows(conversations, seed=1)
if settings.quick:
    taught, measured, held_out = (
        sorted(part, key=size)[:most]
        for part, most in ((taught, 64), (measured, 12), (held_out, 12))
    )
print(f"{len(taught)} for training, {len(measured)} for validation, {len(held_out)} held out")

# %% [markdown]
# ## A model to begin with
#
# SmolLM2-135M-Instruct knows conversations already, but not in the format that it will be taught.
# Where it is missing, a small Llama is made here. It reads a story and the training conversations
# as one plain text, without marks and ends. So it learns what English looks like, but not whose
# turn it is.


# %%
def pretrained(tokenizer, text):
    """Return a small model pretrained on a text, and nothing else."""
    width, layers, steps = (64, 2, 60) if settings.quick else (128, 4, 300)
    sizes = {"emb_dim": width, "n_layers": layers, "n_heads": 4, "n_kv_groups": 2}
    torch.manual_seed(123)
    model = LlamaModel(LlamaConfig(
        **sizes, vocab_size=tokenizer.n_vocab, context_length=1024, hidden_dim=3 * width,
        tie_weights=True,
    )).to(device)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokens(Path(folder) / "plain.tokens", text, tokenizer, progress=False)
        config = TrainConfig(steps=steps, length=128, learning_rate=2e-3, log_every=0)
        state = train(model, tokens.whole, config, log=lambda line: None)
        print(f"Pretrained on {len(tokens):,} tokens: loss {state.loss:.2f} after {steps} steps")
        del tokens  # its file goes with the folder
    return model.eval()


model = None
if not settings.small and not settings.quick:
    try:
        importlib.import_module("gguf")
        model, tokenizer = open_model("smollm2", device=device)
    except ModuleNotFoundError:
        chapter.missing("The gguf package, which opens SmolLM2,", "pip install gguf",
                        "making a small model instead")  # fmt: skip
    except FileNotFoundError:
        chapter.missing(
            "SmolLM2 (98 MB)", "llm-scratch fetch smollm2", "making a small model instead"
        )
is_small = model is None
if is_small:
    said = [message.content for messages in taught for message in messages]
    plain = "\n".join([load_text("the-tide-clock"), *said])
    tokenizer = BytePairTokenizer.train(plain, vocab_size=1000, progress=False)
    model = pretrained(tokenizer, plain)
print(f"{model.num_parameters():,} parameters, {tokenizer.n_vocab:,} tokens in the vocabulary")

# %% [markdown]
# ## Convert
#
# The series converts its conversations to Llama 2's chat format, with a system prompt between
# `<<SYS>>` and `<</SYS>>` in the first turn. `guanaco-llama2` is that format, corrected (see
# below). Without a system prompt there is no such block: one that is the same everywhere teaches
# nothing.
#
# The converted file is for other programs; the rest of this chapter works on the messages. In a
# terminal, the command is `llm-scratch conversations convert conversations-guanaco.jsonl out.jsonl
# --to text --format guanaco-llama2`.

# %%
form = find_format("guanaco-llama2")
system = Message("system", "You are a helpful assistant.")
print(text_row([system, *shortest], form, tokenizer)["text"])
path = out / "post10-guanaco-llama2.jsonl"
write_rows(conversations, path, lambda messages: text_row(messages, form, tokenizer))
print(f"Converted: {path}")

# %% [markdown]
# ### What the series' model is taught, and what it is asked
#
# Its conversion and its chat are two programs, and each writes the format in its own way. Below is
# where the two differ, in the first turn and in a later one. Besides, the text has no end-of-text
# token, so a model learns to continue with the next question, and the chat cuts its answers at
# `[INST]`. And `<s>` is a control token for Llama 2 only: the tokenizers of GPT-2, Llama 3 and Qwen
# read it as ordinary text.

# %%
first, answer, later, last = (message.content for message in shortest)
head = f"\n<s>[INST] <<SYS>>\n{system.content}\n<</SYS>>\n\n{first} [/INST]\n"
in_training = {"first": f"{head}{answer}", "later": f"[INST]{later}[/INST]\n{last}\n"}
in_chat = {"first": f"{head}\n", "later": f"[INST]\n{later} [/INST]"}
for turn, text in in_training.items():
    same = len(os.path.commonprefix([text, in_chat[turn]]))
    before, after = text[max(0, same - 8) : same], slice(same, same + 12)
    print(f"{turn} turn, after {before!r}: taught {text[after]!r}, asked {in_chat[turn][after]!r}")
for text in ("<s>", "<|endoftext|>"):
    ids = encode(GPT2Tokenizer(), text)
    print(f"{text} is {len(ids)} token{'s' * (len(ids) > 1)} of GPT-2's: {ids}")

# %% [markdown]
# Here one format writes both, and a prompt's ids are always the beginning of the training text.


# %%
def check_prompts(form):
    """Print how many prompts there are, and for how many the training text continues the prompt."""
    fits = []
    for messages in conversations:
        ids = encode_conversation(messages, form, tokenizer).ids
        for place, message in enumerate(messages):
            if message.role == "assistant":
                prompt = encode_prompt(messages[:place], form, tokenizer)
                fits.append(ids[: len(prompt)] == tuple(prompt))
    print(f"{form.name}: {sum(fits)} of {len(fits)} prompts begin their training text")


check_prompts(form)

# %% [markdown]
# ## Look at the mask
#
# Only the assistant's answers and their ends are learned. Here they are between [[ and ]], or green
# in a terminal. The end is crucial: a model that never learned it does not stop. (The series copies
# all ids into its labels, so its model learns questions, marks and padding as well.) Messages are
# plain text, whatever they look like: a control token in a question is not encoded as one.

# %%
colour = terminal_has_colours()
print(show_conversation(encode_conversation(shortest, form, tokenizer), tokenizer, color=colour))
end = tokenizer.decode([form.end_ids(tokenizer)[0]])
forged = [Message("user", f"Stop now.{end}"), Message("assistant", "No.")]
encoded = encode_conversation(forged, form, tokenizer)
print(
    f"{end} in a question is text; ids of the end: {encoded.ids.count(form.end_ids(tokenizer)[0])}"
)

# %% [markdown]
# ## Lengths
#
# A conversation longer than the context loses whole turns from its end. One whose first answer does
# not fit is left out. Nothing is cut in the middle, and no answer loses its end.

# %%
lengths = measure_conversations(conversations, form, tokenizer)
print(f"{sum(lengths.tokens):,} tokens, {lengths.learned_share:.0%} of them learned; "
      f"the longest conversation has {max(lengths.tokens):,}")  # fmt: skip
for context in (128, 256, 512, 2048):
    cut = lengths.cut(context)
    print(f"A context of {context:>5,}: {cut.shortened:>3} lose turns, {cut.dropped:>3} are left "
          f"out, {cut.tokens / sum(lengths.tokens):>4.0%} of the tokens")  # fmt: skip
chapter.show(settings, "post10-lengths", plot_lengths, lengths.tokens, lengths.learned, context=256)

# %% [markdown]
# Rows of a batch are padded to the same length, and padding costs as much as real tokens. The
# series pads all rows to 2,048 tokens. It is cheaper to pad to the batch's longest row, and cheaper
# still if a batch has rows of about the same length (buckets, the default here). Cheapest is
# sharing a row among several conversations (`packing=True`). No token attends to another
# conversation, and positions restart with each.

# %%
pairs = len(taught) // 2
buckets = conversation_rows(taught, tokenizer, form, max_length=2048)
shuffled = conversation_rows(taught, tokenizer, form, max_length=2048, buckets=False)
packs = packed_conversations(buckets, 2048)
computed = {
    "all padded to 2,048": 2 * pairs * 2048,
    "pairs in any order": sum(shuffled.batch(1, i, 2, 2048)[0].numel() for i in range(pairs)),
    "pairs from buckets": sum(buckets.batch(1, i, 2, 2048)[0].numel() for i in range(pairs)),
    f"{len(packs)} packs": sum(batch[0].numel() for batch in packs.rows_in_order(2048, 1)),
}
real = int(buckets.lengths.sum())
for name, tokens in computed.items():
    print(f"{name:<20} {tokens:>8,} tokens, {1 - real / tokens:>4.0%} of them padding")

# %% [markdown]
# ## Fine-tune
#
# All parameters are trained, with the settings of the series' final run: batches of 2 (on each of
# its eight GPUs), a rate that rises to 8e-5 in the first tenth and falls as a cosine, a weight
# decay of 0.01, and at most nine epochs. The small model has everything to learn and gets a higher
# rate. After each epoch, the validation loss is measured and some held-out questions are answered.
# A patience of 1 ends the run at the first epoch that is worse than the best one, whose model is
# restored.
#
# In a terminal, the command is `llm-scratch finetune chat smollm2 --data
# conversations-guanaco.jsonl --format guanaco-llama2 --preset final-tune`.

# %%
asked = [first_prompt(each) for each in held_out]
limit = 40 if settings.quick else 128  # tokens of an answer
before = answer_conversations(model, tokenizer, asked, format=form, max_new_tokens=limit)

parts = conversation_parts(model, tokenizer, taught, measured, format=form, log=lambda line: None)
changes = {"learning_rate": 1e-3, "log_every": 0} if is_small else {}
if settings.quick:
    changes |= {"learning_rate": 3e-3, "epochs": 4}
config = run_config("chat", len(parts[0]), preset="final-tune", save_every=10**6, **changes)
sample = sample_answers(tokenizer, held_out[:8], format=form, max_new_tokens=limit, shown=0)
start = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    state = finetune_conversations(
        model, tokenizer, *parts, config, format=form,
        folder=Path(folder) / "run", write_sample=sample,
    )  # fmt: skip
    lines = read_metrics(Path(folder) / "run")
epoch = config.eval_every
print(f"{(time.perf_counter() - start) / 60:.1f} minutes, {state.step / epoch:.0f} epochs of at "
      f"most {config.steps / epoch:.0f}; stopped early: {state.stopped}")  # fmt: skip
found = {line["step"] // epoch: line["val_loss"] for line in lines if "val_loss" in line}
for number, loss in found.items():
    print(f"Epoch {number}: validation loss {loss:.3f}{' (best)' * (loss == state.best_loss)}")

# %% [markdown]
# Was the best model restored? Measured again, the loss is that of the best epoch (up to rounding,
# if the run computed in bfloat16).

# %%
with torch.no_grad():
    again = calc_loss_loader(
        parts[1].rows_in_order(model.cfg.context_length, 2), model.eval(), device
    )
print(f"Best {state.best_loss:.2f}, last {state.val_loss:.2f}, measured again {again:.2f}")
chapter.show(settings, "post10-losses", plot_runs, {"Fine-tuning": lines})

# %% [markdown]
# The training loss keeps falling, but the validation loss turns up again: from then on, the model
# only memorises these conversations.
#
# ## Answers, before and after
#
# These are answers to held-out questions. An answer ends by itself if the model writes its end
# token or `[INST]`; the others were cut off.

# %%
after = answer_conversations(model, tokenizer, asked, format=form, max_new_tokens=limit)
answered = sorted(zip(asked, before, after, strict=True), key=lambda each: size(each[0]))
for messages, old, new in answered[:4]:
    print("Question:", messages[-1].content)
    print("  before:", repr(old.text))
    print("  after: ", repr(new.text))
for name, answers in (("Before", before), ("After", after)):
    print(f"{name}: {stopped_share(answers):.0%} of {len(answers)} answers end by themselves")

# %% [markdown]
# ## Export
#
# Transformers can open the exported folder. Its `chat_template` is the format as a Jinja template,
# so that other programs write the same prompts, and `generation_config.json` holds the end tokens.
# (`llm-scratch weights export FOLDER --to gguf` makes a single file for llama.cpp and ollama.)
# Nothing is uploaded; the command for that is only printed.

# %%
folder = export_huggingface(model, out / "post10-model", tokenizer, chat_format=form)
for path in sorted(folder.iterdir()):
    print(f"{path.stat().st_size:>12,} {path.name}")
print("To publish it:", upload_command(folder))

# %% [markdown]
# Opened again, the model knows its format and gives the same answers.

# %%
opened = open_model(folder, device=device)
model, tokenizer, form = opened.model, opened.tokenizer, opened.format
same = answer_conversations(model, tokenizer, asked, format=form, max_new_tokens=limit)
print(f"Its format: {form.name}")
print("The same answers:", [each.ids for each in same] == [each.ids for each in after])

# %% [markdown]
# ## Talk to it
#
# A session keeps the conversation and sends all of it with each question, but the model does not
# read again what is in its cache. The series counts up to 2,048 generated tokens and then discards
# everything after `[INST]`. Here only the shown tokens are counted.

# %%
session = ChatSession.open(opened, max_new_tokens=limit)
for question in ("Why does the sea have tides?", "And how often do they come?"):
    reply = session.reply(question)
    print("You:", question)
    print("Bot: ", str(reply).strip())
    print(stats_line(reply))

# %% [markdown]
# ## Let others talk to it
#
# A server offers OpenAI's API, for its client and other tools, and a chat page. The session's first
# question gets the same answer.

# %%
if all(importlib.util.find_spec(name) for name in ("openai", "uvicorn")):
    openai = importlib.import_module("openai")
    words = [sys.executable, "-m", "llm_scratch", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, encoding="utf-8") as server:
        url = server.stdout.readline().split()[0]
        asked_first = {"role": "user", "content": session.messages[0].content}
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(
                model=folder.name, messages=[asked_first], max_tokens=limit, temperature=0
            )
        server.terminate()
    print("Over the API:", answer.choices[0].message.content.strip())
    print(f"{answer.usage.prompt_tokens} tokens read, {answer.usage.completion_tokens} written")
else:
    chapter.missing(
        "OpenAI's client", "pip install openai uvicorn starlette", "no server was started"
    )

# %% [markdown]
# ## Exercises
#
# **1.** The series trains on everything in a row of 2,048 tokens, including padding, which is soon
# learned perfectly. Its losses are means over all of them. What would our best loss look like,
# measured that way, if the rest had a loss of zero?

# %%
share = sum(lengths.learned) / (2048 * len(lengths.tokens))
print(f"Answers are {share:.1%} of what would be learned; a loss of {state.best_loss:.2f} would be "
      f"reported as {share * state.best_loss:.2f}")  # fmt: skip

# %% [markdown]
# **2.** Make a plain-text format of your own in which prompts are beginnings of the training text
# and an answer ends with the end-of-text token. How many tokens does it save?

# %%
mine = ConversationFormat(
    "mine", user="Q: {text}\n", header="A:", answer=" {text}{eos}", stop_strings=("\nQ:",)
)
print(mine.plain_text(shortest))
check_prompts(mine)
saved = sum(lengths.tokens) - sum(measure_conversations(conversations, mine, tokenizer).tokens)
print(f"{saved:,} tokens less than {form.name}, of {sum(lengths.tokens):,}")

# %% [markdown]
# **3.** The series trains on whole texts without an end-of-text token. So what does a model learn
# to write after an answer? Where a question follows, it learns to ask one itself, and the chat cuts
# the text there. After the last answer of a conversation there is nothing to learn: what the model
# writes then, up to the allowed 2,048 tokens, was never taught.

# %%
answers = sum(message.role == "assistant" for each in conversations for message in each)
last = sum(each[-1].role == "assistant" for each in conversations)
print(f"Of {answers} answers, {answers - last} are followed by [INST], and {last} by nothing")
whole = sum(len(encode(tokenizer, form.plain_text(each), "text")) for each in conversations)
print(f"An end of text after each costs {sum(lengths.tokens) - whole:,} of {whole:,} tokens")

# %% [markdown]
# ## Now you
#
# Now talk to it in a terminal: `/help` lists the commands, and Ctrl-D exits.

# %%
print(f"llm-scratch chat {folder}")
if not settings.quick and sys.stdin.isatty() and sys.stdout.isatty():
    main(["chat", str(folder)])
