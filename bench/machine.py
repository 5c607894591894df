"""What a table has to say about the machine that it was measured on."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import torch

QUIET_SHARE = 0.05
"""Share of all cores that other programs may use on a machine called quiet."""
_LOOK_S = 2.0
"""Seconds for which the cores are watched."""


def cpu_model() -> str:
    """Returns the processor's name and the vector and matrix instructions that matter here."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found: dict[str, str] = dict(re.findall(r"^(model name|cpu family|model|flags)\s*: (.*)$", text, re.MULTILINE))
    if not found:
        return "unknown processor"
    flags = found.get("flags", "").split()
    wanted = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    name = found.get("model name", "unknown processor").strip()
    return f"{name} (family {found.get('cpu family')}, model {found.get('model')}; {', '.join(wanted) or 'no AVX2'})"


def busy_share(seconds: float = _LOOK_S) -> float | None:
    """Sleeps, and returns the share of all cores' time that programs, or other guests of the host, used meanwhile.

    None where the system does not count it.
    """
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None:
        return None
    spent = [end - start for start, end in zip(before, after, strict=True)]
    idle, total = spent[3] + spent[4], sum(spent[:8])  # idle and waiting for disks; guests are counted twice
    return 1 - idle / total if total else None


def _ticks() -> list[int] | None:
    path = Path("/proc/stat")
    if not path.exists():
        return None
    return [int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]


def verdict(share: float | None) -> str:
    """Returns what may be said of a machine of which others use this share."""
    if share is None:
        return "not known whether the machine was quiet"
    if share <= QUIET_SHARE:
        return f"the machine was quiet: others used {share:.1%} of the cores"
    return f"NOT a quiet machine: others used {share:.1%} of the cores, more than {QUIET_SHARE:.0%}"


def print_load(when: str) -> None:
    """Prints the load averages and the verdict. The averages of one minute also hold what ran a minute ago.

    Args:
        when: "before" or "after"; nothing of ours may run meanwhile.
    """
    loads = " ".join(f"{load:.2f}" for load in os.getloadavg())
    print(f"{when}: {verdict(busy_share())}; load average {loads}", flush=True)


def print_machine() -> None:
    """Prints the processor, threads and load; call it before anything is measured."""
    print(f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print_load("before")
