"""Stand-ins for Slurm's commands: they note their arguments, keep the scripts, and answer from files."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

NOTE = 'echo "$@" >>{folder}/{name}.calls\n'
SBATCH = """
if [ "$(ls {folder} | grep -c '^script')" -ge "$(cat {folder}/most 2>/dev/null || echo 1000000)" ]; then
  cat {folder}/refuse >&2; exit 1
fi
n=$((101 + $(ls {folder} | grep -c '^script'))); cp "$1" {folder}/script$n; echo "Submitted batch job $n"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for i in $(seq 0 ${{last:-0}}); do
  echo "$n${{last:+_$i}}|PENDING|Priority" >>{folder}/states
done
"""
ANSWERS = "cat {folder}/{name}.answer 2>/dev/null; true\n"


@dataclass(frozen=True, slots=True)
class FakeSlurm:
    """A folder for the front of PATH."""

    folder: Path

    def calls(self, name: str) -> list[str]:
        """Arguments of each call of a command."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def scripts(self) -> list[str]:
        """Batch scripts in the order of their submission."""
        return [path.read_text() for path in sorted(self.folder.glob("script*"))]

    def answer(self, name: str, text: str) -> None:
        """Makes a command print a text."""
        (self.folder / f"{name}.answer").write_text(text)

    def refuse_after(self, number: int | None, message: str = "") -> None:
        """Makes sbatch refuse with a message once it has accepted a number of scripts; None: it accepts again."""
        (self.folder / "refuse").write_text(message)
        (self.folder / "most").write_text("1000000" if number is None else str(number))

    def states(self, text: str) -> None:
        """Sets what squeue knows: lines `id|STATE|reason`."""
        (self.folder / "states").write_text(text)


def fake_slurm(folder: Path) -> FakeSlurm:
    """Makes sbatch, srun, squeue, scontrol, sacctmgr and sacct. sbatch counts ids from 101; its jobs stay pending."""
    folder.mkdir()
    bodies = {
        "sbatch": SBATCH,
        "srun": "",
        "squeue": "cat {folder}/states 2>/dev/null; true\n",
        **dict.fromkeys(("scontrol", "sacctmgr", "sacct"), ANSWERS),
    }
    for name, body in bodies.items():
        path = folder / name
        path.write_text("#!/bin/bash\n" + (NOTE + body).format(folder=folder, name=name))
        path.chmod(stat.S_IRWXU)
    fake = FakeSlurm(folder)
    fake.answer(
        "scontrol",
        "AccountingStorageType   = accounting_storage/none\nClusterName             = fake\n"
        "MaxArraySize            = 1001\n",
    )
    return fake
