"""Numbers that callers give: what is a count, what is a number, and how a wrong one is named."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from llm_scratch.checks import check_count, is_number


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint16(1)])
def test_check_count_takes_whole_numbers_of_any_kind(value):
    check_count("rows", value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "rows=0 must be 1 or more; None is all"),
        (2.0, "rows=2.0 must be 1 or more, a whole number; None is all"),
        (True, "rows=True must be 1 or more, a whole number; None is all"),
        ("3", "rows='3' must be 1 or more, a whole number; None is all"),
        (None, "rows=None must be 1 or more, a whole number; None is all"),
    ],
)
def test_check_count_names_what_is_wrong(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_count("rows", value, note="None is all")


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25)])
def test_is_number_takes_both_ends(value):
    assert is_number(value, 0, 1)


@pytest.mark.parametrize("value", [-1e-9, 1.5, math.nan, math.inf, -math.inf, "0.5", None, True])
def test_is_number_refuses(value):
    assert not is_number(value, 0, 1)
