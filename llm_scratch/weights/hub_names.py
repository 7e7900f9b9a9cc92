"""Names of models on the Hugging Face hub: "hub:ORG/NAME/FILE@REVISION"."""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "hub:"
FORMS = "hub:ORG/NAME, hub:ORG/NAME@REVISION or hub:ORG/NAME/FILE.gguf"
# The hub's rules: no "--" and no "..", which would make paths ambiguous.
NAME = re.compile(r"(?!.*(--|\.\.|\.git$))\w([\w.\-]*\w)?/\w([\w.\-]*\w)?", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)\w[\w.+\-]*(/\w[\w.+\-]*)*", re.ASCII)
WEIGHTS = (".gguf", ".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""The endings of the files that can be named."""


@dataclass(frozen=True)
class HubName:
    """A model on the hub.

    Args:
        repository: ORG/NAME.
        file: the path of one of its files; None means the whole repository.
        revision: a branch, a tag or a commit; None means the hub's default branch.
    """

    repository: str
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        file = "" if self.file is None else f"/{self.file}"
        return f"{PREFIX}{self.repository}{file}" + (
            "" if not self.revision else f"@{self.revision}"
        )


def is_hub_name(source: object) -> bool:
    """Return whether a source names a model on the hub; a path never does."""
    return isinstance(source, str) and source.startswith(PREFIX)


def parse_hub_name(source: str) -> HubName:
    """Parse "hub:ORG/NAME/FILE@REVISION".

    Raises:
        ValueError: if it is not of this form.
    """
    place, at, revision = source.removeprefix(PREFIX).partition("@")
    org, _, rest = place.partition("/")
    name, slash, file = rest.partition("/")
    if not NAME.fullmatch(f"{org}/{name}"):
        raise ValueError(f"{source} does not name a model on the hub; the forms are {FORMS}")
    if slash and not is_safe(file):
        raise ValueError(f"{source} ends with {file!r}, which is not the path of a file")
    if at and not slash and revision.lower().endswith(WEIGHTS):
        raise ValueError(f"in {source} the revision is not last: hub:ORG/NAME/FILE@REVISION")
    if at and not REVISION.fullmatch(revision):
        raise ValueError(f"{revision!r} in {source} is not a branch, a tag or a commit")
    return HubName(f"{org}/{name}", file or None, revision or None)


def hub_name_of(base: str, revision: object = None) -> str | None:
    """Return another program's "ORG/NAME" in this library's form; None for any other text."""
    if not NAME.fullmatch(base):
        return None
    return f"{PREFIX}{base}" + (f"@{revision}" if revision else "")


def is_safe(path: str) -> bool:
    """Return whether a file's path stays in its folder on every system, and is text to print."""
    parts = path.split("/")
    return path.isprintable() and not re.search(r"[\\:]", path) and not {"", ".", ".."} & {*parts}
