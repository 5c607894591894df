"""The benchmark of the demo model answers in every mode, with as many threads as a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from trimode.bench.demo_engine import compare_demo
from trimode.core.protocol import Mode


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_every_mode_has_a_line_and_the_small_model_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    compare_demo(2, "bfloat16")
    assert torch.get_num_threads() == 1
    head, _, *lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line]
    assert head[0] == "demo model, bfloat16, 1 thread"
    assert [line[0] for line in lines] == list(Mode)
    assert all(float(line[1]) > 0 and float(line[2]) > 0 for line in lines)
