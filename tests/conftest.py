"""Keeps the fast tests honest: a test that starts a process must carry the marker `process` or `slurm`.

Also decides, before anything imports Triton, whether its kernels run on a GPU or in its interpreter.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import pytest
from trimode.core.devices import visible_gpus

HAS_GPU = visible_gpus() > 0
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"

with contextlib.suppress(ImportError):  # a GPU machine may not have it, and its tests need it not
    from hypothesis import HealthCheck, settings

    # a busy machine is slow, which is no fault of an example
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
"""Python's audit events of a process being started."""
_unmarked: list[str] = []
"""The running test, if it may not start a process."""


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if event in STARTS and _unmarked:
        raise AssertionError(f"{_unmarked[-1]} starts a process ({event}); it needs @pytest.mark.process")


sys.addaudithook(_refuse)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:  # noqa: ARG001
    """The last test's teardown ends what the whole session has started, which is not that test's doing."""
    if nextitem is None:
        _unmarked.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out the tests that need a GPU where there is none."""
    for item in items:
        if not HAS_GPU and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watches the whole test, its fixtures included."""
    # Triton compiles a GPU kernel with the assembler and a C compiler, which are processes.
    if all(item.get_closest_marker(name) is None for name in ("process", "slurm", "nemo_skills", "cuda")):
        _unmarked.append(item.nodeid)
    try:
        return (yield)
    finally:
        _unmarked.clear()
