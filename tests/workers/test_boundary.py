"""What the work for one request raises becomes that request's error."""

from __future__ import annotations

import pytest
from trimode.core.errors import ConfigError, GenerationError
from trimode.workers.boundary import one_request


def test_a_boundary_serves_many_requests(capsys: pytest.CaptureFixture[str]) -> None:
    boundary = one_request("the decoder")
    for value in ("1", "x", "2"):
        if value != "x":
            with boundary:
                int(value)
            continue
        with pytest.raises(GenerationError) as caught, boundary:
            int(value)
        assert caught.value.status == 500
        assert str(caught.value) == "generation failed: ValueError in the decoder"
        assert isinstance(caught.value.__cause__, ValueError)
    printed = capsys.readouterr().err
    assert printed.startswith("generation failed: ValueError in the decoder, ")
    assert "test_boundary.py:" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "error", [GenerationError("bad", 400), ConfigError("rule"), KeyError("key"), KeyboardInterrupt()], ids=repr
)
def test_some_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, one_request("the text", passing=(KeyError,)):
        raise error
    assert caught.value is error
