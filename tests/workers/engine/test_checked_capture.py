"""The stand-in for CUDA graphs refuses what a graph could not repeat."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from trimode.kernels.best_token import best_token
from trimode.tests.fakes.capture import CheckedCapture, NotCapturable


@pytest.fixture
def given() -> torch.Tensor:
    """Memory that graphs may use."""
    return torch.arange(6.0)


def calling(function: Callable[[torch.Tensor], object], tensor: torch.Tensor) -> Callable[[], None]:
    """A function to record."""

    def body() -> None:
        function(tensor)

    return body


STRANGE = torch.ones(6)
"""Memory that no graph knows."""
READS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool(x.sum() > 0),
    "int": lambda x: int(x.sum()),
    "index": lambda x: range(x[0].long()),  # type: ignore[arg-type]
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 1],
    "masked_select": lambda x: x.masked_select(x > 1),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "from a list": lambda x: x + torch.tensor([1.0] * 6),
}


@pytest.mark.parametrize("name", READS)
def test_a_value_that_crosses_to_the_host_or_from_it_is_refused(name: str, given: torch.Tensor) -> None:
    with pytest.raises(NotCapturable):
        CheckedCapture().record(calling(READS[name], given), [given])


@pytest.mark.parametrize(
    "touch",
    [
        lambda x: x.add_(STRANGE),
        lambda x: STRANGE.copy_(x),
        lambda x: x.copy_(STRANGE[:6]),
        lambda _: best_token(STRANGE[None]),
    ],
    ids=["read", "written", "view", "by a compiled kernel"],
)
def test_memory_that_was_not_named_is_refused(touch: Callable[[torch.Tensor], object], given: torch.Tensor) -> None:
    with pytest.raises(NotCapturable, match="does not know"):
        CheckedCapture().record(calling(touch, given), [given])


def test_a_replay_runs_with_what_stands_in_memory_then(given: torch.Tensor) -> None:
    result = torch.zeros(6)
    capture = CheckedCapture()

    def body() -> None:
        result.copy_(given * 2)

    replay = capture.record(body, [given, {"a list of": [result]}])
    given.fill_(4)
    replay()
    assert result.tolist() == [8.0] * 6
    assert (capture.num_recorded, capture.num_replayed) == (1, 1)


def test_a_number_of_the_host_that_changes_is_refused(given: torch.Tensor) -> None:
    numbers = iter([2, 2, 3])
    replay = CheckedCapture().record(calling(lambda x: x.mul_(next(numbers)), given), [given])
    replay()
    with pytest.raises(NotCapturable, match="where the capture did"):
        replay()


def test_a_replay_that_does_less_is_refused(given: torch.Tensor) -> None:
    times = iter([2, 1])

    def body() -> None:
        for _ in range(next(times)):
            given.add_(1)

    replay = CheckedCapture().record(body, [given])
    with pytest.raises(NotCapturable, match="1 operations, the capture did 2"):
        replay()


def test_what_a_run_has_allocated_is_gone_after_it(given: torch.Tensor) -> None:
    leaked: list[torch.Tensor] = []

    def body() -> None:
        leaked.append(given + 1)

    CheckedCapture().record(body, [given])()
    assert all(tensor.isnan().all() for tensor in leaked)
    assert given.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_memory_of_an_earlier_run_is_refused(given: torch.Tensor) -> None:
    kept: list[torch.Tensor] = []

    def body() -> None:
        kept.append(given + kept[0] if kept else given + 1)

    with pytest.raises(NotCapturable, match="does not know"):
        CheckedCapture().record(body, [given])()


def test_recording_late_records_at_the_first_replay(given: torch.Tensor) -> None:
    capture = CheckedCapture(lazy=True)
    replay = capture.record(calling(lambda x: x.add_(1), given), [given])
    assert capture.num_recorded == 0
    replay()
    assert (capture.num_recorded, capture.num_replayed) == (1, 1)
