"""A further node of a server: `python -m trimode.balancer.actors.ray_node ADDRESS NUMBER`, as `balancer.join` calls it.

Runs Ray's processes of this node in the current folder until one of them ends. They and this process end with their
parent.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from ray._private.node import Node
from ray._private.parameter import RayParams
from trimode.balancer.actors.nodes import MARK
from trimode.balancer.actors.ray_head import OBJECT_STORE_BYTES, patient_start
from trimode.core.devices import visible_gpus

LOOK_EVERY_S = 0.5


def node_name() -> str:
    """Returns Slurm's name of this node, or the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def address_towards(address: str) -> str:
    """Returns the address of this machine that `address`, HOST:PORT, sees."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # sends nothing
        probe.connect((host.strip("[]"), int(port)))
        return str(probe.getsockname()[0])


def ray_parameters(address: str, number: int, folder: Path) -> RayParams:
    """Returns what Ray starts on this node: a raylet that belongs to the GCS at `address`."""
    return RayParams(
        gcs_address=address,
        node_ip_address=address_towards(address),
        node_name=node_name(),
        num_cpus=1,
        num_gpus=visible_gpus(),
        resources={f"{MARK}{number}": 1},
        object_store_memory=OBJECT_STORE_BYTES,
        temp_dir=str(folder / "ray"),
        include_log_monitor=False,
    )


def main(address: str, number: int) -> int:
    """Blocks while the node lives. Returns 1."""
    folder = Path.cwd()
    with patient_start(folder):
        node = Node(ray_parameters(address, number, folder), head=False, shutdown_at_exit=False, spawn_reaper=True)
    print(f"{node_name()}: Ray has joined {address}", flush=True)
    while not (dead := node.dead_processes()):
        time.sleep(LOOK_EVERY_S)
    names = ", ".join(name for name, _ in dead)
    print(f"{node_name()}: Ray's {names} has ended", flush=True)
    return 1


if __name__ == "__main__":
    os._exit(main(sys.argv[1], int(sys.argv[2])))
