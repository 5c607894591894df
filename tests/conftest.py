"""Keeps the fast tests honest: a test that starts a process must carry the marker `process` or `slurm`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
"""Python's audit events of a process being started."""
_unmarked: list[str] = []
"""The running test, if it may not start a process."""


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if event in STARTS and _unmarked:
        raise AssertionError(f"{_unmarked[-1]} starts a process ({event}); it needs @pytest.mark.process")


sys.addaudithook(_refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watches the whole test, its fixtures included."""
    if all(item.get_closest_marker(name) is None for name in ("process", "slurm", "nemo_skills")):
        _unmarked.append(item.nodeid)
    try:
        return (yield)
    finally:
        _unmarked.clear()
