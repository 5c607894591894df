"""Short drills on a real Slurm: a job that is struck goes on by itself and ends as an undisturbed one.

The long drills with every kind of strike are `python -m trimode.bench.drills`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from trimode.bench.drills.cluster import Cluster
from trimode.bench.drills.drill import Drill, Record, Reference, make_reference, run_drill
from trimode.bench.drills.strikes import KINDS
from trimode.bench.drills.sweep import Settings, Sweep
from trimode.bench.drills.table import as_markdown
from trimode.core.project import PROJECT_DIR

pytestmark = [
    pytest.mark.skipif("TRIMODE_DRILLS" not in os.environ, reason="drills run where TRIMODE_DRILLS is set"),
    pytest.mark.slurm,
    pytest.mark.skipif(
        not (PROJECT_DIR / "assets" / "demo_model" / "model.safetensors").exists(), reason="the demo model is not here"
    ),
]
SETTINGS = Settings(benchmarks=("demo-code",), limit=40, tokens=96)


@pytest.fixture(scope="module")
def calm(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The same sweep, left alone."""
    return make_reference(tmp_path_factory.mktemp("calm") / "sweep", SETTINGS, Cluster(cluster))


@pytest.mark.parametrize("kind", ["job", "raylet", "signal_step", "full_disk"])
def test_a_job_survives(cluster: Path, calm: Reference, tmp_path: Path, kind: str) -> None:
    if KINDS[kind].small_disk and os.getuid() != 0:
        pytest.skip("this user may not mount a file system")
    record = run_drill(
        Record(kind=kind, mode="ar", seed=3, phase="serving"), tmp_path / "d", SETTINGS, calm, Cluster(cluster)
    )
    assert record.is_clean and record.phases, as_markdown([record], "", "")
    assert not record.typed or KINDS[kind].by_hand, as_markdown([record], "", "")
    assert not any("TRACEBACK" in note or "missing" in note for note in record.notes), record.notes


def test_a_step_that_is_given_the_devices_and_never_begins_does_not_keep_them(cluster: Path, tmp_path: Path) -> None:
    """srun's prolog runs between these two moments. The first one kills its srun, and the next step has to go on."""
    prolog = tmp_path / "prolog.sh"
    prolog.write_text(f"#!/bin/bash\n[ -e {tmp_path}/killed ] || {{ touch {tmp_path}/killed; kill -KILL $PPID; }}\n")
    prolog.chmod(0o755)
    settings = replace(SETTINGS, limit=4, more=(f"cluster.srun=['--prolog={prolog}']",))
    sweep = Sweep(tmp_path / "sweep", settings)
    try:
        Drill(sweep, Cluster(cluster)).measure()
        said = "".join(path.read_text() for path in sweep.out_dir.glob(".submitit/*/*_log.out"))
        assert sweep.is_completed() and sweep.typed == []
        assert "the step ended with status 137 and is started again (1/3)" in said
    finally:
        sweep.kill_all()
