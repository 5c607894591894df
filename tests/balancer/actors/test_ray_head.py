"""A Ray head whose raylet dies while it starts is reported at once, with the raylet's own error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import services
from trimode.balancer.actors import ray_head
from trimode.core.errors import WorkerError

pytestmark = pytest.mark.process


def unanswered(*_args: object) -> object:
    raise RuntimeError("no node of that id")


def test_a_dead_raylet_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "get_node", unanswered)
    logs = tmp_path / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("first\nno room left on the device\n")
    with ray_head._long_wait(tmp_path), pytest.raises(WorkerError, match="ended at once: no room left on the device"):
        services.get_node("address", "id")
    assert services.get_node is unanswered


def test_a_living_raylet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raylet = tmp_path / "raylet"
    raylet.symlink_to(os.path.realpath(sys.executable))  # the kernel names a process after the file it was started by
    process = subprocess.Popen([str(raylet), "-c", "import time; time.sleep(60)"], cwd=tmp_path)
    try:
        asked: list[object] = []

        def answered_late(*args: object) -> object:
            asked.append(args)
            if len(asked) < 3:
                raise RuntimeError("not yet")
            return "node"

        monkeypatch.setattr(services, "get_node", answered_late)
        with ray_head._long_wait(tmp_path):
            assert services.get_node("address", "id") == "node"
    finally:
        process.kill()
        process.wait()
