"""Section: what the machine is. Its settings are read, never changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys

import torch
from trimode.bench.gpu.context import Bench
from trimode.core.project import PROJECT_DIR

ASKED = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.draw", "power.limit",
    "temperature.gpu", "utilization.gpu", "memory.used", "memory.total", "persistence_mode",
)  # fmt: skip
PACKAGES = ("torch", "triton", "transformers", "safetensors", "numpy")


def run(bench: Bench) -> None:
    """Notes the facts."""
    for name, value in (
        ("python", f"{sys.version.split()[0]} on {platform.platform()}"),
        ("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)),
        ("CUDA of torch", torch.version.cuda or "none"),
        ("commit", _said(["git", "-C", str(PROJECT_DIR), "rev-parse", "HEAD"])),
        ("CPU", f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"),
    ):
        bench.note("fact", f"{name}: {value}")
    if bench.device.type != "cuda":
        return
    found = torch.cuda.get_device_properties(bench.device)
    bench.note(
        "fact",
        f"card: {found.name}, sm_{found.major}{found.minor}, {found.multi_processor_count} multiprocessors, "
        f"{found.total_memory / 2**30:.1f} GiB, L2 {found.L2_cache_size / 2**20:.0f} MiB",
    )
    said = _said(["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"])
    bench.note("fact", "nvidia-smi: " + ", ".join(map(" ".join, zip(ASKED, said.split(", "), strict=False))))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
