"""The kinds of output head: one for the next token, or one for classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

HeadKind = Literal["tokens", "classes"]


@dataclass(frozen=True)
class Head:
    """A head, as described in a saved model.

    Args:
        kind: "tokens" for a language model, "classes" for a classifier.
        size: number of outputs.
        bias: whether it has a bias.
        names: the class names in the order of the outputs; None if they have none.
    """

    kind: HeadKind
    size: int
    bias: bool = False
    names: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the head as plain data, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Head:
        """Return the head that `as_dict` described.

        Raises:
            ValueError: if it is not such a description.
        """
        kind, size, bias, names = map(content.get, ("kind", "size", "bias", "names"))
        sound = isinstance(size, int) and size > 0 and isinstance(bias, bool)
        if kind not in ("tokens", "classes") or not sound or size is None or bias is None:
            raise ValueError(f"a head of kind {kind!r}, size {size!r} and bias {bias!r} can't be")
        if names is not None:
            if not isinstance(names, list | tuple) or len(names) != size:
                raise ValueError(f"the head has {size} outputs, but another number of names")
            names = tuple(map(str, names))
        return cls(kind, size, bias, names)


def head_of(model: Any) -> Head:
    """Describe the head of a model.

    A head without a bias and with one output per id predicts tokens, unless its outputs have class
    names; any other head predicts classes, as in the book's classifiers.
    """
    layer = getattr(model.out_head, "linear", model.out_head)  # LoRA wraps it
    size, bias = int(layer.out_features), getattr(layer, "bias", None) is not None
    names = getattr(model, "class_names", None)
    named = names is not None and len(names) == size
    if size == model.cfg.vocab_size and not bias and not named:
        return Head("tokens", size)
    return Head("classes", size, bias, names if named else None)
