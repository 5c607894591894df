"""What a job runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.pipeline.job.devices import Devices, choose_devices
from trimode.pipeline.spec import ResourceSpec
from trimode.tests.fakes.machine import machine


def resources(device: str, num_gpus: int, num_workers: int | None = None) -> ResourceSpec:
    return ResourceSpec(cluster="x", device=device, num_gpus=num_gpus, num_workers=num_workers, time_limit_min=1)


@pytest.mark.parametrize(
    ("asked", "visible", "expected"),
    [
        (resources("auto", 8), 8, Devices("cuda", 8)),
        (resources("auto", 0), 0, Devices("cpu", 1)),
        (resources("auto", 0), 2, Devices("cuda", 2)),
        (resources("cuda", 0), 2, Devices("cuda", 2)),
        (resources("cpu", 4), 4, Devices("cpu", 4)),
        (resources("cpu", 0), 4, Devices("cpu", 1)),
        (resources("cpu", 4, num_workers=2), 0, Devices("cpu", 2)),
        (resources("auto", 4, num_workers=1), 4, Devices("cuda", 1)),
    ],
)
def test_one_worker_per_device_unless_told(asked: ResourceSpec, visible: int, expected: Devices) -> None:
    assert choose_devices(asked, visible) == expected


@pytest.mark.parametrize("asked", [resources("auto", 2), resources("cuda", 2), resources("cuda", 0)])
def test_gpus_that_are_not_there_are_an_error_and_no_fallback(asked: ResourceSpec) -> None:
    with pytest.raises(WorkerError, match="sees none"):
        choose_devices(asked, 0)


def test_fewer_gpus_than_asked_are_used_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_devices(resources("auto", 8), 3) == Devices("cuda", 3)
    assert "asked for 8 GPUs and sees 3" in capsys.readouterr().out


def test_a_job_sees_the_gpus_of_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.core.devices.ROOT", machine(tmp_path, files=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert choose_devices(resources("auto", 2)) == Devices("cuda", 2)
