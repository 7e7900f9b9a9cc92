"""A judge's scores for some models: their means, with confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llm_scratch.training.noise import interval_of


class MeanScore(NamedTuple):
    """A mean over `items` items, and the ends of its 95 % confidence interval.

    The ends are NaN for a single item, which says nothing about the spread.
    """

    mean: float
    low: float
    high: float
    items: int

    def __str__(self) -> str:
        if self.items == 1:
            return f"{self.mean:.1f} (one item)"
        return f"{self.mean:.1f} ({self.low:.1f} to {self.high:.1f}, {self.items} items)"


@dataclass(frozen=True)
class Judgement:
    """The scores that a judge gave to the answers of some models, 0 to 100.

    Args:
        scores: for each model, one score per item; None if the judge's could not be read.
        orders: for each item, the models in the order in which the judge saw their answers.
        asked: questions sent; the other replies came from the records.
    """

    scores: Mapping[str, Sequence[float | None]]
    orders: Sequence[tuple[str, ...]]
    asked: int

    @property
    def unreadable(self) -> dict[str, int]:
        """The number of unreadable scores of each model, which its mean leaves out."""
        return {name: list(values).count(None) for name, values in self.scores.items()}

    def mean(self, name: str) -> MeanScore:
        """Return the mean score of a model over its readable scores, with a 95 % t interval.

        Raises:
            ValueError: if there is no such model, or none of its scores could be read.
        """
        return mean_score([score for score in self._of(name) if score is not None], name)

    def difference(self, first: str, second: str) -> MeanScore:
        """Return the mean score of `first` minus `second`, item by item, with a 95 % t interval.

        An item is hard or easy for both models, so this interval is narrower than those of the two
        means suggest. If it does not contain 0, at most five samples in a hundred would show such a
        difference by chance.

        Raises:
            ValueError: if there is no such model, or no item has readable scores for both.
        """
        pairs = zip(self._of(first), self._of(second), strict=True)
        both = [a - b for a, b in pairs if a is not None and b is not None]
        return mean_score(both, f"{first} and {second}")

    def table(self) -> str:
        """Return one line per model, best first: mean, interval, and unreadable scores."""
        unreadable = self.unreadable
        means = {n: self.mean(n) for n, found in self.scores.items() if unreadable[n] < len(found)}
        width, lines = max(map(len, self.scores)), []
        for name in sorted(means, key=lambda name: -means[name].mean):
            n, of = unreadable[name], len(self.scores[name])
            note = f"; {n} of {of} scores could not be read" if n else ""
            lines.append(f"{name:{width}}  {means[name]}{note}")
        lines += [f"{name:{width}}  no readable score" for name in self.scores if name not in means]
        return "\n".join(lines)

    def _of(self, name: str) -> Sequence[float | None]:
        if name not in self.scores:
            raise ValueError(f"no model {name!r} was judged; use one of {', '.join(self.scores)}")
        return self.scores[name]


def mean_score(values: Sequence[float], name: str = "this") -> MeanScore:
    """Return the mean of some numbers, with the 95 % confidence interval of Student's t.

    The interval treats the items as a random sample, and says where the mean over many more such
    items may lie. It may reach beyond the ends of the scale.

    Raises:
        ValueError: if there is no number.
    """
    if not values:
        raise ValueError(f"there is no readable score of {name}; the records hold the replies")
    low, high = interval_of(values) or (math.nan, math.nan)
    return MeanScore(statistics.fmean(values), low, high, len(values))
