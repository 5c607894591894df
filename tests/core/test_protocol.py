"""Worker settings from flags."""

from __future__ import annotations

from trimode.core.protocol import WorkerSettings


def test_flags_become_settings_by_name() -> None:
    settings = WorkerSettings.from_flags({"model": "m", "max_num_seqs": 8, "port": 80})
    assert settings == WorkerSettings(model="m", max_num_seqs=8)
