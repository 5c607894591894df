"""The CPU threads of a process that runs a model itself, and the memory that it keeps after loading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from trimode.core.devices import THREADS_VARIABLE
from trimode.tests.workers.conftest import micro_settings
from trimode.workers import runtime
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.step_threads import StepThreads
from trimode.workers.runtime import Runtime


@pytest.fixture
def three_threads() -> Iterator[None]:
    """A process in which torch has three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("variable", "setting", "threads"),
    [
        (None, None, 1),
        ("", None, 1),
        ("3", None, 3),
        (None, 2, 2),
        ("3", 2, 2),
    ],
)
@pytest.mark.usefixtures("three_threads")
def test_a_small_model_has_one_thread_unless_another_number_is_asked_for(
    variable: str | None, setting: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepThreads, "of_step", lambda *_: 1)  # as while other programs use the cores
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(THREADS_VARIABLE, variable)
    Runtime(micro_settings(num_threads=setting))
    assert torch.get_num_threads() == threads


def test_what_loading_needed_for_a_while_is_returned_at_the_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    measure = Engine.measure

    def watched(engine: Engine) -> None:
        measure(engine)
        events.append("measured")

    monkeypatch.setattr(Engine, "measure", watched)
    monkeypatch.setattr(runtime, "return_free_memory", lambda: events.append("returned"))
    Runtime(micro_settings(num_threads=1))
    assert events == ["measured", "returned"]
