"""Limits of a cluster, from the text of scontrol, sacctmgr and squeue."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trimode.pipeline.slurm.limits import Limits, cluster_limits, cluster_name
from trimode.tests.fakes.slurm import FakeSlurm, fake_slurm

pytestmark = pytest.mark.process
CONFIG = """Configuration data as of 2030-01-01T00:00:00
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = big
MaxArraySize            = 501
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = fake_slurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


def test_without_accounting_only_the_size_of_arrays_is_known(slurm: FakeSlurm) -> None:
    assert cluster_limits(None, None, None) == Limits(max_array_size=1001)
    assert cluster_name() == "fake"
    assert slurm.calls("sacctmgr") == []


def test_the_least_limit_of_association_and_qos_counts(slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", CONFIG)
    (slurm.folder / "sacctmgr").write_text(
        "#!/bin/sh\ncase $* in *qos*high*) echo 'high|40|' ;; *assoc*) echo 'us||100||normal'; "
        "echo 'us|night|7||normal'; echo 'them||5||' ;; esac\n"
    )
    slurm.states("1_0|RUNNING|\n1_1|PENDING|\n9|RUNNING|\n")
    limits = cluster_limits("us", "batch,backfill", "high")
    assert limits == Limits(max_array_size=501, max_submit=40, in_queue=3)
    assert limits.free == 37
    assert cluster_limits("us", "night", None).max_submit == 7


def test_a_cluster_that_does_not_answer_has_no_limits(slurm: FakeSlurm) -> None:
    (slurm.folder / "scontrol").write_text("#!/bin/sh\necho 'slurm_load_ctl_conf error' >&2; exit 1\n")
    assert cluster_limits("us", None, None) == Limits()
    assert cluster_name() == ""
