"""Files of ours say one thing, in numbers that can be computed with."""

from typing import Any

import numpy as np
import pytest

from mobius_seg.json_values import is_number, parse_json


def test_what_ordinary_json_says() -> None:
    text = '{"a": [1, -2.5, true, null], "b": {"a": "x"}, "c": 9223372036854775807}'
    wanted = {"a": [1, -2.5, True, None], "b": {"a": "x"}, "c": 2**63 - 1}
    assert parse_json(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ('{"ratio": 1, "ratio": 3}', "key 'ratio' stands there twice"),
        ('[{"a": {"b": 1, "b": 1}}]', "key 'b' stands there twice"),
        ("1" * 400, "a whole number of 400 digits"),
        ("-" + "1" * 5000, "a whole number of 5001 digits"),
    ],
)
def test_what_says_nothing_that_could_be_used(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, True),
        (-1.5, True),
        (10**300, True),
        (10**400, False),
        (-(10**400), False),
        (float("nan"), False),
        (float("-inf"), False),
        (True, False),
        ("1", False),
        (None, False),
        (np.float64(0.5), True),
    ],
)
def test_numbers(value: Any, wanted: bool) -> None:
    assert is_number(value) is wanted
