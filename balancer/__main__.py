"""`python -m trimode.balancer`: serves one model on every device of this machine.

Checks the command line, prepares folder and environment, and becomes the server by exec. Ray reads its environment
when it is imported, so it must not be imported here.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from typing import NoReturn

from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.balancer.actors.ray_environment import ray_environment
from trimode.balancer.placement import place_workers
from trimode.balancer.settings import parse_settings
from trimode.core.command import run_command
from trimode.core.errors import guarded


def main(argv: Sequence[str]) -> NoReturn:
    """Becomes the server. A ConfigError, such as a full /tmp, is one line on stderr and exit status 2."""
    sys.exit(guarded(lambda: _become_server(argv)))


def _become_server(argv: Sequence[str]) -> NoReturn:
    """Raises ConfigError for settings that this machine cannot serve, OSError if its folder cannot be made."""
    settings = parse_settings(argv)
    place_workers(settings)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # thousands of clients may wait at once
    folder = PrivateFolder.create()
    environment = ray_environment(folder, several_nodes=settings.num_nodes > 1) | folder.environment()
    command = [sys.executable, "-m", "trimode.balancer.server", *argv]
    os.execve(sys.executable, command, environment)  # noqa: S606 (the arguments are a list; no shell is wanted)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
