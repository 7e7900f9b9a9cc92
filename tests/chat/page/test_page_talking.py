"""Talking through the page: answers, Markdown, stopping, regenerating, editing, copying."""

from __future__ import annotations

import pytest
from page_browser import CONTROL, ENTER, ESCAPE, TURNS, UP, Visitor, held
from page_server import Answer

pytestmark = pytest.mark.slow


def test_page_shows_an_answer_while_it_is_written(visitor: Visitor) -> None:
    answer = held(visitor.server, ["One ", "two ", "three."], at="after")
    visitor.send("Count.")
    visitor.sees("One two three.")
    assert visitor.all("#stop")
    assert visitor.text("#announcer") == "The model is reading."
    answer.after.set()
    visitor.sees("3 tokens in ")
    visitor.sees("tokens/s · 1,234 read in ")
    assert visitor.text("#announcer").endswith("Answer: One two three.")


def test_page_says_that_it_waits(visitor: Visitor) -> None:
    answer = held(visitor.server, ["Done."], at="before")
    visitor.send("Something long")
    visitor.sees("Reading …")
    visitor.sees("Reading … 2 s")
    answer.before.set()
    visitor.sees("Done.")
    assert "Reading" not in visitor.text()


@pytest.mark.parametrize("way", ["button", "key"])
def test_page_stops_an_answer_and_the_server_learns_of_it(visitor: Visitor, way: str) -> None:
    held(visitor.server, ["Once upon ", "a time"], at="after")
    visitor.send("Tell me a story.")
    visitor.sees("Once upon a time")
    visitor.click("#stop") if way == "button" else visitor.press(ESCAPE)
    visitor.sees("Stopped.")
    assert visitor.server.left.wait(20)
    assert visitor.focus() == "prompt"
    visitor.ask("Go on.")
    assert visitor.server.requests[-1]["messages"][1] == {
        "role": "assistant",
        "content": "Once upon a time",
    }


def test_page_inserts_what_looks_like_html_as_text(visitor: Visitor) -> None:
    hostile = (
        "<img src=x onerror=\"document.title='hit'\"> <script>document.title='hit'</script>\n\n"
        "# <b>head</b>\n\n- <i>item</i>\n\n> <u>quote</u>\n\n"
        "```<s>\n<iframe src='x'></iframe>\n```\n\n"
        "**<b>x</b>** [<b>l</b>](https://a.example/<b>) [bad](javascript:alert(1)) "
        "![picture](https://b.example/p.png)"
    )
    visitor.server.next.append(Answer([hostile]))
    visitor.ask("<img src=x onerror=alert(1)>", "<iframe src='x'></iframe>")
    made = visitor.run(
        "return [...document.querySelectorAll('#messages *')].map((e) => e.localName)"
        ".filter((n) => ['img', 'script', 'iframe', 'b', 'i', 'u', 's'].includes(n))"
    )
    assert made == []
    assert "<script>document.title='hit'</script>" in visitor.text()
    assert "<img src=x onerror=alert(1)>" in visitor.text(".message.user")
    assert "hit" not in visitor.driver.title
    links = visitor.driver.find_elements("css selector", "#messages a")
    assert [link.get_attribute("href") for link in links] == [
        "https://a.example/%3Cb%3E",
        "https://b.example/p.png",
    ]
    assert {link.get_attribute("rel") for link in links} == {"noopener noreferrer"}


def test_page_renders_markdown(visitor: Visitor) -> None:
    text = (
        "## Head\n\nA **bold** and *slanted* `code*s*` in snake_case_name, 2 * 3 * 4, a*b* c, "
        "__init__.\nNext line\n\n3. three\n   ```python\n   x = 1\n   ```\n4. four\n   - deep\n"
        "     - deeper\n\n---\n> said\n\n~~~\na\n\nb\n~~~\nSee https://c.example/x."
    )
    visitor.server.next.append(Answer([text]))
    visitor.ask("Show", "c.example")
    markup = visitor.run("return document.querySelector('.assistant .text').innerHTML")
    for part in (
        "<h4>Head</h4>",
        "A <strong>bold</strong> and <em>slanted</em> <code>code*s*</code> "
        "in snake_case_name, 2 * 3 * 4, a*b* c, __init__.\nNext line",
        '<ol start="3"><li><p>three</p>',
        "<code>x = 1</code>",
        "<li><p>four</p><ul><li><p>deep</p><ul>"
        "<li><p>deeper</p></li></ul></li></ul></li></ol><hr><blockquote><p>said</p></blockquote>",
        "<code>a\n\nb</code>",
        'rel="noopener noreferrer">https://c.example/x</a>.</p>',
    ):
        assert part in str(markup)


