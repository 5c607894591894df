"""What a table has to say about the machine that it was measured on, and what the machine can do."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from trimode.bench.rivals import time_steps
from trimode.kernels import linear

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


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine can do, measured in this run."""

    data: torch.Tensor
    """Data to stream when memory bandwidth is measured; larger than any cache."""
    flop_per_s: float
    """Rate of `F.linear` in bfloat16."""
    own_flop_per_s: float
    """Rate of the engine's own product of the same matrices."""

    def read_s(self, num_bytes: int) -> float:
        """Seconds to stream `num_bytes` from memory with all threads, measured now."""
        began = time.perf_counter()
        self.data.sum()
        return (time.perf_counter() - began) * num_bytes / self.data.nbytes


def measure_machine(size: int, repeats: int) -> Machine:
    """Measures products of 1024 x 4096 by 4096 x 4096 in bfloat16; keeps `size` MiB to measure bandwidth later."""
    x, weight = torch.randn(1024, 4096).bfloat16(), torch.randn(4096, 4096).bfloat16()
    own = linear.prepare(weight)
    flop = 2 * 1024 * 4096 * 4096
    plain_s = median(time_steps(lambda: F.linear(x, weight), repeats))
    own_s = median(time_steps(lambda: linear.apply(x, own), repeats))
    return Machine(torch.ones(size << 18), flop / plain_s, flop / own_s)
