"""Fine-tuning on conversations in the loop for real runs, and the model's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from llm_scratch.conversations.encoding import Format, encode_prompt
from llm_scratch.conversations.formats import as_format
from llm_scratch.conversations.messages import Conversation, Message
from llm_scratch.finetuning.conversation_rows import conversation_rows, packed_conversations
from llm_scratch.finetuning.instruction_rows import parts_of_run
from llm_scratch.finetuning.instruction_tuning import ends_of, stopped_share
from llm_scratch.finetuning.preparing import bring_back_best
from llm_scratch.generation.batches import generate_in_batches
from llm_scratch.generation.choosing import GREEDY, SamplingSettings
from llm_scratch.generation.texts import Generation, TextOptions
from llm_scratch.text.packed_rows import PackedRows
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.distributed import ONE
from llm_scratch.training.loop import RunOptions
from llm_scratch.training.loop import train as run_training
from llm_scratch.training.starting import RunState, WriteSample


def finetune_conversations(
    model: Any,
    tokenizer: Any,
    train: Sequence[Conversation] | TokenRows | PackedRows,
    validation: Sequence[Conversation] | TokenRows | PackedRows | None,
    config: TrainConfig,
    *,
    format: Format | str,
    packing: bool = False,
    **run: Unpack[RunOptions],
) -> RunState:
    """Train a model on conversations, and return the state of the run at its end.

    The assistant's answers are learned, each with what ends it. The loss is the mean over these
    tokens of a step, however the step is split into batches. If the run has a folder, the model
    comes back as it was at its best evaluation; with several processes, only the folder has it.

    Args:
        model: a language model, with or without LoRA; updated in place.
        tokenizer: the one that it was trained with.
        train: lists of messages, rows of `conversation_rows`, or packs of them.
        validation: the same, to measure on; `config.patience` ends the run by it.
        config: the settings of the run. A step takes `micro_batch` rows (or packs).
        format: how a conversation becomes text, or its name; it is saved with the model.
        packing: whether several conversations share a row, blind to each other.
        run: the options of the run: `folder`, `resume`, `progress`, `log`, `save_best`,
            `write_sample`, `ranks` and others, as in `training.loop.train`. With LoRA, use
            `save_best=save_adapter`.

    Raises:
        ValueError: if a conversation is malformed, naming it; if more than a tenth of them have
            answers that do not fit; or if model, data and settings do not fit each other, see
            `training.loop.train`.
    """
    data, measured = conversation_parts(
        model,
        tokenizer,
        train,
        validation,
        format=format,
        packing=packing,
        length=config.length,
        log=run.get("log", print),
    )
    run.setdefault("chat_format", as_format(format))
    state = run_training(model, data, config, validation=measured, tokenizer=tokenizer, **run)
    if measured is not None and run.get("ranks", ONE).count == 1:
        bring_back_best(model, state, run.get("folder"))
    return state


def conversation_parts(
    model: Any,
    tokenizer: Any,
    train: Any,
    validation: Any,
    *,
    format: Format | str,
    packing: bool = False,
    length: int | None = None,
    log: Callable[[str], object] = print,
) -> tuple[TokenRows | PackedRows, TokenRows | PackedRows | None]:
    """Return both parts of a run as rows or packs; their number decides how many steps it has.

    Args:
        model: the model, whose context limits the length of a row.
        tokenizer: the one that it was trained with.
        train: conversations, rows or packs.
        validation: the same, or None.
        format: how a conversation becomes text, or its name.
        packing: whether several conversations share a row.
        length: the maximum number of tokens in a row; None is the model's context.
        log: called with a line for each part.

    Raises:
        ValueError: as `finetune_conversations`, for the data.
    """
    most, form = length or model.cfg.context_length, as_format(format)

    def rows_of(part: Sequence[Conversation]) -> TokenRows:
        return conversation_rows(part, tokenizer, form, max_length=most)

    def packs_of(rows: TokenRows) -> PackedRows:
        return packed_conversations(rows, most)

    return parts_of_run(train, validation, rows_of, packs_of=packs_of if packing else None, log=log)


def answer_conversations(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    format: Format | str,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    settings: SamplingSettings = GREEDY,
    **options: Unpack[TextOptions],
) -> list[Generation]:
    """Return a model's answer to each conversation, in `.text`.

    `.finish_reason` is "eos" or "stop" if the model ended the answer by itself.

    Args:
        model: a language model; its modes are left as found.
        tokenizer: the one that it was trained with.
        conversations: lists of messages, the last one the user's.
        format: the one that it was trained with, or its name.
        max_new_tokens: for each answer.
        batch_size: conversations at a time; those of about the same length run together.
        settings: how each token is chosen.
        options: further options of `generate_text`.

    Raises:
        ValueError: if a conversation is malformed, or does not end with a message from the user; or
            if an option is out of range.
    """
    form = as_format(format)
    prompts = [encode_prompt(each, form, tokenizer) for each in conversations]
    ends = ends_of(form, tokenizer)
    return generate_in_batches(
        model,
        tokenizer,
        prompts,
        max_new_tokens,
        settings,
        batch_size=batch_size,
        **(ends | options),
    )


def first_prompt(conversation: Conversation) -> list[Message]:
    """Return the messages of a conversation before its first answer."""
    roles = [message.role for message in conversation]
    return list(conversation[: roles.index("assistant") if "assistant" in roles else None])


def sample_answers(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    format: Format | str,
    max_new_tokens: int = 128,
    shown: int = 2,
) -> WriteSample:
    """Return a function that writes a run's samples: the share of ended answers, and some answers.

    Args:
        tokenizer: the model's.
        conversations: those whose first questions are answered; not the training data.
        format: how they become text, or its name.
        max_new_tokens: for each answer.
        shown: how many questions and answers are shown.
    """
    prompts = [first_prompt(conversation) for conversation in conversations]

    def write(model: Any) -> str:
        found = answer_conversations(
            model, tokenizer, prompts, format=format, max_new_tokens=max_new_tokens
        )
        lines = [f"{stopped_share(found):.0%} of {len(found)} answers ended by themselves"]
        for messages, each in list(zip(prompts, found, strict=True))[:shown]:
            lines += [f"  user: {messages[-1].content}", f"  assistant: {each.text}"]
        return "\n".join(lines)

    return write
