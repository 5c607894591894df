"""From bytes to a JSON object."""

from __future__ import annotations

import pytest
from trimode.balancer.api.body import SPARE_VALUES, read_json
from trimode.core.errors import InvalidRequestError


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'{"temperature": NaN}', b"[" * 100_000, b"\xff"])
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        read_json(body)


def test_the_number_of_values_is_bounded_by_the_context() -> None:
    values = SPARE_VALUES + 16 * 8
    assert len(read_json(b'{"prompt": [' + b"1," * (values - 2) + b"1]}", 8)["prompt"]) == values - 1
    with pytest.raises(InvalidRequestError, match="commas and brackets"):
        read_json(b'{"prompt": [' + b"1," * (values - 1) + b"1]}", 8)


def test_an_error_names_the_place_of_half_a_pair() -> None:
    body = rb'{"messages": [{"role": "user", "content": "\ud83d\ude00"}, {"role": "user", "content": "\ude00"}]}'
    with pytest.raises(InvalidRequestError, match=r"messages\[1\].content: the text holds half") as caught:
        read_json(body)
    assert caught.value.param == "messages[1].content"