def test_page_shows_text_the_same_in_pieces_and_at_once(visitor: Visitor) -> None:
    text = "Look:\n\n1. a\n   - b\n\n```py\nif x:\n    y\n```\n\nand **so** `on`\n\n```\nopen"
    visitor.server.next.append(Answer(list(text), pause=0.01))
    visitor.ask("Slowly", "open")
    pieces = visitor.run("return document.querySelector('.assistant .text').innerHTML")
    visitor.run("show(current)")
    assert visitor.run("return document.querySelector('.assistant .text').innerHTML") == pieces


def test_page_regenerates_and_takes_it_back(visitor: Visitor) -> None:
    visitor.ask("Say hello")
    visitor.server.next.append(Answer(["Good day."]))
    visitor.click(".foot [data-do=regenerate]")
    visitor.sees("Good day.")
    visitor.is_idle()
    assert visitor.run(TURNS) == [["user", "Say hello"], ["assistant", "Good day."]]
    assert visitor.server.requests[-1]["messages"] == [{"role": "user", "content": "Say hello"}]
    visitor.click("#notice .act")
    assert visitor.run(TURNS) == [["user", "Say hello"], ["assistant", "Hello there."]]


def test_page_goes_on_from_an_edited_message(visitor: Visitor) -> None:
    visitor.ask("Who was Leonrdo?")
    visitor.ask("And then?")
    visitor.click(".message:nth-child(1) [data-do=edit]")
    visitor.press(CONTROL, "a")
    visitor.press("Who was Leonardo?")
    visitor.server.next.append(Answer(["A painter."]))
    visitor.press(ENTER)
    visitor.sees("A painter.")
    visitor.is_idle()
    assert visitor.run(TURNS) == [["user", "Who was Leonardo?"], ["assistant", "A painter."]]
    visitor.click("#notice .act")
    assert len(visitor.run(TURNS)) == 4


def test_page_leaves_an_edit_as_it_was(visitor: Visitor) -> None:
    visitor.ask("Question")
    visitor.press(UP)
    assert visitor.one(".edit textarea").get_attribute("value") == "Question"
    visitor.press("s")
    visitor.press(ESCAPE)
    assert visitor.run(TURNS) == [["user", "Question"], ["assistant", "Hello there."]]
    assert visitor.focus() == "prompt"


def copied(visitor: Visitor, button: str) -> object:
    """What is in the clipboard after a click."""
    visitor.click(button)
    visitor.sees("Copied", button)
    read = "const done = arguments[0]; navigator.clipboard.readText().then(done)"
    return visitor.driver.execute_async_script(read)


def test_page_copies_answers_and_code(visitor: Visitor) -> None:
    origin = visitor.server.address
    rights = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    visitor.devtools("Browser.grantPermissions", origin=origin, permissions=rights)
    text = "So:\n\n```python\nprint('hi')\n\n```\n"
    visitor.server.next.append(Answer([text]))
    visitor.ask("Code", "print")
    assert copied(visitor, "[data-do=copyCode]") == "print('hi')\n"
    assert copied(visitor, ".assistant [data-do=copy]") == text


def test_page_starts_with_an_example(visitor: Visitor) -> None:
    visitor.sees("Chats stay in this browser.")
    visitor.click("#examples button")
    visitor.sees("Hello there.")
    assert visitor.server.requests[-1]["messages"][0]["content"] == "Who was Leonardo da Vinci?"
