"""The settings of a session, checked when they are made, and the choice of its format."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from llm_scratch.checks import check_count
from llm_scratch.conversations.encoding import Format
from llm_scratch.conversations.formats import FORMATS, find_format
from llm_scratch.generation.choosing import GREEDY, SamplingSettings

Overflow = Literal["drop", "stop"]
SAMPLING = tuple(each.name for each in fields(SamplingSettings))
SEEDS = 1 << 63  # below


@dataclass(frozen=True)
class ChatOptions:
    """The settings by which a session answers.

    Args:
        settings: how each token is chosen.
        max_new_tokens: the maximum length of an answer.
        context: the maximum number of tokens in a prompt and its answer together.
        overflow: what happens when a conversation outgrows the context: "drop" drops the oldest
            turns, "stop" refuses.
        seed: of the answers; each has a generator of its own.

    Raises:
        ValueError: if a setting is out of range.
    """

    context: int
    settings: SamplingSettings = GREEDY
    max_new_tokens: int = 512
    overflow: Overflow = "drop"
    seed: int = field(default_factory=lambda: secrets.randbits(32))

    def __post_init__(self) -> None:
        check_count("context", self.context, 2)
        check_count("max_new_tokens", self.max_new_tokens)
        check_count("seed", self.seed, 0)
        if self.seed >= SEEDS:
            raise ValueError(f"seed={self.seed} is too large; it must be below {SEEDS}")
        if self.overflow not in get_args(Overflow):
            raise ValueError(f"overflow={self.overflow!r} must be 'drop' or 'stop'")

    def changed(self, values: Mapping[str, Any]) -> ChatOptions:
        """Return the options with some values changed, including those of `SamplingSettings`.

        Raises:
            ValueError: if there is no such setting, or a value is out of range.
        """
        own = {each.name for each in fields(self)}
        sampling = {name: value for name, value in values.items() if name in SAMPLING}
        rest = {name: value for name, value in values.items() if name not in sampling}
        if unknown := [name for name in rest if name not in own]:
            known = ", ".join((*SAMPLING, *sorted(own)))
            raise ValueError(f"a session has no setting {str(unknown[0])[:40]!r}; it has {known}")
        settings = replace(rest.pop("settings", self.settings), **sampling)
        return replace(self, settings=settings, **rest)

    def described(self) -> dict[str, Any]:
        """Return the options as plain data, which `changed` takes."""
        own = {k: v for k, v in asdict(self).items() if k != "settings"}
        return {**asdict(self.settings), **own}


def chosen_format(asked: Format | str | None, own: Format | None, name: str) -> Format:
    """Return the format that is asked for, or else the model's own.

    Raises:
        ValueError: if there is neither, listing the formats.
    """
    if asked is not None:
        return find_format(asked) if isinstance(asked, str) else asked
    if own is None:
        raise ValueError(
            f"{name} does not say how a conversation becomes text for it; give a format "
            f"(--format): transcript for a model that was never taught to chat, or one of "
            f"{', '.join(FORMATS)}"
        )
    return own
