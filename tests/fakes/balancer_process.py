"""Starts a real balancer process with the fake worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import openai
from trimode.core.processes import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
START_S = 300.0


def environment(fake_log: Path | None = None) -> dict[str, str]:
    """The environment a job would give it: the package by path, one thread per library."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / ".types"), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    if fake_log is not None:
        env["TRIMODE_FAKE_LOG"] = str(fake_log)
    return env


def command(folder: Path, *flags: str) -> list[str]:
    """Two fake workers on the CPU, everything written below `folder`."""
    return [
        *(sys.executable, "-m", "trimode.balancer", "--model", str(folder / "tri"), "--device", "cpu"),
        *("--worker-class", "trimode.tests.fakes.worker:FakeWorker", "--num-workers", "2", "--max-num-seqs", "4"),
        *("--ready-file", str(folder / "ready.json"), "--log-dir", str(folder / "logs"), *flags),
    ]


@dataclass
class RunningBalancer:
    """A started balancer and what the test needs to talk to it."""

    process: subprocess.Popen[str]
    folder: Path
    ready: dict[str, Any]
    fake_log: Path

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    def openai(self, **settings: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key="EMPTY", max_retries=0, **settings)

    def ask(self, text: str, **fields: Any) -> httpx.Response:
        """POST of one user message; the raw response."""
        body = {"model": "tri", "messages": [{"role": "user", "content": text}], **fields}
        return httpx.post(self.url + "/v1/chat/completions", json=body, timeout=180)

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = httpx.get(self.url + "/stats", timeout=180).json()
        return stats

    def begun(self) -> list[str]:
        """Lines of the fake workers: `begin ID pid N on GPU` and `cancel ID`."""
        return self.fake_log.read_text().splitlines() if self.fake_log.exists() else []

    def tree(self) -> list[int]:
        """Processes below the balancer, the reaper included."""
        return descendants(self.process.pid)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(180)


def start_balancer(
    folder: Path, *flags: str, extra_environment: Mapping[str, str] = MappingProxyType({})
) -> RunningBalancer:
    """Starts a balancer and waits for its ready file. It is killed when the thread that started it ends."""
    fake_log = folder / "fake.log"
    with (folder / "balancer.log").open("w") as log:
        process = subprocess.Popen(
            command(folder, *flags),
            cwd=folder,
            env={**environment(fake_log), **extra_environment},
            stderr=log,
            stdout=log,
            text=True,
            preexec_fn=die_with_parent,
        )
    ready = folder / "ready.json"
    wait_for(lambda: ready.exists() or process.poll() is not None, START_S)
    if not ready.exists():
        process.kill()
        process.wait()
        raise AssertionError((folder / "balancer.log").read_text())
    return RunningBalancer(process, folder, json.loads(ready.read_text()), fake_log)


def wait_for(condition: Any, limit_s: float = 180.0) -> None:
    """Polls until `condition()`; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """False for a process that is gone or a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def descendants(pid: int) -> list[int]:
    """Returns all living processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return [child for child in found if alive(child)]


def private_folder(pid: int) -> Path:
    """The temporary folder of a running balancer: its current folder."""
    return Path(f"/proc/{pid}/cwd").readlink()
