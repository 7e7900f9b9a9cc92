"""Instructions as rows for the loop for real runs: whole answers, one end mark per row.

Prompt and answer are encoded separately and joined, so the start of the answer is known and never
searched for.

Shape letters: B rows of a batch, T tokens, n examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from llm_scratch.conversations.display import show_conversation
from llm_scratch.conversations.encoding import EncodedConversation, Format
from llm_scratch.finetuning.instructions import check_entry
from llm_scratch.finetuning.prompts import BOOK, Entry, encode_entry
from llm_scratch.text.packed_rows import PackedRows
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.tokenizers.any_tokenizer import vocab_size_of


def instruction_rows(
    data: Sequence[Entry],
    tokenizer: Any,
    *,
    format: Format = BOOK,
    answer_only: bool = True,
    max_length: int = 1024,
    buckets: bool = True,
) -> TokenRows:
    """Return prompts and answers as rows to learn from, each with one end mark as its last target.

    A row that is too long loses the beginning of its prompt, never of its answer. A row whose
    answer alone is too long is left out, as is one without output. Warnings count each case.

    Args:
        data: dicts with instruction, input and output.
        tokenizer: any tokenizer; a special token written in a text is ordinary text.
        format: how an instruction and its answer become text.
        answer_only: whether only the answer is learned, not the prompt.
        max_length: the maximum number of tokens in a row.
        buckets: whether to group rows of about the same length.

    Raises:
        ValueError: if a row has no instruction or output, naming it; if no row is left; if there
            is no end mark, or the tokenizer can't write the format.
    """
    rows, cut, empty, too_long = [], 0, 0, 0
    for number, entry in enumerate(data):
        if isinstance(entry, dict) and not str(entry.get("output", "?")).strip():
            empty += 1
            continue
        check_entry(f"data[{number}]", entry)
        prompt, answer = encode_entry(entry, format, tokenizer, entry["output"])
        if len(answer) > max_length:
            too_long += 1
            continue
        over = max(0, len(prompt) + len(answer) - 1 - max_length)
        cut += over > 0
        rows.append(answer_row(prompt[over:], answer, answer_only))
    if cut:
        warnings.warn(
            f"{cut} of {len(data)} rows are longer than {max_length} tokens and lost the beginning "
            "of their prompts",
            stacklevel=2,
        )
    if empty:
        warnings.warn(f"{empty} of {len(data)} rows have no output and are left out", stacklevel=2)
    if too_long:
        warnings.warn(
            f"{too_long} of {len(data)} rows have an answer above {max_length} tokens with its end "
            "mark and are left out",
            stacklevel=2,
        )
    if not rows:
        raise ValueError(f"no rows are left of {len(data)} to learn from")
    end = format.end_ids(tokenizer)[0]
    vocab_size = vocab_size_of(tokenizer) or 1 + max((max(ids) for ids, _ in rows), default=0)
    return TokenRows(rows, pad_id=end, vocab_size=max(vocab_size, end + 1), buckets=buckets)


def parts_of_run(
    train: Any,
    validation: Any,
    rows_of: Callable[[Any], TokenRows],
    *,
    packs_of: Callable[[TokenRows], PackedRows] | None = None,
    log: Callable[[str], object] = print,
) -> tuple[TokenRows | PackedRows, TokenRows | PackedRows | None]:
    """Return both parts of a run as rows or packs, and log the share of learned tokens.

    Args:
        train: the input of `rows_of`, or rows, or packs.
        validation: the same, or None.
        rows_of: makes rows.
        packs_of: makes packs from rows; None leaves rows as they are.
        log: called with a line for each part.

    Raises:
        ValueError: if more than a tenth of the rows had to be left out.
    """
    given: list[int] = []
    left: list[int] = []

    def made(name: str, part: Any) -> TokenRows | PackedRows:
        if not isinstance(part, TokenRows | PackedRows):
            given.append(len(part))
            part = rows_of(part)
            left.append(len(part))
        rows = part.rows if isinstance(part, PackedRows) else part
        log(f"{name}: {part}, {learned_share(rows):.0%} of the tokens are learned")
        return part if packs_of is None or rows is not part else packs_of(rows)

    data = made("train", train)
    measured = None if validation is None else made("validation", validation)
    check_left_out(sum(given), sum(left))
    return data, measured


def check_left_out(given: int, left: int) -> None:
    """Refuse data if more than a tenth of it had to be left out.

    Args:
        given: the number of rows in all parts.
        left: the number of rows that remain.

    Raises:
        ValueError: with both numbers.
    """
    if given - left > given / 10:
        raise ValueError(
            f"{given - left} of {given} rows would be left out, more than a tenth; take a model "
            "with a longer context, shorten the answers, or remove these rows"
        )


def answer_row(
    prompt: list[int], answer: list[int], answer_only: bool = True
) -> tuple[list[int], list[int]]:
    """Return inputs and targets of a prompt and an answer; the prompt's last token has a target."""
    ids, hidden = prompt + answer, max(0, len(prompt) - 1) if answer_only else 0
    return ids[:-1], [IGNORE_INDEX] * hidden + ids[1 + hidden :]


def learned_share(rows: TokenRows) -> float:
    """Return the share of the tokens that are targets, between 0 and 1."""
    learned = sum(int((rows[row][1] != IGNORE_INDEX).sum()) for row in range(len(rows)))
    return learned / int(rows.lengths.sum())


def show_mask(tokenizer: Any, inputs: Tensor, targets: Tensor, *, color: bool = True) -> str:
    """Return a row as text, with the learned parts set off from the rest.

    Args:
        tokenizer: the one that the row was made with.
        inputs: (T,) ids.
        targets: (T,) ids, -100 where nothing is learned.
        color: green and grey for a terminal; without it, learned parts are between [[ and ]].
    """
    ids = [*inputs.tolist(), int(targets[-1])]
    learned = [False, *(targets != IGNORE_INDEX).tolist()]
    while len(ids) > 1 and not learned[-1]:  # padding
        ids, learned = ids[:-1], learned[:-1]
    encoded = EncodedConversation(tuple(ids), tuple(learned))
    return show_conversation(encoded, tokenizer, color=color)
