"""Fine-tuning on instructions in the loop for real runs, and the answers (book 7.6, 7.7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

from llm_scratch.conversations.encoding import Format
from llm_scratch.finetuning.instruction_rows import instruction_rows, parts_of_run
from llm_scratch.finetuning.prompts import BOOK, Entry, encode_entry
from llm_scratch.generation.batches import generate_in_batches
from llm_scratch.generation.choosing import GREEDY, SamplingSettings
from llm_scratch.generation.texts import Generation, TextOptions
from llm_scratch.text.packed_rows import PackedRows
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import RunOptions
from llm_scratch.training.loop import train as run_training
from llm_scratch.training.starting import RunState


def finetune_instructions(
    model: Any,
    tokenizer: Any,
    train: Sequence[Entry] | TokenRows | PackedRows,
    validation: Sequence[Entry] | TokenRows | PackedRows | None,
    config: TrainConfig,
    *,
    format: Format = BOOK,
    answer_only: bool = True,
    packing: bool = False,
    **run: Unpack[RunOptions],
) -> RunState:
    """Train a model on instructions with answers, and return the state of the run at its end.

    The loss is the mean over the targets of a step, however the step is split into batches.
    Padding is not a target.

    Args:
        model: a `GPTModel`, with or without LoRA; updated in place.
        tokenizer: the one that it was trained with.
        train: dicts with instruction, input and output, or rows of `instruction_rows`.
        validation: the same, to measure on.
        config: the settings of the run. A step takes `micro_batch` rows (or packs).
        format: how an instruction and its answer become text; it is saved with the model.
        answer_only: whether only the answer is learned, not the prompt.
        packing: whether several rows share one as long as the model's context.
        run: the options of the run: `folder`, `resume`, `progress`, `log` and `save_best`, as in
            `training.loop.train`. With LoRA, use `save_best=save_adapter`.

    Raises:
        ValueError: if a row is not an instruction with an answer, naming it; if more than a tenth
            of the rows have answers that do not fit; or if model, data and settings do not fit each
            other, see `training.loop.train`.
    """
    data, validated = instruction_parts(
        model,
        tokenizer,
        train,
        validation,
        format=format,
        answer_only=answer_only,
        packing=packing,
        length=config.length,
        log=run.get("log", print),
    )
    run.setdefault("chat_format", format)
    return run_training(model, data, config, validation=validated, tokenizer=tokenizer, **run)


def instruction_parts(
    model: Any,
    tokenizer: Any,
    train: Any,
    validation: Any,
    *,
    format: Format = BOOK,
    answer_only: bool = True,
    packing: bool = False,
    length: int | None = None,
    log: Callable[[str], object] = print,
) -> tuple[TokenRows | PackedRows, TokenRows | PackedRows | None]:
    """Return both parts of a run as rows or packs; their number decides how long an epoch is.

    The arguments are those of `finetune_instructions`, which takes the result. `length` is the
    longest row, by default the model's context. `log` is called with a line for each part.

    Raises:
        ValueError: as `finetune_instructions`, for the data.
    """
    most = length or model.cfg.context_length

    def rows_of(part: Sequence[Entry]) -> TokenRows:
        return instruction_rows(
            part, tokenizer, format=format, answer_only=answer_only, max_length=most
        )

    def packs_of(rows: TokenRows) -> PackedRows:
        return PackedRows(rows, most)

    return parts_of_run(train, validation, rows_of, packs_of=packs_of if packing else None, log=log)


def answer(
    model: Any,
    tokenizer: Any,
    entries: Sequence[Entry],
    *,
    format: Format = BOOK,
    max_new_tokens: int = 256,
    batch_size: int = 16,
    settings: SamplingSettings = GREEDY,
    **options: Unpack[TextOptions],
) -> list[Generation]:
    """Return a model's answer to each instruction; `.text` is the answer as written.

    `.finish_reason` is "eos" or "stop" if the model ended the answer by itself.

    Args:
        model: a `GPTModel`; its modes are left as found.
        tokenizer: the one that it was trained with.
        entries: dicts with instruction, and input if there is one.
        format: the format that it was trained with, which decides what ends an answer.
        max_new_tokens: for each answer.
        batch_size: prompts at a time; those of about the same length run together.
        settings: how each token is chosen.
        options: further options of `generate_text`.

    Raises:
        ValueError: if `batch_size` is below 1, or an option is out of range.

    Source:
        Book 7.7.
    """
    prompts = [encode_entry(entry, format, tokenizer)[0] for entry in entries]
    ends = ends_of(format, tokenizer)
    return generate_in_batches(
        model,
        tokenizer,
        prompts,
        max_new_tokens,
        settings,
        batch_size=batch_size,
        **(ends | options),
    )


def ends_of(format: Format, tokenizer: Any) -> TextOptions:
    """Return what ends an answer in a format, as options of `generate_text`."""
    end, *more_ends = format.end_ids(tokenizer)
    return {"eos_id": end, "stop_ids": more_ends, "stop": format.stop_strings}


def stopped_share(answers: Sequence[Generation]) -> float:
    """Return the share of answers that the model ended by itself, by id or stop string: 0 to 1.

    Raises:
        ValueError: if there are no answers.
    """
    if not answers:
        raise ValueError("there are no answers")
    return sum(each.finish_reason in ("eos", "stop") for each in answers) / len(answers)
