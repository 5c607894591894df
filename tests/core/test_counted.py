"""Numbers of things in messages."""

from __future__ import annotations

import pytest
from trimode.core.counted import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs")])
def test_the_noun_follows_its_number(number: int, text: str) -> None:
    assert counted(number, "job") == text


def test_an_irregular_plural_is_given() -> None:
    assert (counted(1, "index", "indices"), counted(2, "index", "indices")) == ("1 index", "2 indices")
