"""A format as the Jinja text that other programs read, written from the format's own texts."""

from __future__ import annotations

import json
from typing import Any


def jinja_of(format: Any, marks: dict[str, str] | None) -> str:
    """Return a template that writes conversations as the format does.

    Args:
        format: a `ConversationFormat`.
        marks: the texts of `{bos}` and `{eos}`; None leaves them to the program that reads the
            template.
    """
    write = _Writer(format, marks)
    folded = "{system}" in format.user
    has_system = "{%- if system | trim -%}"
    lines = [
        f"{{#- The format {format.name}. -#}}",
        "{%- if messages[0]['role'] == 'system' -%}",
        "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}",
        "{%- else -%}",
        f"{{%- set system = {quoted(format.default_system)} -%}}{{%- set turns = messages -%}}",
        "{%- endif -%}",
        write(format.begin),
        "" if folded else f"{has_system}{write(format.system, 'system')}{{%- endif -%}}",
        "{%- for message in turns -%}",
        "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}",
        "{{- raise_exception('user and assistant must take turns') -}}",
        "{%- endif -%}",
        "{%- if message['role'] == 'user' -%}",
        write(format.user),
        "{%- elif message['role'] == 'assistant' -%}",
        write(format.header + format.answer + format.after),
        "{%- else -%}",
        "{{- raise_exception('a system text comes first') -}}",
        "{%- endif -%}",
        "{%- endfor -%}",
        f"{{%- if add_generation_prompt -%}}{write(format.header)}{{%- endif -%}}",
    ]
    return "\n".join(line for line in lines if line)


def quoted(text: str) -> str:
    """Return a text as a Jinja string literal."""
    return json.dumps(text)


class _Writer:
    """A writer of a format's texts as Jinja."""

    def __init__(self, format: Any, marks: dict[str, str] | None) -> None:
        self._format = format
        self._marks = marks

    def __call__(self, template: str, said: str = "message['content']") -> str:
        return "".join(self._part(kind, part, said) for kind, part in self._format.parts(template))

    def _part(self, kind: str, part: str, said: str) -> str:
        if kind != "hole":
            return f"{{{{- {quoted(part)} -}}}}"
        if part == "{text}":
            return f"{{{{- {said}{' | trim' if self._format.strip else ''} -}}}}"
        if part == "{system}":
            inner = self(self._format.system, "system")
            return f"{{%- if loop.first and system | trim -%}}{inner}{{%- endif -%}}"
        if self._marks is None:
            return f"{{{{- {part[1:-1]}_token -}}}}"
        return f"{{{{- {quoted(self._marks[part])} -}}}}" if self._marks[part] else ""
