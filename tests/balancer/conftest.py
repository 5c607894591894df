"""One balancer with two fake workers, shared by the tests that do it no lasting harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trimode.tests.fakes.balancer_process import RunningBalancer, start_balancer


@pytest.fixture(scope="session")
def balancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBalancer]:
    folder = tmp_path_factory.mktemp("balancer")
    running = start_balancer(folder, "--max-queue", "3", "--request-log", str(folder / "requests.jsonl"))
    yield running
    running.terminate()
