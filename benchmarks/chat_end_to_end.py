"""SmolLM2 learns a new chat format, and answers the same in other programs.

    llm-scratch fetch smollm2
    pip install -e '.[test,gguf,peers]'
    python benchmarks/chat_end_to_end.py --out talker            up to an hour on two cores
    python benchmarks/chat_end_to_end.py --rows 60 --prompts 4 --epochs 1 --out trial

The project's conversations in `guanaco-llama2` are learned with the settings of the series' last
run (`--preset final-tune`: 8e-5 falling as a cosine, batch 2, up to 9 epochs, patience 1). 40
questions are held out, 30 conversations are for validation, and the others for training.

It prints the validation loss, where the run stopped, and the share of held-out answers that end by
themselves before and after, within 400 tokens: greedy, and sampled with a temperature of 0.7 and
top-p 0.9. It also prints whether transformers and llama.cpp answer the same from the exported
files, with prompts rendered by their own template engines. Texts may differ where our logits of the
two ids are within 0.05 of each other.

The same arguments with `--resume` continue a stopped run.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from results import record

import llm_scratch as ls
from llm_scratch.conversations.encoding import encode_prompt
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.readers import read_conversations
from llm_scratch.finetuning.conversation_tuning import (
    answer_conversations,
    conversation_parts,
    finetune_conversations,
    first_prompt,
)
from llm_scratch.finetuning.instruction_tuning import stopped_share
from llm_scratch.finetuning.runs import run_config
from llm_scratch.finetuning.splits import split_rows
from llm_scratch.text.corpora import find_data
from llm_scratch.training.allocator import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fixtures"))
FORMAT, NEW, TIE = "guanaco-llama2", 400, 0.05
SAMPLED = ls.SamplingSettings(temperature=0.7, top_p=0.9)
Answer = Callable[[Sequence[Any], int], tuple[list[int], list[int]]]  # ids of prompt and answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="the run's folder")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--rows", type=int, help="number of conversations; default: all")
    parser.add_argument("--epochs", type=float)
    parser.add_argument(
        "--compared", type=int, default=8, help="answers compared with other programs"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    print(f"{platform.machine()}, PyTorch {torch.__version__}, {args.threads} threads")
    model, tokenizer = ls.open_model("smollm2")
    asked, measured, taught = parts(args)
    print(
        f"{len(taught)} conversations to learn, {len(measured)} to validate, {len(asked)} held out"
    )
    before = share(model, tokenizer, asked, "before")
    data = conversation_parts(model, tokenizer, taught, measured, format=FORMAT, log=quiet)
    config = run_config("chat", len(data[0]), epochs=args.epochs, preset="final-tune")
    config = replace(config, sample_every=0)
    start = time.perf_counter()
    state = finetune_conversations(
        model, tokenizer, *data, config, format=FORMAT, folder=args.out, resume=args.resume
    )
    print(
        f"{(time.perf_counter() - start) / 60:.1f} minutes; {state.step} of {config.steps} steps, "
        f"{'stopped early' if state.stopped else 'all of them'}; best validation loss "
        f"{state.best_loss:.4f} after step {state.best_step}"
    )
    after = share(model, tokenizer, asked, "after")
    if args.rows is None and args.epochs is None:
        for name, ended in after.items():
            work = f"held-out answers of SmolLM2-135M that end by themselves, {name}"
            found = {"ours, after fine-tuning": ended, "before fine-tuning": before[name]}
            record(work, found, [tuple(found)], unit="%", rounds=None)
    elsewhere(model, tokenizer, asked[: args.compared], Path(args.out))


def quiet(line: str) -> None:
    """Print nothing: a log for runs that should be silent."""


def parts(args: argparse.Namespace) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the held-out questions, and the conversations for validation and training."""
    conversations, summary = read_conversations(find_data("conversations.jsonl"))
    print(summary)
    taught, measured, asked = split_rows(conversations[: args.rows], 1)
    missing = args.prompts - len(asked)
    asked, taught = asked + taught[:missing], taught[max(missing, 0) :]
    return [first_prompt(each) for each in asked[: args.prompts]], measured, taught


