"""Other people's Jinja templates, run where they can do no harm, as transformers runs them."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

LONGEST_TEMPLATE = 1 << 20  # characters
LONGEST_TEXT = 1 << 26
SECONDS = 5.0


class TemplateError(ValueError):
    """The error for a template that can't be read, or fails to write a conversation."""


class Template:
    """A Jinja text that turns a conversation into text, in jinja2's immutable sandbox.

    Args:
        source: the Jinja text.

    Raises:
        TemplateError: if it is too long, or not a Jinja text.
    """

    def __init__(self, source: str) -> None:
        if len(source) > LONGEST_TEMPLATE:
            raise TemplateError(
                f"the template has {len(source):,} characters; up to {LONGEST_TEMPLATE:,} are read"
            )
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError, ValueError, SyntaxError) as err:
            raise TemplateError(f"the template is not Jinja that can be read: {err}") from err

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text for a conversation.

        Args:
            variables: messages, add_generation_prompt, bos_token and others that a template reads.

        Raises:
            TemplateError: if the template refuses the conversation, fails, takes longer than five
                seconds or writes more than 64 million characters.
        """
        before = sys.gettrace()
        sys.settrace(_until(monotonic() + SECONDS, self._template.filename or "<template>"))
        try:
            return self._template.render(**variables)
        except Exception as err:  # a template may fail in any way; this is where it is caught
            raise TemplateError(
                f"the template fails on this conversation: {str(err).strip() or type(err).__name__}"
            ) from err
        finally:
            sys.settrace(before)


def _until(deadline: float, filename: str) -> Callable[..., Any]:
    """Return a trace function that stops the template's own code at a deadline."""

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if monotonic() > deadline:
            raise TimeoutError(f"it takes longer than {SECONDS:g} seconds")
        return local

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename == filename else None

    return trace


@functools.cache
def _environment() -> jinja2.Environment:
    made = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters = {name: _bounded(function) for name, function in made.filters.items()}
    made.filters["tojson"] = _to_json
    made.filters[_JOINED] = lambda parts: _concat(map(str, parts))
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    del made.globals["lipsum"]
    return made


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox of jinja2, with limits on the size of texts."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator in ("*", "**"):
            _check_size(left, right)
        elif operator == "%":
            _check_widths(left)
        made = super().call_binop(context, operator, left, right)
        _check_length(made)
        return made

    def call(self, context: Context, function: Any, *args: Any, **options: Any) -> Any:
        _check_size(getattr(function, "__self__", None), *args, *options.values())
        return super().call(context, function, *args, **options)

    def wrap_str_format(self, value: Any) -> Any:
        if (wrapped := super().wrap_str_format(value)) is not None:
            _check_widths(value.__self__)
        return wrapped

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        return super()._generate(_Joins().visit(source), *args, **options)

    concat = staticmethod(lambda parts: _concat(parts))


class _Generation(Extension):
    """The tags `{% generation %}...{% endgeneration %}`, which mark learned text in templates."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Joins(NodeTransformer):
    """A visitor that makes a filter of `a ~ b`, so that the length of its result is checked."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2's name
        parts = nodes.List([self.visit(part) for part in node.nodes], lineno=node.lineno)
        return nodes.Filter(parts, _JOINED, [], [], None, None, lineno=node.lineno)


_JOINED = "texts joined"  # no template can say this name


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses values that would take too much memory."""

    @functools.wraps(function)  # it also copies the marks that jinja2 puts on filters
    def call(*args: Any, **options: Any) -> Any:
        _check_size(*args, *options.values())
        if function.__name__ == "do_format":
            _check_widths(args[0])
        return function(*args, **options)

    return call


def _check_size(*values: Any) -> None:
    """Refuse values that one operation could turn into a text longer than is allowed."""
    sizes = [abs(value) for value in values if isinstance(value, int)]
    sizes += [len(value) for value in values if isinstance(value, str | list | tuple)]
    first, second = (*sorted(sizes, reverse=True), 1, 1)[:2]
    if first * max(second, 1) > LONGEST_TEXT:
        raise TemplateError("it makes texts that are too long")


def _check_widths(form: Any) -> None:
    """Refuse a format string that would pad numbers or texts to a great width."""
    if isinstance(form, str) and re.search(r"\d{6}", form):
        raise TemplateError("it makes texts that are too long")


def _check_length(made: Any) -> None:
    if isinstance(made, str | list | tuple) and len(made) > LONGEST_TEXT:
        raise TemplateError("it makes texts that are too long")


def _concat(parts: Iterable[str]) -> str:
    """Join what a template wrote, up to the longest text that is allowed."""
    kept, length = [], 0
    for part in parts:
        length += len(part)
        if length > LONGEST_TEXT:
            raise TemplateError("it makes texts that are too long")
        kept.append(part)
    return "".join(kept)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
