"""A process ends with those it lives for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from trimode.core.processes import process_id
from trimode.core.project import child_environment

pytestmark = pytest.mark.process

SLEEP = "import time; time.sleep(600)"
LIVES_WITH = """
import signal, subprocess, sys, time
from trimode.core.processes import live_with, process_id
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
live_with([process_id(int(sys.argv[1]))], grace_s=0.5)
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
from trimode.core.processes import die_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=die_with_parent)
print(child.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def python(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that is gone afterwards, whatever happens."""
    command = [sys.executable, "-c", code, *arguments]
    environment = child_environment()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("deaf", "status"), [("False", -signal.SIGTERM), ("True", -signal.SIGKILL)])
def test_the_end_of_an_owner_ends_it(deaf: str, status: int) -> None:
    with python(SLEEP) as owner, python(LIVES_WITH.format(deaf=deaf), str(owner.pid)) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        owner.kill()
        owner.wait()
        assert process.wait(60) == status


def test_the_kernel_ends_a_child_with_its_parent() -> None:
    with python(PARENT) as parent:
        assert parent.stdout is not None
        child = process_id(int(parent.stdout.readline()))
        assert child is not None
        parent.kill()
        parent.wait()
        while child.alive():
            time.sleep(0.01)


def test_a_process_is_known_by_pid_and_start() -> None:
    me = process_id(os.getpid())
    assert me is not None and me.alive()
    assert process_id(2**22 - 1) is None


def test_the_collector_looks_at_nothing_that_lived_before_and_runs_less_often() -> None:
    program = (
        "import gc, weakref; from trimode.core.processes import spare_collector; kept = [[] for _ in range(1000)]; "
        "garbage = type('Garbage', (), {})(); garbage.itself = garbage; seen = weakref.ref(garbage); del garbage; "
        "spare_collector(); print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000, gc.get_threshold()[0]); "
        "print(seen())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], env=child_environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["True", "True", "10000", "None"]
