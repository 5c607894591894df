"""How many jobs a cluster takes: the largest array, and the jobs that a user may have waiting and running at once.

`scontrol show config` has the first. The second comes from the accounting, and is unknown where there is none.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimode.pipeline.slurm.cluster_facts import keeps_accounts, settings
from trimode.pipeline.slurm.commands import ask

QUERY_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What is known of a cluster's limits; None = no limit, or not known."""

    max_array_size: int | None = None
    """Most jobs of one array."""
    max_submit: int | None = None
    """Most jobs that the user may have waiting and running."""
    in_queue: int = 0
    """Jobs of the user that wait or run now; counted only where `max_submit` is known."""

    @property
    def free(self) -> int | None:
        """Jobs that may still be submitted."""
        return None if self.max_submit is None else max(0, self.max_submit - self.in_queue)


def cluster_limits(account: str | None, partition: str | None, qos: str | None) -> Limits:
    """Returns the limits of jobs with these settings. What the cluster does not say is no limit."""
    config = _config()
    size = config.get("MaxArraySize", "")
    max_array_size = int(size) if size.isdigit() and int(size) > 0 else None
    if not keeps_accounts(config):
        return Limits(max_array_size)
    max_submit = _max_submit(account, partition, qos)
    return Limits(max_array_size, max_submit, 0 if max_submit is None else _in_queue(account))


def cluster_name() -> str:
    """Returns the name of the cluster that commands speak with; empty if it does not answer."""
    return _config().get("ClusterName", "")


def _config() -> dict[str, str]:
    return settings(_output(["scontrol", "show", "config"]))


def _max_submit(account: str | None, partition: str | None, qos: str | None) -> int | None:
    """The least limit of the user's association and of the QOS; None if neither has one."""
    fields = "format=Account,Partition,MaxSubmitJobs,GrpSubmitJobs,DefaultQOS"
    found: list[str] = []
    for row in _rows(["show", "assoc", "where", f"user={getpass.getuser()}", fields]):
        if len(row) < 5 or (account is not None and row[0] != account):
            continue
        if row[1] and row[1] not in (partition or "").split(","):
            continue
        found += row[2:4]
        qos = qos or row[4] or None
    if qos is not None:
        for row in _rows(["show", "qos", qos, "format=Name,MaxSubmitPU,GrpSubmitJobs"]):
            found += row[1:3]
    return min((int(text) for text in found if text.isdigit()), default=None)


def _in_queue(account: str | None) -> int:
    """Jobs of this user that wait or run, each job of an array for itself."""
    of_account = [] if account is None else [f"--account={account}"]
    words = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}", *of_account]
    return len(_output(words).splitlines())


def _rows(words: Sequence[str]) -> Iterator[list[str]]:
    for line in _output(["sacctmgr", "--noheader", "--parsable2", *words]).splitlines():
        yield line.strip().split("|")


def _output(command: Sequence[str]) -> str:
    """What a command prints; nothing if it fails or is not there."""
    reply = ask(command, QUERY_TIMEOUT_S)
    return "" if reply.status else reply.out
