"""Which names a body may hold."""

from __future__ import annotations

import pytest
from trimode.balancer.api.fields import NEUTRAL_VALUES, check_names
from trimode.core.errors import InvalidRequestError


@pytest.mark.parametrize("name", sorted(NEUTRAL_VALUES))
def test_what_is_not_offered_passes_only_when_it_asks_for_nothing(name: str) -> None:
    for neutral in (None, *NEUTRAL_VALUES[name]):
        assert check_names({name: neutral}) == []
    with pytest.raises(InvalidRequestError) as caught:
        check_names({name: ["something else"]})
    assert caught.value.param == name
    assert caught.value.message.startswith(f"{name}: got a list of 1")


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("blocklength", "block_length"), ("tresholds", "threshold"), ("modes", "mode"), ("max_token", "max_tokens")],
)
def test_near_misses_are_refused(typo: str, meant: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"did you mean {meant}"):
        check_names({typo: 1})


def test_other_servers_fields_are_named_as_ignored() -> None:
    body = {"steps": 4, "flag": True, "user": "me", "spaces_between_special_tokens": False, "block_length": 8}
    assert check_names(body) == ["flag", "steps", "user"]


@pytest.mark.parametrize("name", sorted(NEUTRAL_VALUES))
def test_a_boolean_is_no_number_and_a_number_no_boolean(name: str) -> None:
    for neutral in NEUTRAL_VALUES[name]:
        if isinstance(neutral, bool | int) and neutral in (0, 1):
            other = int(neutral) if isinstance(neutral, bool) else bool(neutral)
            with pytest.raises(InvalidRequestError, match=f"{name}: got {str(other).lower()}"):
                check_names({name: other})
