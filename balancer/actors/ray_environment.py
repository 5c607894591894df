"""The environment of Ray's processes. Ray reads it when it is imported, so this module must not import Ray."""

from __future__ import annotations

import os

from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.core.nodes import NODES_TOKEN
from trimode.core.project import child_environment

MAX_CALL_BYTES = 256 * 2**20
"""Longer arguments and results of one call would go through Ray's object store. A body has at most 16 MiB."""


def ray_environment(folder: PrivateFolder, *, several_nodes: bool) -> dict[str, str]:
    """Returns the environment of a process that starts Ray in `folder`, where the token is written."""
    environment = {
        **child_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder.write_token(os.environ.get(NODES_TOKEN))),
        "RAY_USAGE_STATS_ENABLED": "0",
        # for one node: without this Ray replaces 127.0.0.1 by the machine's address and listens on all interfaces
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": str(int(several_nodes)),
        # prompts and replies of any size travel inside the calls, not through the object store: it writes what does
        # not fit to disk
        "RAY_max_direct_call_object_size": str(MAX_CALL_BYTES),
        "RAY_task_rpc_inlined_bytes_limit": str(MAX_CALL_BYTES),
        "RAY_task_events_report_interval_ms": "0",  # the record of every call would grow gcs_server for ever
        "AUTOSCALER_METRIC_PORT": "-1",  # no port: Ray's metrics there would ask for no token
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray's default lowers the priority of its workers
        # on a busy machine processes start slowly, which is no failure
        "RAY_NUM_REDIS_GET_RETRIES": "120",
        "RAY_gcs_server_port_wait_time_s": "300",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_agent_register_timeout_ms": "300000",
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", NODES_TOKEN):  # the first two would lead to another Ray
        environment.pop(name, None)
    return environment
