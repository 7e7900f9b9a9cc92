"""The page on a desk and on a phone, dark and light, by keys alone."""

from __future__ import annotations

import pytest
from page_browser import CONTROL, ENTER, ESCAPE, SHIFT, TAB, Visitor, eventually, held
from page_server import Answer

pytestmark = pytest.mark.slow


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
    visitor.visit()
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
    assert "Back to the box" in visitor.one("#shortcuts").text
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


def test_page_names_everything_that_can_be_reached_for_screen_readers(visitor: Visitor) -> None:
    visitor.server.next.append(Answer(["```\ncode\n```"]))
    visitor.ask("Question", "code")
    for opened in ("", "#adjust", "#keys"):
        if opened:
            visitor.press(ESCAPE)
            visitor.click(opened)
        nodes = visitor.devtools("Accessibility.getFullAXTree")["nodes"]
        reached = [node for node in nodes if is_focusable(node)]
        names = [node["name"]["value"] for node in reached if "name" in node]
        assert len(names) >= 2
        assert all(names), [node["role"]["value"] for node in reached]


def is_focusable(node: dict) -> bool:
    """Whether a node of the accessibility tree takes the focus; the document itself aside."""
    properties = {item["name"]: item["value"].get("value") for item in node.get("properties", [])}
    return bool(properties.get("focusable")) and node["role"]["value"] != "RootWebArea"


def test_page_moves_nothing_where_that_is_not_wanted(visitor: Visitor) -> None:
    moves = "return getComputedStyle(document.querySelector('.message')).animationName"
    visitor.ask("Question")
    assert visitor.run(moves) == "arrive"
    feature = {"name": "prefers-reduced-motion", "value": "reduce"}
    visitor.devtools("Emulation.setEmulatedMedia", features=[feature])
    assert visitor.run(moves) == "none"
