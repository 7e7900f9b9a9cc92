"""Scores of a model's answers to instructions, measured against the right answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llm_scratch.finetuning.instruction_tuning import stopped_share
from llm_scratch.finetuning.prompts import Entry
from llm_scratch.generation.texts import Generation
from llm_scratch.judging.judge import exact_match, token_f1


class AnswerScores(NamedTuple):
    """Means over all answers, each between 0 and 1.

    Args:
        exact: the share that equals the right answer (`exact_match`).
        overlap: the overlap of the words with the right answer's (`token_f1`).
        stopped: the share that the model ended by itself.
    """

    exact: float
    overlap: float
    stopped: float


def score_answers(answers: Sequence[Generation], entries: Sequence[Entry]) -> AnswerScores:
    """Compare answers with the "output" of their entries.

    Raises:
        ValueError: if there are no answers, or not one per entry.
    """
    pairs = [(mine.text, entry["output"]) for mine, entry in zip(answers, entries, strict=True)]
    stopped = stopped_share(answers)
    return AnswerScores(
        exact=sum(exact_match(*pair) for pair in pairs) / len(pairs),
        overlap=sum(token_f1(*pair) for pair in pairs) / len(pairs),
        stopped=stopped,
    )
