"""What the page keeps in the browser: chats, settings; tabs beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_browser import CONTROL, ENTER, ESCAPE, SHIFT, Visitor, eventually, held

pytestmark = pytest.mark.slow


def test_page_keeps_chats_over_a_reload(visitor: Visitor) -> None:
    visitor.ask("First question")
    visitor.press(CONTROL, SHIFT, "o")
    visitor.ask("Second question")
    visitor.write("a thought not sent")
    visitor.visit()
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
    visitor.visit()
    visitor.sees("Half an answer", "#messages")
    visitor.sees("Unfinished.", "#messages")


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
    visitor.visit()
    visitor.sees("Hounds", "#list")
    visitor.sees("About cats", "#list")
    visitor.click("#list li:nth-child(1) .delete")
    visitor.visit()
    eventually(lambda: visitor.text("#list").split("\n") == ["About cats"])


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
    path.write_text(
        json.dumps({"messages": [{"role": "system", "content": "Be brief."}, *turns]}),
        encoding="utf-8",
    )
    visitor.driver.find_element("id", "file").send_keys(str(path))
    visitor.sees("Be brief.", "#messages")
    visitor.ask("Go on")
    roles = [message["role"] for message in visitor.server.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    path.write_text('{"messages": [{"role": "<b>"}]}', encoding="utf-8")
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
    visitor.visit()
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
    visitor.one("[name=temperature]").send_keys(CONTROL, "a")
    visitor.press("9")
    visitor.press(ESCAPE)
    visitor.ask("Hello")
    assert visitor.server.requests[-1]["temperature"] == 0.7


@pytest.mark.parametrize(
    ("error", "words"), [("SecurityError", "blocked"), ("QuotaExceededError", "full")]
)
def test_page_works_without_storage_and_says_so(visitor: Visitor, error: str, words: str) -> None:
    script = f"Storage.prototype.setItem = () => {{ throw new DOMException('', '{error}'); }}"
    added = visitor.devtools("Page.addScriptToEvaluateOnNewDocument", source=script)
    visitor.visit()
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
    visitor.visit()
    visitor.sees("Shared", "#messages")
    answer = held(visitor.server, ["From the second"], at="after")
    visitor.send("Second tab")
    visitor.sees("From the second")
    driver.switch_to.window(first)
    visitor.sees("Second tab", "#messages")
    visitor.ask("First tab")
    answer.after.set()
    driver.switch_to.window(driver.window_handles[1])
    visitor.sees("Both are kept", "#notice")
    visitor.is_idle()
    visitor.visit()
    kept = str(
        visitor.run(
            "const contents = ({ messages }) => messages.map(({ content }) => content);"
            "return JSON.stringify([...chats.values()].map(contents))"
        )
    )
    assert '["Shared","Hello there.","Second tab","From the second"]' in kept
    assert '"First tab","Hello there."]' in kept
