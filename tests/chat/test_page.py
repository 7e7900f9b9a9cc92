"""The file of the page: what it must hold and what it must not, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from llm_scratch.chat.page_answer import page_headers, read_page

PAGE = read_page()


class Elements(HTMLParser):
    """The start tags of a page: (name, attributes, names of the elements around it)."""

    VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.around: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), tuple(self.around)))
        if tag not in self.VOID:
            self.around.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), tuple(self.around)))

    def handle_endtag(self, tag: str) -> None:
        assert self.around.pop() == tag


ELEMENTS = Elements(PAGE).found


def test_page_names_no_foreign_address() -> None:
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w[^'\"\s]*", PAGE))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG, never fetched
    loaded = {
        value
        for _, attributes, _ in ELEMENTS
        for name in ("src", "href")
        if (value := attributes.get(name))
    }
    assert all(value.startswith(("#", "data:")) for value in loaded)
    assert "@import" not in PAGE
    assert "url(" not in PAGE


def test_page_has_one_style_and_one_script_that_its_policy_names() -> None:
    names = [name for name, _, _ in ELEMENTS]
    assert (names.count("style"), names.count("script")) == (1, 1)
    assert len(re.findall("<style|<script", PAGE)) == 2  # also for who looks with a pattern
    assert page_headers(PAGE)["content-security-policy"].count("'sha256-") == 2


def test_page_has_no_handlers_or_styles_in_attributes() -> None:
    attributes = {name for _, attributes, _ in ELEMENTS for name in attributes}
    assert [name for name in attributes if name.startswith("on") or name == "style"] == []


@pytest.mark.parametrize(
    "name", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
)
def test_page_makes_no_elements_from_text(name: str) -> None:
    assert name not in PAGE


def test_page_says_its_language_and_fits_phones() -> None:
    assert ("html", {"lang": "en"}, ()) in ELEMENTS
    (viewport,) = [a["content"] for _, a, _ in ELEMENTS if a.get("name") == "viewport"]
    assert {"width=device-width", "viewport-fit=cover"} <= set(re.split(r",\s*", viewport or ""))


def test_page_labels_every_field_and_button() -> None:
    labelled = {
        attributes["for"]
        for name, attributes, _ in ELEMENTS
        if name == "label" and "for" in attributes
    }
    for name, attributes, around in ELEMENTS:
        if name in ("input", "select", "textarea"):
            assert (
                "label" in around or attributes.get("id") in labelled or "aria-label" in attributes
            ), attributes
    for attributes, content in re.findall(r"<button([^>]*)>(.*?)</button>", PAGE, re.DOTALL):
        words = re.sub(r"<[^>]*>", "", content).strip()
        filled_in_later = re.search(
            r'class="(open|icon rename|icon delete|quiet act)"|id="model"', attributes
        )
        assert words or "aria-label" in attributes or filled_in_later, attributes


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_page_text_has_the_contrast_of_wcag_aa(theme: int) -> None:
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", PAGE)
    colours = {name: both[theme] for name, *both in pairs}
    grounds = {
        "ink": ("page", "side", "bubble", "code", "danger-page"),
        "muted": ("page", "side", "bubble", "code"),
        "accent": ("page",),
        "on-accent": ("accent",),
        "danger": ("page", "danger-page"),
    }
    for text, behind in grounds.items():
        for ground in behind:
            light, dark = sorted(map(luminance, (colours[text], colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_page_stays_small() -> None:
    assert len(PAGE.splitlines()) <= 1100
    assert len(PAGE.encode()) <= 60_000
    assert [line for line in PAGE.splitlines() if len(line) > 100] == []
