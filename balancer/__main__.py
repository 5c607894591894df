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
from trimode.balancer.placement import place_workers
from trimode.balancer.settings import parse_settings
from trimode.core.errors import guarded
from trimode.core.project import child_environment

MAX_CALL_BYTES = 256 * 2**20
"""Longer arguments and results of one call would go through Ray's object store. A body has at most 16 MiB."""


def main(argv: Sequence[str]) -> NoReturn:
    """Becomes the server. A ConfigError, such as a full /tmp, is one line on stderr and exit status 2."""
    sys.exit(guarded(lambda: _become_server(argv)))


def _become_server(argv: Sequence[str]) -> NoReturn:
    """Raises ConfigError for settings that this machine cannot serve, OSError if its folder cannot be made."""
    place_workers(parse_settings(argv))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # thousands of clients may wait at once
    folder = PrivateFolder.create()
    environment = {
        **child_environment(**folder.environment()),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder.write_token()),
        "RAY_USAGE_STATS_ENABLED": "0",
        # one node: without this Ray replaces 127.0.0.1 by the machine's address and listens on all interfaces
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # prompts and replies of any size travel inside the calls, not through the object store: it writes what does
        # not fit to disk
        "RAY_max_direct_call_object_size": str(MAX_CALL_BYTES),
        "RAY_task_rpc_inlined_bytes_limit": str(MAX_CALL_BYTES),
        "RAY_task_events_report_interval_ms": "0",  # the record of every call would grow gcs_server for ever
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray's default lowers the priority of its workers
        # on a busy machine processes start slowly, which is no failure
        "RAY_NUM_REDIS_GET_RETRIES": "120",
        "RAY_gcs_server_port_wait_time_s": "300",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_agent_register_timeout_ms": "300000",
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):  # they would lead to another Ray
        environment.pop(name, None)
    command = [sys.executable, "-m", "trimode.balancer.server", *argv]
    os.execve(sys.executable, command, environment)  # noqa: S606 (the arguments are a list; no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
