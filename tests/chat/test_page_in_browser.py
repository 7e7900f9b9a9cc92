"""The page as people use it, in Chromium, against a server with scripted answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_browser import Visitor, browser, eventually
from page_server import Answer, PageServer, Refusal, serving

pytestmark = pytest.mark.slow

ESCAPE, ENTER, SHIFT, CONTROL, TAB, UP = "\ue00c", "\ue007", "\ue008", "\ue009", "\ue004", "\ue013"
TURNS = "return current.messages.map(({ role, content }) => [role, content])"


@pytest.fixture(scope="module")
def at_the_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    with serving() as server, browser() as driver:
        yield Visitor(driver, server)


@pytest.fixture
def visitor(at_the_door: Visitor) -> Iterator[Visitor]:
    """Somebody who comes for the first time, whose console and requests are looked at afterwards."""
    visitor, driver = at_the_door, at_the_door.driver
    visitor.server.reset()
    visitor.open()
    visitor.run("localStorage.clear(); sessionStorage.clear()")
    visitor.open()
    visitor.sees("tiny", "#model")
    yield visitor
    visitor.devtools("Emulation.clearDeviceMetricsOverride")
    visitor.devtools("Emulation.setEmulatedMedia", features=[])
    assert console(visitor) == []
    assert foreign_requests(visitor) == []
    first, *others = driver.window_handles
    for other in others:
        driver.switch_to.window(other)
        driver.close()
    driver.switch_to.window(first)


def console(visitor: Visitor) -> list[str]:
    """The messages, without those in which the browser itself tells of a status."""
    messages = [entry["message"] for entry in visitor.driver.get_log("browser")]
    return [text for text in messages if "the server responded with a status of" not in text]


def foreign_requests(visitor: Visitor) -> list[str]:
    events = [
        json.loads(entry["message"])["message"] for entry in visitor.driver.get_log("performance")
    ]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    addresses = {params["request"]["url"] for params in sent}
    assert sent
    return [
        url for url in addresses if not url.startswith((visitor.server.address, "data:", "blob:"))
    ]


def held(server: PageServer, pieces: list[str], *, at: str) -> Answer:
    """An answer that waits for its event "before" or "after"."""
    answer = Answer(pieces)
    getattr(answer, at).clear()
    server.next.append(answer)
    return answer


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
        "# <b>head</b>\n\n- <i>item</i>\n\n> <u>quote</u>\n\n```<s>\n<iframe src='x'></iframe>\n```\n\n"
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
    assert [link.get_attribute("href") for link in links] == ["https://b.example/p.png"]
    assert [link.get_attribute("rel") for link in links] == ["noopener noreferrer"]


def test_page_renders_markdown(visitor: Visitor) -> None:
    text = (
        "## Head\n\nA **bold** and *slanted* `code*s*` in snake_case_name, 2 * 3 * 4, __init__.\n"
        "Next line\n\n3. three\n   ```python\n   x = 1\n   ```\n4. four\n   - deep\n\n"
        "---\n> said\n\n~~~\na\n\nb\n~~~\nSee https://c.example/x."
    )
    visitor.server.next.append(Answer([text]))
    visitor.ask("Show", "c.example")
    markup = visitor.run("return document.querySelector('.assistant .text').innerHTML")
    for part in (
        "<h4>Head</h4>",
        "A <strong>bold</strong> and <em>slanted</em> <code>code*s*</code> in snake_case_name, 2 * 3 * 4, __init__.\nNext line",
        '<ol start="3"><li><p>three</p>',
        "<code>x = 1</code>",
        "<li><p>four</p><ul><li><p>deep</p></li></ul></li></ol><hr><blockquote><p>said</p></blockquote>",
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


def test_page_keeps_chats_over_a_reload(visitor: Visitor) -> None:
    visitor.ask("First question")
    visitor.press(CONTROL, SHIFT, "o")
    visitor.ask("Second question")
    visitor.write("a thought not sent")
    visitor.open()
    visitor.sees("Second question", "#messages")
    assert visitor.one("#prompt").get_attribute("value") == "a thought not sent"
    visitor.click("#list li:nth-child(2) .open")
    visitor.sees("First question", "#messages")
    assert "tokens/s" in visitor.text("#messages")


def test_page_keeps_what_was_written_before_a_reload_in_an_answer(visitor: Visitor) -> None:
    held(visitor.server, ["Half an ", "answer"], at="after")
    visitor.send("Begin")
    visitor.sees("Half an answer")
    eventually(lambda: "Half" in str(visitor.run("return JSON.stringify(localStorage)")), 5)
    visitor.open()
    visitor.sees("Half an answer", "#messages")
    visitor.sees("Unfinished.", "#messages")


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


def test_page_copies_answers_and_code(visitor: Visitor) -> None:
    origin = visitor.server.address
    rights = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    visitor.devtools("Browser.grantPermissions", origin=origin, permissions=rights)
    text = "So:\n\n```python\nprint('hi')\n\n```\n"
    visitor.server.next.append(Answer([text]))
    visitor.ask("Code", "print")
    clipboard = "arguments[0](await navigator.clipboard.readText())"
    for button, copied in (
        ("[data-do=copyCode]", "print('hi')\n"),
        (".assistant [data-do=copy]", text),
    ):
        visitor.click(button)
        eventually(lambda: "Copied" in visitor.text(button))
        read = visitor.driver.execute_async_script(
            f"(async (...arguments) => {{ {clipboard} }})(arguments[0])"
        )
        assert read == copied


def test_page_lists_renames_and_deletes_chats(visitor: Visitor) -> None:
    visitor.ask("About cats")
    visitor.click("#new")
    visitor.ask("About dogs")
    visitor.click("#list li:nth-child(1) .rename")
    visitor.press(CONTROL, "a")
    visitor.press("Hounds")
    visitor.press(ENTER)
    visitor.sees("Hounds", "#list")
    assert visitor.text("#title") == "Hounds"
    visitor.click("#list li:nth-child(1) .delete")
    eventually(lambda: visitor.text("#list").split("\n") == ["About cats"])
    visitor.click("#notice .act")
    visitor.sees("Hounds", "#list")
    visitor.open()
    visitor.sees("Hounds", "#list")
    visitor.sees("About cats", "#list")


def test_page_exports_and_imports_a_chat(visitor: Visitor, tmp_path: Path) -> None:
    visitor.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    visitor.ask("To be kept")
    visitor.click("#export")
    path = tmp_path / "To-be-kept.json"
    eventually(path.exists)
    turns = [
        {"role": "user", "content": "To be kept"},
        {"role": "assistant", "content": "Hello there."},
    ]
    eventually(lambda: path.read_text(encoding="utf-8").endswith("}"))
    assert json.loads(path.read_text(encoding="utf-8"))["messages"] == turns
    path.write_text(json.dumps({"messages": [{"role": "system", "content": "Be brief."}, *turns]}))
    visitor.driver.find_element("id", "file").send_keys(str(path))
    visitor.sees("Be brief.", "#messages")
    visitor.ask("Go on")
    roles = [message["role"] for message in visitor.server.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    path.write_text('{"messages": [{"role": "<b>"}]}')
    visitor.driver.find_element("id", "file").send_keys(str(path))
    visitor.sees("To-be-kept.json isn't a chat", "#notice")


def test_page_sends_the_settings(visitor: Visitor) -> None:
    visitor.click("#adjust")
    values = {
        "system": "Be brief.",
        "temperature": "0.25",
        "top_p": "0.9",
        "max_completion_tokens": "50",
        "seed": "7",
    }
    for name, value in values.items():
        field = visitor.one(f"[name={name}]")
        field.clear()
        field.send_keys(value)
    visitor.one("[name=model]").send_keys("large")
    visitor.click("#settings .strong")
    visitor.open()
    visitor.sees("large", "#model")
    visitor.ask("Hello")
    assert visitor.server.requests[-1] == {
        "model": "large",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.25,
        "top_p": 0.9,
        "max_completion_tokens": 50,
        "seed": 7,
    }


def test_page_keeps_no_setting_out_of_range(visitor: Visitor) -> None:
    visitor.click("#adjust")
    visitor.one("[name=temperature]").clear()
    visitor.one("[name=temperature]").send_keys("9")
    visitor.press(ESCAPE)
    visitor.ask("Hello")
    assert "temperature" not in visitor.server.requests[-1]


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
    visitor.open()
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
    visitor.open()
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


@pytest.mark.parametrize(
    ("error", "words"), [("SecurityError", "blocked"), ("QuotaExceededError", "full")]
)
def test_page_works_without_storage_and_says_so(visitor: Visitor, error: str, words: str) -> None:
    script = f"Storage.prototype.setItem = () => {{ throw new DOMException('', '{error}'); }}"
    added = visitor.devtools("Page.addScriptToEvaluateOnNewDocument", source=script)
    visitor.open()
    visitor.sees(f"This browser's storage is {words}", "#notice")
    visitor.ask("One")
    visitor.click("#new")
    visitor.ask("Two")
    visitor.click("#list li:nth-child(2) .open")
    visitor.sees("One", "#messages")
    visitor.devtools("Page.removeScriptToEvaluateOnNewDocument", **added)


def test_page_in_two_tabs_overwrites_no_chat(visitor: Visitor) -> None:
    driver = visitor.driver
    visitor.ask("Shared")
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    visitor.open()
    visitor.sees("Shared", "#messages")
    answer = held(visitor.server, ["From the second"], at="after")
    visitor.send("Second tab")
    visitor.sees("From the second")
    driver.switch_to.window(first)
    visitor.sees("Second tab", "#messages")
    visitor.ask("First tab")
    answer.after.set()
    driver.switch_to.window(driver.window_handles[1])
    visitor.sees("both are kept", "#notice")
    visitor.is_idle()
    visitor.open()
    kept = str(
        visitor.run(
            "return JSON.stringify([...chats.values()].map((c) => c.messages.map((m) => m.content)))"
        )
    )
    assert '["Shared","Hello there.","Second tab","From the second"]' in kept
    assert '"First tab","Hello there."]' in kept


def test_page_follows_the_end_unless_somebody_scrolled_up(visitor: Visitor) -> None:
    at_the_end = "return $('log').scrollHeight - $('log').clientHeight - $('log').scrollTop < 2"
    answer = held(visitor.server, ["line\n\n"] * 60, at="after")
    visitor.send("Long")
    eventually(lambda: visitor.text("#messages").count("line") == 60 and visitor.run(at_the_end))
    answer.after.set()
    visitor.is_idle()
    visitor.server.next.append(Answer(["more\n\n"] * 60, pause=0.03))
    visitor.send("Longer")
    visitor.sees("more", "#messages")
    visitor.run("$('log').scrollTop = 0")
    visitor.is_idle()
    assert visitor.run("return $('log').scrollTop") == 0
    visitor.click("#end")
    assert visitor.run(at_the_end)
    assert not visitor.all("#end")


def test_page_fits_a_phone(visitor: Visitor) -> None:
    visitor.resize(390, 844)
    wide = "```\n" + "x" * 300 + "\n```\n\n" + "y" * 300 + "\n\nhttps://d.example/" + "z" * 300
    visitor.server.next.append(Answer([wide]))
    visitor.ask("w" * 300, "zzz")
    assert visitor.run("return document.documentElement.scrollWidth") == 390
    assert visitor.run("return $('log').scrollWidth === $('log').clientWidth")
    assert visitor.run("return $('composer').getBoundingClientRect().bottom") <= 844
    assert not visitor.all("#sidebar")
    visitor.click("#menu")
    assert visitor.focus() == "close"
    visitor.press(ESCAPE)
    eventually(lambda: not visitor.all("#sidebar"))
    assert visitor.focus() == "menu"
    visitor.click("#adjust")
    assert visitor.run("return document.documentElement.scrollWidth") == 390


def test_page_is_dark_or_light_as_the_system_or_as_chosen(visitor: Visitor) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    white, dark = "rgb(255, 255, 255)", "rgb(21, 25, 24)"
    visitor.prefer("dark")
    assert visitor.run(background) == dark
    visitor.prefer("light")
    assert visitor.run(background) == white
    visitor.click("#theme")
    assert visitor.run(background) == dark
    visitor.open()
    assert visitor.run(background) == dark
    visitor.click("#theme")
    assert visitor.run(background) == white
    visitor.prefer("dark")
    assert visitor.run(background) == dark


def test_page_is_used_by_keys_alone(visitor: Visitor) -> None:
    assert visitor.focus() == "prompt"
    for keys in (("One",), (SHIFT, ENTER), ("two",), (ENTER,)):
        visitor.press(*keys)
    visitor.sees("Hello there.")
    visitor.is_idle()
    assert visitor.server.requests[-1]["messages"][0]["content"] == "One\ntwo"
    assert visitor.focus() == "prompt"
    visitor.press(CONTROL, "/")
    visitor.sees("Back to the box", "#shortcuts")
    visitor.press(ESCAPE)
    reached = set()
    for _ in range(40):
        visitor.press(TAB)
        reached.add(
            visitor.run(
                "const e = document.activeElement; return e.id || e.dataset.do || e.className"
            )
        )
    wanted = {"new", "open", "icon rename", "icon delete", "import", "export", "model", "theme"}
    assert wanted | {"adjust", "log", "copy", "edit", "regenerate", "prompt", "keys"} <= reached
    visitor.press(SHIFT, ESCAPE)
    assert visitor.focus() == "prompt"
    visitor.press(CONTROL, SHIFT, "o")
    assert visitor.text("#title") == "New chat"


def test_page_starts_with_an_example(visitor: Visitor) -> None:
    visitor.sees("Chats stay in this browser.")
    visitor.click("#examples button")
    visitor.sees("Hello there.")
    assert visitor.server.requests[-1]["messages"][0]["content"] == "Who was Leonardo da Vinci?"
