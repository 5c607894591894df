"""Says which protection is in force on this machine when a program of a model's runs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from trimode.core.project import PROJECT_DIR
from trimode.pipeline.scoring.sandbox.folders import sandbox_folder
from trimode.pipeline.scoring.sandbox.run import BOOT, CHILD, PROBE, environment
from trimode.pipeline.scoring.sandbox.service import service_url

PARTS = {
    "files": "reads Python's own files only and writes in its own folder only (Landlock)",
    "calls": "no sockets, no other processes (seccomp)",
    "processes": "private processes and network (namespaces)",
    "folder": "a folder of limited size (its own file system)",
}
"""Name of a part of the protection -> what it does for a program."""
INSTEAD = {"folder": "its folder's size is looked at ten times a second instead"}
"""What stands in for a part that is missing."""
PROBE_LIMIT_S = 60.0


@functools.cache
def in_force() -> frozenset[str]:
    """Returns the names of the parts that are in force here. Starts a process that tries them."""
    with sandbox_folder() as folder:
        done = subprocess.run(
            [sys.executable, "-I", str(BOOT), str(PROJECT_DIR), CHILD, PROBE],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            timeout=PROBE_LIMIT_S,
            check=False,
        )
    try:
        return frozenset(json.loads(done.stdout))
    except ValueError:
        return frozenset()


def describe() -> str:
    """Returns one line about where programs run and what they cannot do there."""
    if url := service_url():
        return f"programs run in the sandbox service at {url}"
    parts = in_force()
    given = "; ".join(text for name, text in PARTS.items() if name in parts) or "none but limits of time and memory"
    missing = [
        text + (f": {INSTEAD[name]}" if name in INSTEAD else "") for name, text in PARTS.items() if name not in parts
    ]
    return f"programs run here, protection: {given}" + (f"; NOT in force: {'; '.join(missing)}" if missing else "")


@functools.cache
def announce() -> None:
    """Prints the line to standard error, once per process."""
    print(describe(), file=sys.stderr, flush=True)
