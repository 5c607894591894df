"""Slurm's commands as shell scripts on PATH. They answer like a cluster of two nodes unless a test says otherwise."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

CONFIG = """Configuration data as of 2026-11-26T05:47:30
AccountingStorageType   = accounting_storage/slurmdbd
MaxArraySize            = 1001
MaxJobCount             = 10000
"""
PARTITIONS = """PartitionName=main Default=YES MaxNodes=UNLIMITED MaxTime=1-00:00:00 Nodes=n[1-2] State=UP
PartitionName=short AllowAccounts=ALL Default=NO MaxNodes=1 MaxTime=00:30:00 Nodes=n1 State=UP
PartitionName=closed AllowAccounts=ALL Default=NO MaxNodes=1 MaxTime=UNLIMITED Nodes=n1 State=DOWN
"""
NODES = """NodeName=n1 CPUTot=64 Gres=gpu:h100:8(S:0-1) RealMemory=512000 State=IDLE Partitions=main,short,closed
NodeName=n2 CPUTot=64 Gres=gpu:h100:8(S:0-1) RealMemory=512000 State=MIXED+DRAIN Partitions=main
"""
SCONTROL = f"""case "$*" in
  *config) cat <<'END'\n{CONFIG}END\n;;
  *partition) cat <<'END'\n{PARTITIONS}END\n;;
  *node) cat <<'END'\n{NODES}END\n;;
  *) echo slurm 23.11.4 ;;
esac"""
READY = {
    "sbatch": '[ "$1" = --version ] && exec echo slurm 23.11.4\n'
    "cat > $0.script; echo 'sbatch: Job 7 to start at 2026-11-26T06:00:00 using 8 processors on nodes n1' >&2",
    "srun": '[ "$1" = --help ] && exec echo "  --container-image=[USER@][REGISTRY#]IMAGE"\necho slurm 23.11.4',
    "squeue": '[ "$1" = --version ] && exec echo slurm 23.11.4\nexit 0',
    "sacct": '[ "$1" = --version ] && exec echo slurm 23.11.4\nexit 0',
    "scontrol": SCONTROL,
    "sacctmgr": "echo 'us|normal|50|'",
    "scancel": "exit 0",
}


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str | None]) -> Path:
    """Makes the scripts, with `changes` in place of some (None: missing), and a PATH of them and of /usr/bin, /bin.

    Slurm's own commands, if this machine has them, are hidden by those of the fake that fail to be found.
    """
    folder.mkdir()
    for name, text in (READY | dict(changes)).items():
        if text is None:
            continue
        script = folder / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(stat.S_IRWXU)
    for tool in ("sh", "cat", "echo", "sleep", "grep", "sed", "env"):
        found = next(Path(place) / tool for place in ("/bin", "/usr/bin") if (Path(place) / tool).exists())
        if not (folder / tool).exists():
            (folder / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "HF_TOKEN"))]:
        monkeypatch.delenv(name)
    return folder
