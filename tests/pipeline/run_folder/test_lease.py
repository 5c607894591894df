"""The run that started last may write; a run that lost the lease is told by whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trimode.pipeline.run_folder import lease as lease_module
from trimode.pipeline.run_folder.lease import Lease, LeaseLost
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.store import SeedStore


def test_the_later_run_takes_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "CHECK_EVERY_S", 0.0)
    paths = RunPaths(tmp_path)
    first = Lease(paths, 0)
    first.check()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    second = Lease(paths, 0)
    assert second.is_held() and not first.is_held()
    with pytest.raises(LeaseLost, match=r"another run .* \(Slurm job 77, restart 2, process \d+ on .* since .*\)"):
        first.check()
    other_job = Lease(paths, 1)
    assert second.is_held() and other_job.is_held()


@pytest.mark.parametrize("text", [None, "", "{", "[]", "\x00"])
def test_a_file_that_is_gone_or_damaged_stops_nobody(tmp_path: Path, text: str | None) -> None:
    paths = RunPaths(tmp_path)
    lease = Lease(paths, 0)
    paths.lease(0).unlink()
    if text is not None:
        paths.lease(0).write_text(text)
    lease.check_now()


def test_a_lost_lease_adds_no_row_and_merges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "CHECK_EVERY_S", 0.0)
    paths = RunPaths(tmp_path)
    lease = Lease(paths, 0)
    store = SeedStore(paths, "gsm8k", 0, lease=lease)
    store.append(0, {"generation": "a"}, None)
    Lease(paths, 0)
    with pytest.raises(LeaseLost):
        store.append(1, {"generation": "b"}, None)
    with pytest.raises(LeaseLost):
        store.finish(1, lambda rows: rows)
    [line] = paths.output_async("gsm8k", 0).read_text().splitlines()
    assert json.loads(line)["generation"] == "a"
    assert not paths.output("gsm8k", 0).exists()
