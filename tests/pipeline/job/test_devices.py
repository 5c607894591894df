"""What a job runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.pipeline.job.devices import Devices, choose_devices
from trimode.pipeline.spec import Device, ResourceSpec
from trimode.tests.fakes.machine import machine


def resources(device: Device, num_gpus: int, num_workers: int | None = None) -> ResourceSpec:
    return ResourceSpec(cluster="x", device=device, num_gpus=num_gpus, num_workers=num_workers, time_limit_min=1)


@pytest.mark.parametrize(
    ("asked", "visible", "expected"),
    [
        (resources(Device.auto, 8), 8, Devices(Device.cuda, 8)),
        (resources(Device.auto, 0), 0, Devices(Device.cpu, 1)),
        (resources(Device.auto, 0), 2, Devices(Device.cuda, 2)),
        (resources(Device.cuda, 0), 2, Devices(Device.cuda, 2)),
        (resources(Device.cpu, 4), 4, Devices(Device.cpu, 4)),
        (resources(Device.cpu, 0), 4, Devices(Device.cpu, 1)),
        (resources(Device.cpu, 4, num_workers=2), 0, Devices(Device.cpu, 2)),
        (resources(Device.auto, 4, num_workers=1), 4, Devices(Device.cuda, 1)),
    ],
)
def test_one_worker_per_device_unless_told(asked: ResourceSpec, visible: int, expected: Devices) -> None:
    assert choose_devices(asked, visible) == expected


@pytest.mark.parametrize("asked", [resources(Device.auto, 2), resources(Device.cuda, 2), resources(Device.cuda, 0)])
def test_gpus_that_are_not_there_are_an_error_and_no_fallback(asked: ResourceSpec) -> None:
    with pytest.raises(WorkerError, match="sees none"):
        choose_devices(asked, 0)


def test_fewer_gpus_than_asked_are_used_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_devices(resources(Device.auto, 8), 3) == Devices(Device.cuda, 3)
    assert "asked for 8 GPUs and sees 3" in capsys.readouterr().out


def test_a_job_sees_the_gpus_of_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.core.devices.ROOT", machine(tmp_path, files=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert choose_devices(resources(Device.auto, 2)) == Devices(Device.cuda, 2)
