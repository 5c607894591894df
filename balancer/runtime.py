"""A private Ray head on loopback for one balancer: its own folder, its own token, and nothing left behind at the end.

Knows nothing of requests, workers or HTTP.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import ray

import trimode
from trimode.balancer import reaper

OBJECT_STORE_BYTES = 80 * 2**20
"""Prompts and replies travel inside the calls; the store is Ray's smallest."""


class PrivateRay:
    """Starts and ends Ray for this process. `folder` is the current folder of every process below it, until they are gone."""

    def __init__(self) -> None:
        # unix sockets inside the folder: the whole path must stay below 108 bytes, so TMPDIR is not asked
        self.folder = Path(tempfile.mkdtemp(prefix="trimode-", dir="/tmp")).resolve()  # noqa: S108 (mode 0700, random name)
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", str(Path(reaper.__file__).resolve()), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(self, *, num_cpus: int, num_gpus: int) -> None:
        """Starts the head and connects; a few seconds. Leaves this process in `folder`."""
        _pass_import_path_on()
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        os.environ.update(
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN_PATH=str(token),
            RAY_USAGE_STATS_ENABLED="0",
            RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
            RAY_DEDUP_LOGS="0",
        )
        os.environ.pop("RAY_ADDRESS", None)  # a Ray that happens to run on this machine is not ours
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.chdir(self.folder)
        ray.init(
            include_dashboard=False,
            _temp_dir=str(self.folder),
            _node_ip_address="127.0.0.1",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
        )

    def stop(self) -> None:
        """Ends every process below this one and removes the folder; returns when that is done. May be called twice."""
        os.chdir("/")  # else the reaper would take this process for one that was left behind
        if ray.is_initialized():
            ray.shutdown()
        if self._reaper.stdin is not None and not self._reaper.stdin.closed:
            self._reaper.stdin.close()
        self._reaper.wait()


def _pass_import_path_on() -> None:
    """Makes `import trimode` work in the worker processes: entries made absolute, and the folder this package came from."""
    entries = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for package_dir in trimode.__path__:
        parent = Path(package_dir).absolute().parent
        if (parent / "trimode").exists() and str(parent) not in entries:
            entries.append(str(parent))
    os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    os.environ["PYTHONSAFEPATH"] = "1"
