"""What the reaper finds, ends and removes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.balancer.actors import reaper
from trimode.tests.fakes.balancer_process import alive, wait_for

pytestmark = pytest.mark.process


@contextlib.contextmanager
def sleeper(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=folder) as process:
        try:
            yield process
        finally:
            process.kill()


def start_reaper(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-I", reaper.__file__, str(folder)], stdin=subprocess.PIPE)


def test_it_ends_what_works_in_the_folder_and_nothing_else(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    with sleeper(folder) as inside, sleeper(elsewhere) as outside:
        process = start_reaper(folder)
        assert process.poll() is None
        assert alive(inside.pid)
        process.communicate()
        assert not alive(inside.pid)
        assert alive(outside.pid)
    assert not folder.exists()
    assert elsewhere.exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_to_the_whole_job_does_not_end_it(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    process = start_reaper(folder)
    wait_for(lambda: Path(f"/proc/{process.pid}/cwd").readlink() == Path("/"))  # it has its handlers then
    process.send_signal(signal.Signals[name])
    process.communicate()
    assert process.returncode == 0
    assert not folder.exists()
