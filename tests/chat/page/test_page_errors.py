"""What the page says where something fails, and that no text is lost."""

from __future__ import annotations

import pytest
from page_browser import ENTER, TURNS, Visitor, console
from page_server import Answer, Refusal

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal(503, "the engine has stopped"), "The model isn't running."),
        (
            Refusal(400, "2,100 tokens, 2,048 fit", "context_length_exceeded"),
            "too long for the model",
        ),
        (Refusal(400, "`top_p` is bad"), "The server refused the request."),
        (Refusal(404, "no such model", "model_not_found"), "doesn't have this model"),
        (Refusal(413, "too large"), "too long for the server"),
        (Refusal(500, "<b>broken</b>"), "The server failed."),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Refusal) else "",
)
def test_page_tells_of_errors_and_loses_no_text(
    visitor: Visitor, refusal: Refusal, words: str
) -> None:
    visitor.server.next.append(refusal)
    visitor.send("My long question")
    visitor.sees(words)
    visitor.sees(refusal.message)
    visitor.sees("My long question", "#messages")
    visitor.visit()
    visitor.sees(words)
    visitor.click(".problem [data-do=regenerate]")
    visitor.sees("Hello there.")
    visitor.is_idle()
    assert visitor.run(TURNS) == [["user", "My long question"], ["assistant", "Hello there."]]


def test_page_tries_again_where_the_server_is_busy(visitor: Visitor) -> None:
    visitor.server.next.append(Refusal(429, "full", headers={"Retry-After": "1"}))
    visitor.send("Question")
    visitor.sees("The server is busy. Trying again in 1 s")
    visitor.sees("Hello there.")
    assert len(visitor.server.requests) == 2


def test_page_gives_up_where_the_server_stays_busy(visitor: Visitor) -> None:
    visitor.server.next.extend([Refusal(429, "full", headers={"Retry-After": "1"})] * 3)
    visitor.send("Question")
    visitor.sees("Try again in a moment.")
    assert len(visitor.server.requests) == 3
    visitor.sees("Question", "#messages")


def test_page_asks_for_a_key(visitor: Visitor) -> None:
    visitor.server.key = "sesame"
    visitor.send("Open")
    visitor.sees("This server asks for an API key.")
    visitor.click("[data-do=enterKey]")
    assert visitor.run("return document.activeElement.name") == "key"
    visitor.press("sesame")
    visitor.press(ENTER)
    visitor.click(".problem [data-do=regenerate]")
    visitor.sees("Hello there.")
    visitor.run("change({ key: 'wrong' })")
    visitor.visit()
    visitor.sees("The server doesn't accept this API key.", "#notice")


def test_page_keeps_what_had_come_when_the_connection_is_lost(visitor: Visitor) -> None:
    visitor.server.next.append(Answer(["The first half"], reason=None))
    visitor.send("Question")
    visitor.sees("The connection was lost.")
    visitor.sees("The first half", "#messages")
    visitor.server.next.append(Answer(["Then"], error="the engine has stopped"))
    visitor.send("And?")
    visitor.sees("The answer broke off.")
    visitor.sees("the engine has stopped")


def test_page_says_that_the_server_is_gone(visitor: Visitor) -> None:
    visitor.devtools("Network.enable")
    offline = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    visitor.devtools("Network.emulateNetworkConditions", offline=True, **offline)
    visitor.send("Is anybody there?")
    visitor.sees("The server can't be reached.")
    offline = dict.fromkeys(offline, -1)
    visitor.devtools("Network.emulateNetworkConditions", offline=False, **offline)
    assert any(
        "ERR_INTERNET_DISCONNECTED" in text for text in console(visitor)
    )  # the browser's own
    visitor.ask("Once more")
    assert visitor.server.requests[-1]["messages"] == [
        {"role": "user", "content": "Is anybody there?\n\nOnce more"}
    ]
