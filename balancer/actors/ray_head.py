"""A private Ray head on loopback: its start and its end."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import random
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import _raylet
from ray._private import services
from ray._private import worker as ray_worker
from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.balancer.actors.ray_watch import end_with_gcs
from trimode.balancer.actors.reaper import end_processes, processes_in
from trimode.core.errors import WorkerError

log = logging.getLogger("trimode.balancer")

OBJECT_STORE_BYTES = 80 * 2**20
"""The smallest that Ray accepts: prompts and replies travel inside the calls."""
START_S = 300.0
"""Seconds that the head may take to start. Ray's own limit is half a minute, which a busy machine exceeds."""
UNUSED_PORTS = ("METRICS_AGENT_PORT_NAME", "METRICS_EXPORT_PORT_NAME", "DASHBOARD_AGENT_LISTEN_PORT_NAME")
"""Names in Ray of the ports of its dashboard agent, which has nothing to do without a dashboard."""


def start_ray(folder: PrivateFolder, *, num_cpus: int, num_gpus: int, host: str | None = "127.0.0.1") -> None:
    """Starts the head inside `folder` and connects to it; if it does not come up, once more.

    `host`: its address; None leaves the choice to Ray.

    Raises:
        WorkerError: Ray cannot start.
    """
    os.chdir(folder.path)
    try:
        _start(folder, (num_cpus, num_gpus), host)
    except WorkerError as error:
        log.warning("%s; starting it once more", error)
        stop_ray()
        end_processes(str(folder.path))
        shutil.rmtree(folder.ray_path, ignore_errors=True)
        _start(folder, (num_cpus, num_gpus), host)


def _start(folder: PrivateFolder, devices: tuple[int, int], host: str | None) -> None:
    say_first_lines()
    num_cpus, num_gpus = devices
    try:
        with patient_start(folder.path), end_with_gcs(folder.path):
            ray.init(
                include_dashboard=False,
                _temp_dir=str(folder.ray_path),
                _node_ip_address=host,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
            )
    except WorkerError:
        raise
    except Exception as error:  # noqa: BLE001 (Ray raises a bare Exception when its head does not come up)
        raise WorkerError(f"Ray cannot start: {type(error).__name__}: {error}") from None


def say_first_lines() -> None:
    """Makes Ray log the first sentence of what it says to its driver. It prints dumps of its own state after it."""
    if hasattr(ray_worker, "print_to_stdstream"):  # else another release of Ray
        ray_worker.print_to_stdstream = _say


def _say(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:  # noqa: ARG001 - as Ray calls it
    for message in data.get("lines", ()):
        first = next((line for line in str(message).splitlines() if line.strip()), "")
        log.warning("Ray: %s", first.partition(". Last 20 lines")[0].strip())


@contextlib.contextmanager
def patient_start(folder: Path) -> Iterator[None]:
    """Makes Ray wait for its new node for START_S, or until the node's raylet has ended.

    Two limits are fixed in Ray's code. The driver waits for the node for half a minute, even when the raylet is dead.
    The raylet waits 15 seconds until each of its agents has chosen its ports, and then aborts; it does not wait for
    ports that it has.
    """
    get_node, start_raylet = getattr(services, "get_node", None), getattr(services, "start_raylet", None)
    if get_node is None or start_raylet is None:  # another release of Ray: its own limits hold
        yield
        return

    def wait_for_node(*args: object) -> object:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return get_node(*args)
            except RuntimeError:
                if not raylets_in(folder):
                    raise WorkerError("Ray cannot start: its raylet ended at once" + error_line(folder)) from None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def start_with_ports(*args: object, **settings: object) -> object:
        call = inspect.signature(start_raylet).bind(*args, **settings).arguments
        say_ports_are_unused(str(call["session_dir"]), str(call["node_id"]))
        return start_raylet(*args, **{**settings, "runtime_env_agent_port": free_port()})

    services.get_node, services.start_raylet = wait_for_node, start_with_ports
    try:
        yield
    finally:
        services.get_node, services.start_raylet = get_node, start_raylet


def say_ports_are_unused(session_dir: str, node_id: str) -> None:
    """Says of the dashboard agent's ports what the agent itself says when there is no dashboard.

    The raylet then has them at once.
    """
    persist_port = getattr(_raylet, "persist_port", None)
    for name in UNUSED_PORTS:
        if persist_port is not None and hasattr(_raylet, name):
            persist_port(session_dir, node_id, getattr(_raylet, name), -1)


def free_port() -> int:
    """Returns a port of loopback that is free now and that the kernel gives to nobody who does not name it."""
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    candidates = range(10_000, lowest_given) if lowest_given > 11_000 else range(1_024, 65_536)
    for port in random.sample(candidates, len(candidates)):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise WorkerError("Ray cannot start: no port of this machine is free")


def raylets_in(folder: Path) -> list[int]:
    """Returns the process ids of the living raylets of the balancer whose folder this is."""
    return [pid for pid in processes_in(str(folder)) if _name(pid) == "raylet"]


def _name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:  # it has ended meanwhile
        return ""


def error_line(folder: Path) -> str:
    """Returns what the raylet's error file says, with ": " before it; empty when the file has nothing.

    That is the first line that reports a fatal error, since a stack trace follows it; otherwise the last line.
    """
    for path in sorted(folder.glob("ray/session_*/logs/raylet.err")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        written = [line for line in lines if line.strip()]
        if written:
            fatal = [line for line in written if "Check failed" in line]
            return f": {fatal[0].partition('Check failed: ')[2] if fatal else written[-1]}"[:500]
    return ""


def gcs_address() -> str:
    """Returns where further nodes find the head, HOST:PORT."""
    return str(ray.get_runtime_context().gcs_address)


def stop_ray() -> None:
    """Ends Ray's processes, if it was started."""
    if ray.is_initialized():
        ray.shutdown()
