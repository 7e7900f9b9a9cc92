"""The judge's records: a run that was interrupted goes on, and asks nothing twice."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from llm_scratch.judging.client import JudgeError
from llm_scratch.judging.judge import judge
from llm_scratch.judging.records import Records

SERVER = runpy.run_path(str(Path(__file__).resolve().parents[1] / "fixtures" / "judge_server.py"))
fair, serve = SERVER["fair"], SERVER["serve"]

ENTRIES = [{"instruction": f"Nenne {i} Gezeiten 🌊.", "output": f"{i} Gezeiten"} for i in range(5)]
ANSWERS = {"good": ["perfect"] * 5, "bad": ["hopeless"] * 5}


@pytest.fixture
def server():
    server, thread = serve()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "judge.jsonl"


@pytest.fixture
def ask(server, path):
    def ask(entries=ENTRIES, answers=ANSWERS, **options):
        given = {"url": server.url, "model": "known", "pause": lambda s: None, "records": path}
        return judge(entries, answers, **{**given, **options})

    return ask


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_hold_order_reply_and_scores(ask, path):
    orders = ask().orders
    for item, (record, order) in enumerate(zip(records(path), orders, strict=True)):
        assert (record["item"], tuple(record["order"])) == (item, order)
        assert record["scores"] == {"good": 95, "bad": 5}
        assert "scores" in json.loads(record["reply"])


def test_judge_asks_nothing_twice(ask, server):
    first = ask()
    again = ask()
    assert (again.asked, len(server.asked)) == (0, 5)
    assert (again.scores, again.orders) == (first.scores, first.orders)


def test_judge_goes_on_after_an_interruption(ask, server, path):
    server.script[:] = [fair, fair, 400]
    with pytest.raises(JudgeError):
        ask()
    assert len(records(path)) == 2
    server.script[:] = [fair]
    found = ask()
    assert found.asked == 3
    assert found.scores == {"good": [95] * 5, "bad": [5] * 5}
    assert [record["item"] for record in records(path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [1, 5, 40, 400])
def test_judge_asks_again_where_the_last_line_is_cut_off(ask, path, cut):
    ask()
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    path.write_bytes(whole[: max(len(whole) - cut, start + 1)])
    again = ask()
    assert again.asked == (cut > 1)
    assert again.scores == {"good": [95] * 5, "bad": [5] * 5}
    assert path.read_bytes() == whole


def test_judge_finds_items_at_another_place(ask):
    ask()
    answers = {name: given[::-1] for name, given in ANSWERS.items()}
    assert ask(ENTRIES[::-1], answers).asked == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"options": {"max_tokens": 99}},
        {"answers": {**ANSWERS, "bad": ["middling"] * 5}},
        {"entries": [{**entry, "output": "other"} for entry in ENTRIES]},
    ],
)
def test_judge_asks_again_when_the_question_is_another(ask, changed):
    ask()
    assert ask(**changed).asked == 5


def test_judge_does_not_ask_again_for_an_unreadable_reply(ask, server):
    server.script[:] = [lambda question: "no idea"]
    assert ask().unreadable == ask().unreadable == {"good": 5, "bad": 5}
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a diary\n", "line 1 of .* is not a record"),
        ("a diary", "the end of .* is not a record"),
        ('{"question": "x", "reply": "y"}\n{"question": 3, "reply": "y"}\n', "line 2 of"),
        ("[]\n", "line 1 of"),
    ],
)
def test_records_leave_another_file_alone(tmp_path, content, message):
    path = tmp_path / "diary.txt"
    path.write_bytes(content.encode())
    with pytest.raises(ValueError, match=message):
        Records(path)
    assert path.read_bytes() == content.encode()


def test_records_take_line_ends_of_windows_and_lone_surrogates(tmp_path):
    path = tmp_path / "records.jsonl"
    Records(path).add("q", "torn \ud83c 潮\u2028", {"item": 0})
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert Records(path).reply("q") == "torn \ud83c 潮\u2028"
