"""The checks of the end of chapter 7: a model that grades answers.

A server on this machine stands in for Ollama.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import call, must
from llm_scratch.selfcheck.outcome import Check, MistakeError
from llm_scratch.selfcheck.server import Served, serving, text_of


def _finds_a_process(function: Any) -> None:
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        path = Path(sys.executable)
        names = dict.fromkeys((path.name, path.resolve().name, "Python", "ython"))
        found = [
            bool(call("check_if_running", function, (name,), "(process_name)")) for name in names
        ]
        process.communicate()
    must(any(found), f"True for {path.name!r}, which is running", "False", hints.RUNNING)


def _finds_no_process(function: Any) -> None:
    came = function("no such process")
    must(came is not None, "True or False", "None", hints.NOT_TENSOR)
    must(not came, "False for a process that is not running", f"{came}", hints.RUNNING)


QUERY = '(prompt, model="llama3", url="http://localhost:11434/api/chat")'
PROMPT, REPLY = "Why do tides come in twice a day?", "The moon pulls, and the earth turns."


def _ask(function: Any) -> tuple[Any, list[dict[str, Any]]]:
    with serving(Served(reply=lambda text: REPLY)) as served:
        args = (PROMPT, "tiny", f"{served.url}api/chat")
        came = call("query_model", function, args, QUERY)
        must(len(served.questions) > 0, "a question to the server", "none", hints.PROMPT_SENT)
        return came, served.questions


def _gives_the_whole_reply(function: Any) -> None:
    came, _ = _ask(function)
    must(came == REPLY, f"the reply {REPLY!r}", f"{came!r}", hints.REPLY_PIECES)


def _sends_the_prompt(function: Any) -> None:
    question = _ask(function)[1][-1]
    sent = text_of(question)
    must(PROMPT in sent, f"the question {PROMPT!r}", repr(sent), hints.PROMPT_SENT)
    roles = [message.get("role") for message in question.get("messages") or []]
    must(not roles or roles[-1] == "user", "the role user", f"{roles}", hints.PROMPT_SENT)


def _asks_the_model(function: Any) -> None:
    asked = _ask(function)[1][-1].get("model")
    must(asked == "tiny", "a question to the model 'tiny'", f"{asked!r}", hints.MODEL_NAMED)


def _asks_for_the_same_reply(function: Any) -> None:
    question = _ask(function)[1][-1]
    sent = {**question, **(question.get("options") or {})}
    if sent.get("temperature") != 0 and "seed" not in sent:
        raise MistakeError(
            "a seed, or a temperature of 0", "neither", hints.REPEATABLE, counts=False
        )


SCORE = '(json_data, json_key, model="llama3")'
# No text contains another one, so that each is found only where it is shown.
ANSWERED = [
    {"instruction": "Give the plural.", "input": "goose", "output": "geese", "reply": "gooze"},
    {"instruction": "Name a prime.", "input": "", "output": "Seventeen", "reply": "Nineteen"},
    {"instruction": "Add two.", "input": "eleven", "output": "thirteen", "reply": "No idea"},
]
GRADES = {"gooze": "12", "Nineteen": "95", "No idea": "3"}


def _scores(function: Any, reply: Callable[[str], str]) -> tuple[list[Any], list[dict[str, Any]]]:
    data = [dict(entry) for entry in ANSWERED]
    with serving(Served(reply=reply)) as served:
        came = call("generate_model_scores", function, (data, "reply", "tiny"), SCORE)
        must(isinstance(came, (list, tuple)), "a list", type(came).__name__, hints.NOT_TENSOR)
        return list(came), served.questions


def _grade(text: str) -> str:
    """Grade like a judge that reads the text it is shown."""
    return next((grade for answer, grade in GRADES.items() if answer in text), "50")


def _shows_the_judge_all(function: Any) -> None:
    _, questions = _scores(function, _grade)
    asked = [text_of(question) for question in questions]
    must(len(asked) == len(ANSWERED), f"{len(ANSWERED)} questions", f"{len(asked)}", hints.SCORES)
    needed = {
        "reply": hints.JUDGE_ANSWER,
        "output": hints.JUDGE_REFERENCE,
        "instruction": hints.JUDGE_TASK,
        "input": hints.JUDGE_TASK,
    }
    for text, entry in zip(asked, ANSWERED, strict=True):
        for key, hint in needed.items():
            must(entry[key] in text, f"{entry[key]!r} in the question", repr(text[-60:]), hint)


def _gives_a_score_each(function: Any) -> None:
    came, _ = _scores(function, _grade)
    expected = [int(grade) for grade in GRADES.values()]
    must(came == expected, f"the scores {expected}", f"{came}", hints.SCORES)


def _passes_over_other_replies(function: Any) -> None:
    def reply(text: str) -> str:
        return "It is rather good." if "Nineteen" in text else _grade(text)

    try:
        came, _ = _scores(function, reply)
    except ValueError as error:
        raise MistakeError("the scores [12, 3]", str(error), hints.UNREADABLE_SCORE) from None
    must(came == [12, 3], "the scores [12, 3]", f"{came}", hints.UNREADABLE_SCORE)


def _asks_the_judge_that_is_named(function: Any) -> None:
    asked = {question.get("model") for question in _scores(function, _grade)[1]}
    must(asked == {"tiny"}, "questions to the model 'tiny'", f"{asked}", hints.MODEL_PASSED_ON)


RUNS, SCORES = "check_if_running", "generate_model_scores"
JUDGING_CHECKS = (
    Check("7.8", RUNS, "finds a running process", _finds_a_process),
    Check("7.8", RUNS, "finds no other process", _finds_no_process),
    Check("7.8", "query_model", "gives the whole reply", _gives_the_whole_reply),
    Check("7.8", "query_model", "sends the prompt", _sends_the_prompt),
    Check("7.8", "query_model", "asks the named model", _asks_the_model),
    Check("7.8", "query_model", "asks for the same reply again", _asks_for_the_same_reply),
    Check("7.8", SCORES, "shows the judge what it needs", _shows_the_judge_all),
    Check("7.8", SCORES, "gives one score per answer", _gives_a_score_each),
    Check("7.8", SCORES, "passes over replies that are not numbers", _passes_over_other_replies),
    Check("7.8", SCORES, "asks the named judge", _asks_the_judge_that_is_named),
)
