"""Facts of a cluster in the output of scontrol: settings, and with `-o` partitions and nodes, a line each.

An unknown or odd value is None, which stands for no limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

UNUSABLE = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "INVAL", "MAINT", "POWERED_DOWN")
"""What the state of a node holds on which no job starts now."""


WITHOUT_ACCOUNTS = ("accounting_storage/none", "(null)", "")
"""What AccountingStorageType is on a cluster that keeps no accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A queue of the cluster."""

    name: str
    is_default: bool
    state: str
    max_minutes: int | None
    max_nodes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster."""

    name: str
    partitions: tuple[str, ...]
    gpus: int
    cpus: int
    memory_mb: int
    usable: bool
    """False for a node that is down, drained or failing."""


def settings(text: str) -> dict[str, str]:
    """Returns the settings in the output of `scontrol show config`."""
    found = (re.fullmatch(r"(\w+)\s*=\s*(.*)", line.strip()) for line in text.splitlines())
    return {match[1]: match[2].strip() for match in found if match}


def keeps_accounts(known: Mapping[str, str]) -> bool:
    """True if a cluster with these settings has associations and QOS, which may limit a user's jobs."""
    return known.get("AccountingStorageType", "") not in WITHOUT_ACCOUNTS


def partitions(text: str) -> list[Partition]:
    """Returns the partitions in the output of `scontrol -o show partition`."""
    return [
        Partition(
            name=fields["PartitionName"],
            is_default=fields.get("Default") == "YES",
            state=fields.get("State", ""),
            max_minutes=minutes(fields.get("MaxTime", "")),
            max_nodes=_count(fields.get("MaxNodes", "")),
        )
        for fields in _lines(text)
        if "PartitionName" in fields
    ]


def nodes(text: str) -> list[Node]:
    """Returns the nodes in the output of `scontrol -o show node`."""
    return [
        Node(
            name=fields["NodeName"],
            partitions=tuple(fields.get("Partitions", "").split(",")),
            gpus=gpus(fields.get("Gres", "")),
            cpus=_count(fields.get("CPUTot", "")) or 0,
            memory_mb=_count(fields.get("RealMemory", "")) or 0,
            usable=not any(word in fields.get("State", "") for word in UNUSABLE),
        )
        for fields in _lines(text)
        if "NodeName" in fields
    ]


def gpus(gres: str) -> int:
    """Returns the number of GPUs in a node's Gres: `gpu:8`, `gpu:h100:4(S:0-1),gpu:a100:2`; 0 for none."""
    bare = re.sub(r"\([^)]*\)", "", gres)
    found = (re.fullmatch(r"gpu(?::[^:,]+)??(?::(\d+))?", item.strip()) for item in bare.split(","))
    return sum(int(match[1] or 1) for match in found if match)


def minutes(text: str) -> int | None:
    """Returns the minutes in a limit as Slurm prints it (`D-HH:MM:SS`, `HH:MM:SS`); None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, mins, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + mins) + (seconds > 0)


def _count(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _lines(text: str) -> Iterator[dict[str, str]]:
    """Yields the `Name=value` pairs of each line."""
    for line in text.splitlines():
        yield dict(re.findall(r"(\w+)=(\S*)", line))
