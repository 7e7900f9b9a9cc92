"""Templates can do no harm: not to files, not to time, not to memory."""

from __future__ import annotations

import sys
import time

import pytest

from llm_scratch.conversations import sandbox
from llm_scratch.conversations.sandbox import Template, TemplateError

MESSAGES = {"messages": [{"role": "user", "content": "a<b"}]}
DOUBLE = "{{% set ns = namespace(a='x' * 99) %}}{{% for i in range(99) %}}{}{{% endfor %}}"


def test_settings_are_those_of_transformers():
    source = (
        "{% for m in messages %}\n    {{ m.content }}\n  {% continue %}no{% endfor %}\n"
        "{% generation %}{{ messages | tojson }}{% endgeneration %}{{ 'y' ~ 1 ~ none }}\n"
    )
    expected = '    a<b\n[{"role": "user", "content": "a<b"}]y1None'
    assert Template(source).render(MESSAGES) == expected
    assert Template("{{ strftime_now('%Y') }}").render(MESSAGES) == time.strftime("%Y")
    assert Template("{{ '%s-%05d' % ('a', 7) }}{{ '{:>3}'.format(1) }}").render({}) == "a-00007  1"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{{ raise_exception('no system text') }}", "no system text"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "access to attribute 'append'"),
        ("{{ raise_exception.__globals__.os }}", "'__globals__'"),
        ("{{ unknown.one }}", "'unknown' is undefined"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{% include 'a' %}", "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ range(10 ** 9) }}", "too"),
        ("{{ 1 // 0 }}", "by zero"),
    ],
)
def test_failures_of_a_template_are_one_clear_error(source, problem):
    with pytest.raises(TemplateError, match=problem) as error:
        Template(source).render(MESSAGES)
    assert str(error.value).startswith("the template fails on this conversation: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["{% if %}", "{{ a", "{% unknown %}", "{{ 'a' | no_filter }}"])
def test_text_that_is_no_jinja_is_refused(source):
    with pytest.raises(TemplateError, match="the template is not Jinja that can be read: "):
        Template(source)


def test_text_that_is_too_long_is_refused():
    with pytest.raises(TemplateError, match="1,048,577 characters; up to 1,048,576 are read"):
        Template("a" * (sandbox.LONGEST_TEMPLATE + 1))


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ ['a'] * 10 ** 9 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'a'.ljust(10 ** 9) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ 'a' | indent(10 ** 9) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
        "{{ range(99999) | list | join('b' * 99999) }}",
        "{{ [1] | slice(10 ** 9) | list }}",
        "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
        DOUBLE.format("{% set ns.a = ns.a + ns.a %}"),
        DOUBLE.format("{% set ns.a = ns.a ~ ns.a %}"),
        DOUBLE.format("{% set ns.a %}{{ ns.a }}{{ ns.a }}{% endset %}"),
    ],
)
def test_texts_without_end_are_refused_before_they_are_made(source):
    with pytest.raises(TemplateError, match="it makes texts that are too long"):
        Template(source).render({})


def test_loops_without_end_are_ended(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.05)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    before = sys.gettrace()
    with pytest.raises(TemplateError, match=r"it takes longer than 0.05 seconds"):
        Template(loop).render({})
    assert sys.gettrace() is before
    assert Template("{{ 'a' * 3 }}").render({}) == "aaa"