def share(model: Any, tokenizer: Any, asked: list[Any], when: str) -> dict[str, float]:
    """Print and return the percentages of answers that end by themselves, and print three of them.

    With greedy decoding, a model of this size may repeat itself for ever.
    """
    ended = {}
    for name, settings in (("the likeliest token", ls.SamplingSettings()), ("sampled", SAMPLED)):
        torch.manual_seed(1)
        found = answer_conversations(
            model, tokenizer, asked, format=FORMAT, max_new_tokens=NEW, settings=settings
        )
        ended[name] = 100 * stopped_share(found)
        print(f"{when}, {name}: {ended[name]:.1f} % of {len(found)} answers end by themselves")
    for messages, each in list(zip(asked, found, strict=True))[:3]:
        print(f"  user: {messages[-1].content}\n  assistant: {each.text}")
    return ended


def elsewhere(model: Any, tokenizer: Any, asked: list[Any], folder: Path) -> None:
    """Export the model and compare the answers of other programs with ours."""
    form = find_format(FORMAT)
    ls.export_huggingface(model, folder / "hub", tokenizer, chat_format=form)
    compare("transformers", transformers_answer(folder / "hub"), model, tokenizer, asked)
    path, template = folder / "f32.gguf", form.jinja(tokenizer)
    ls.export_gguf(model, path, tokenizer, tensor_type="f32", chat_template=template)
    from llama_cpp import LlamaCpp

    with LlamaCpp(path, n_threads=torch.get_num_threads(), context=2048) as theirs:
        compare("llama.cpp", llama_cpp_answer(theirs), model, tokenizer, asked)


def compare(name: str, answer: Answer, model: Any, tokenizer: Any, asked: list[Any]) -> None:
    """Print how many prompts and answers equal ours, and how close each difference was."""
    form = find_format(FORMAT)
    end, *more = form.end_ids(tokenizer)
    ours = answer_conversations(model, tokenizer, asked, format=form, max_new_tokens=NEW)

    def ended(ids: list[int]) -> list[int]:
        """Return the ids with one end token, whichever it was and whether or not it was given."""
        kept = [i for i in ids if i not in (end, *more)]
        return kept if len(kept) == NEW else [*kept, end]

    prompts = equal = near = 0
    for messages, mine in zip(asked, ours, strict=True):
        ids, written = answer(messages, NEW)
        prompts += ids == encode_prompt(messages, form, tokenizer)
        expected, written = ended(mine.ids), ended(written)
        pairs = enumerate(zip(expected, written, strict=False))
        parted = next((k for k, (one, other) in pairs if one != other), None)
        if parted is None:
            equal += 1
            continue
        with torch.no_grad():
            logits = model(torch.tensor([ids + written[:parted]]))[0, -1]
        gap = float(logits.max() - logits[written[parted]])
        near += gap <= TIE
        print(f"  {name} differs at token {parted}, where our logits are {gap:.4f} apart")
    found = f"{prompts} of {len(asked)} prompts and {equal} answers are equal"
    print(f"{name}: {found}, {near} differ where it is nearly a tie")


def transformers_answer(folder: Path) -> Answer:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(messages: Sequence[Any], new: int) -> tuple[list[int], list[int]]:
        rows = [{"role": each.role, "content": each.content} for each in messages]
        ids = tokenizer.apply_chat_template(
            rows, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        with torch.no_grad():
            found = model.generate(ids, max_new_tokens=new, do_sample=False)[0].tolist()
        return ids[0].tolist(), found[ids.shape[1] :]

    return answer


def llama_cpp_answer(theirs: Any) -> Answer:
    def answer(messages: Sequence[Any], new: int) -> tuple[list[int], list[int]]:
        rows = [{"role": each.role, "content": each.content} for each in messages]
        ids = theirs.encode(theirs.rendered(rows))
        return ids, theirs.greedy(ids, new)

    return answer


if __name__ == "__main__":
    main()
