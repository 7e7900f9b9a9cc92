"""Write preferences.json: 300 exercises of instructions.json, each answered in two manners.

    python data/make_preferences.py

Both answers say the same; the chosen one is friendly and whole, the rejected one curt or grumpy.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SEED = 300
COUNT = 300
LONGEST = 60  # characters of an answer that is worth two manners

# {0} is the answer as a sentence, {1} as it stands.
CHOSEN = [
    "Of course! {0}",
    "Certainly. {0}",
    "Gladly. {0}",
    "Happy to help! {0}",
    "Good question! {0}",
    "Thank you for asking. {0}",
    "Here you are: {1}",
    "With pleasure: {1}",
    "Sure, here is the answer: {1}",
    "{0} I hope this helps!",
    "{0} Please ask if anything is unclear.",
    "{0} Let me know if you would like another example.",
    "{0} Feel free to ask for more.",
    "Let us see. {0} I am glad to explain it further.",
    "Thanks for your patience. {0}",
    "Nice one to practise! {0}",
]
REJECTED = [
    "{1}",
    "{0} Obviously.",
    "{0} Now leave me alone.",
    "{0} Everybody knows that.",
    "{0} Was that so hard?",
    "{0} Look it up yourself next time.",
    "{0} Can I go now?",
    "Ugh. {0}",
    "Not again. {0}",
    "Really? {0}",
    "If you must know: {1}",
    "Fine. {0}",
    "Whatever. {0}",
    "Do I have to? {0}",
    "How boring. {0}",
    "Sigh. {1}",
]


def sentence(answer: str) -> str:
    """Return an answer with a mark at its end."""
    return answer if answer[-1] in ".!?" else f"{answer}."


def in_manner(pattern: str, answer: str) -> str:
    """Return an answer as the pattern has it."""
    return pattern.format(sentence(answer), answer)


def entries() -> list[dict[str, str]]:
    """Return the exercises with both answers; every manner comes about equally often."""
    exercises = json.loads((FOLDER / "instructions.json").read_text(encoding="utf-8"))
    exercises = [e for e in exercises if len(e["output"]) <= LONGEST and "\n" not in e["output"]]
    draw = random.Random(SEED).random
    found = []
    for exercise in exercises[:COUNT]:
        chosen = CHOSEN[int(draw() * len(CHOSEN))]
        rejected = REJECTED[int(draw() * len(REJECTED))]
        kept = {key: exercise[key] for key in ("instruction", "input", "output")}
        answer = exercise["output"]
        answers = {
            "chosen": in_manner(chosen, answer),
            "rejected": in_manner(rejected, answer),
        }
        found.append({**kept, **answers})
    return found


def build() -> str:
    """Return the content of preferences.json, one entry per line."""
    lines = ",\n".join(json.dumps(e, ensure_ascii=False) for e in entries())
    return f"[\n{lines}\n]\n"


if __name__ == "__main__":
    (FOLDER / "preferences.json").write_bytes(build().encode("utf-8"))
