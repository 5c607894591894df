"""A Ray head whose raylet dies while it starts is reported at once, with the raylet's own error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import services
from ray._private import worker as ray_worker
from trimode.balancer.actors import ray_head
from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.core.errors import WorkerError

pytestmark = pytest.mark.process


def unanswered(*_args: object) -> object:
    raise RuntimeError("no node of that id")


def test_a_dead_raylet_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "get_node", unanswered)
    logs = tmp_path / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("first\nno room left on the device\n")
    with (
        ray_head.patient_start(tmp_path),
        pytest.raises(WorkerError, match="ended at once: no room left on the device"),
    ):
        services.get_node("address", "id")
    assert services.get_node is unanswered


def test_the_cause_is_shown_and_not_the_stack(tmp_path: Path) -> None:
    logs = tmp_path / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    assert ray_head.error_line(tmp_path) == ""
    (logs / "raylet.err").write_text("[x C 1] A bug. Check failed: has_value() Timed out\n*** Stack ***\nmain\n")
    assert ray_head.error_line(tmp_path) == ": has_value() Timed out"


@pytest.mark.process
def test_a_head_that_does_not_come_up_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def init(**settings: object) -> None:
        folder = Path(str(settings["_temp_dir"]))
        assert not folder.exists()
        folder.mkdir()
        if not left:
            left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=tmp_path))
            raise RuntimeError("no node came up")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_head.ray, "init", init)
    ray_head.start_ray(PrivateFolder(tmp_path, 0, 0), num_cpus=1, num_gpus=0)
    assert left[0].wait(60) == -9
    assert "no node came up; starting it once more" in caplog.text


def test_the_raylet_waits_for_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def start_raylet(session_dir: str, node_id: str, runtime_env_agent_port: int = 0) -> None:
        given.update(session_dir=session_dir, node_id=node_id, port=runtime_env_agent_port)

    monkeypatch.setattr(services, "start_raylet", start_raylet)
    with ray_head.patient_start(tmp_path):
        services.start_raylet(str(tmp_path), "ab" * 28)
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = given["port"]
    assert isinstance(port, int)
    assert 0 < port < lowest or lowest <= 11_000
    written = {path.name.partition("_abab")[0]: path.read_text() for path in tmp_path.iterdir()}
    assert written == dict.fromkeys(("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"), "-1")


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
        with ray_head.patient_start(tmp_path):
            assert services.get_node("address", "id") == "node"
    finally:
        process.kill()
        process.wait()


def test_ray_says_one_line_and_dumps_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(ray_worker, "print_to_stdstream", ray_worker.print_to_stdstream)  # put back afterwards
    ray_head.say_first_lines()
    said = (
        "Raylet is terminated. Termination is unexpected. Last 20 lines of the Raylet logs:\n    [state-dump] a\n    b"
    )
    ray_worker.print_to_stdstream({"lines": [said], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert [record.getMessage() for record in caplog.records] == [
        "Ray: Raylet is terminated. Termination is unexpected"
    ]
