"""`python -m trimode.balancer.join FILE NUMBER`: makes this machine a further node of a server until SIGTERM comes.

The server writes its address into FILE, which all nodes see. When the address changes, another server has taken its
place, and the node joins that one. Ray reads its environment when it is imported, so it must not be imported here.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.balancer.actors.ray_environment import ray_environment
from trimode.core.errors import ConfigError, Stopped, guarded
from trimode.core.nodes import NODES_TOKEN
from trimode.core.processes import serve_job

LOOK_EVERY_S = 1.0
TRIES = 3
"""How often a node joins the same server."""
LOOK_AT_SERVER_EVERY_S, CONNECT_S = 5.0, 5.0
"""Seconds between two looks whether the server's machine answers, and how long one may take."""
LOST_AFTER = 3
"""Looks in a row without an answer after which the server is lost. Ray itself would go on trying for very long."""
NODE = ("-m", "trimode.balancer.actors.ray_node")
"""Arguments of the Python interpreter that run Ray on this node."""


def address_in(file: Path) -> str | None:
    """Returns the address of the server that runs now; None without one."""
    try:
        found: str = json.loads(file.read_text(encoding="utf-8"))["address"]
    except FileNotFoundError:
        return None
    return found


def answers(address: str) -> bool:
    """Returns True if HOST:PORT takes connections."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return True
    except OSError:
        return False


def main(argv: Sequence[str], program: tuple[str, ...] = NODE) -> int:
    """Blocks until SIGTERM, and then returns 0. Returns 1 if Ray has ended on this node too often."""
    if len(argv) != 2 or not os.environ.get(NODES_TOKEN):
        raise ConfigError(f"got {' '.join(argv) or 'nothing'}; valid: FILE NUMBER, and the token in {NODES_TOKEN}")
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the warning before the time limit is the job's
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stop)
    try:
        _join(Path(argv[0]), argv[1], program)
    except Stopped:
        return 0
    return 1


def _raise_stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


def _join(file: Path, number: str, program: tuple[str, ...]) -> None:
    """Joins the server, and those that take its place. Returns after TRIES of one of them."""
    joined, tries = "", 0
    while True:
        address = address_in(file)
        if address is None:
            time.sleep(LOOK_EVERY_S)
            continue
        tries = tries + 1 if address == joined else 1
        joined = address
        if tries > TRIES:
            return
        _serve(file, address, number, program)


def _serve(file: Path, address: str, number: str, program: tuple[str, ...]) -> None:
    """Runs Ray on this node until the server has ended or is lost, or Ray has ended."""
    folder = PrivateFolder.create()
    try:
        process = subprocess.Popen(
            [sys.executable, *program, address, number],
            cwd=folder.path,
            env=ray_environment(folder, several_nodes=True),
            stdin=subprocess.DEVNULL,
            preexec_fn=serve_job,
        )
        try:
            lost, next_look = 0, time.monotonic()
            while process.poll() is None and address_in(file) == address and lost < LOST_AFTER:
                if time.monotonic() >= next_look:
                    lost = 0 if answers(address) else lost + 1
                    next_look = time.monotonic() + LOOK_AT_SERVER_EVERY_S
                time.sleep(LOOK_EVERY_S)
        finally:
            process.kill()
            process.wait()
    finally:
        folder.remove()


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
