"""Decides what a job runs on: how many workers, on CUDA or on the CPU; it never falls back from one to the other.

Asks the operating system only, so it works without torch. It does not check that a device can compute.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from trimode.core.devices import visible_gpus
from trimode.core.errors import WorkerError
from trimode.pipeline.spec import Device, ResourceSpec


def choose_devices(resources: ResourceSpec, num_visible: int | None = None) -> Devices:
    """Device and number of workers of a job. Raises WorkerError when it asked for GPUs and sees none."""
    visible = visible_gpus() if num_visible is None else num_visible
    asked = resources.device is Device.cuda or (resources.device is Device.auto and resources.num_gpus > 0)
    if asked and visible == 0:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise WorkerError(
            f"the job asked for {max(1, resources.num_gpus)} GPU(s) and sees none (CUDA_VISIBLE_DEVICES: {shown}); "
            "to run on the CPU say so: --device cpu"
        )
    if resources.device is Device.cpu or visible == 0:
        return Devices(device=Device.cpu, num_workers=resources.num_workers or max(1, resources.num_gpus))
    if resources.num_gpus > visible:
        print(f"the job asked for {resources.num_gpus} GPUs and sees {visible}; it uses those", flush=True)
    return Devices(device=Device.cuda, num_workers=resources.num_workers or visible)


@dataclass(frozen=True, slots=True)
class Devices:
    """What the job decided to run on."""

    device: Device
    """Never auto."""
    num_workers: int
